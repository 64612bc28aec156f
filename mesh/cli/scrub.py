"""`mesh scrub`: what a scrub is told, and how it stands."""

from __future__ import annotations

from functools import partial

import anyio
import msgspec

from mesh.cli.progress import Progress
from mesh.cli.teller import Teller
from mesh.cli.words import size_text
from mesh.config import Address
from mesh.core.scrub import Pass
from mesh.decoding import utf8
from mesh.status import ScrubStatus
from mesh.transport.client import NodeClient, node_client

# Seconds from one look to the next.
_LOOK = 1.0


async def scrub(address: Address, verb: str | None, *, as_json: bool) -> None:
    """Tell the scrub what to do, and how it stands then."""
    async with node_client(address) as client:
        if as_json:
            print(utf8(bytes(await client.scrub(verb, msgspec.Raw))))
            return
        stands = await client.scrub(verb, ScrubStatus)
    read = stands.now
    found = f"{read.blobs} of {stands.blobs} blobs ({size_text(read.bytes)}) read"
    print(f"scrub: {stands.state}; {found}, {read.damaged} damaged in this pass")
    print(f"at up to {size_text(stands.bytes_per_second)} a second; passes done: {stands.passes}")
    if stands.next_seconds is not None:
        print(f"the next pass begins in {stands.next_seconds / 3600:.1f} hours")


async def follow(address: Address, teller: Teller) -> bool:
    """Start a pass, or go on with the one under way, and wait for its end.

    Whether it found no damage. When this is cancelled, the scrub goes on.
    """
    async with node_client(address) as client:
        try:
            done = await teller.over(partial(_followed, client, teller))
        except anyio.get_cancelled_exc_class():
            teller.note("the scrub goes on; `mesh scrub status` shows it")
            raise
    teller.said(f"scrub: {done.blobs} blobs ({size_text(done.bytes)}) read, {done.damaged} damaged")
    teller.ended(
        ok=not done.damaged,
        blobs=done.blobs,
        bytes=done.bytes,
        damaged=done.damaged,
        pass_seconds=done.seconds,
    )
    return not done.damaged


async def _followed(client: NodeClient, teller: Teller) -> Pass:
    """What the pass read that is under way now, once it is over."""
    stands = await client.scrub("start", ScrubStatus)
    passes = stands.passes
    while stands.passes == passes:
        now = stands.now
        what = "reading" if stands.state == "running" else f"reading ({stands.state})"
        teller.update(Progress(what, now.blobs, stands.blobs, now.bytes, stands.bytes))
        await anyio.sleep(_LOOK)
        stands = await client.scrub(None, ScrubStatus)
    return stands.before or stands.now
