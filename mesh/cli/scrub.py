"""`mesh scrub`: what a scrub is told, and how it stands."""

from __future__ import annotations

import msgspec

from mesh.cli.words import size_text
from mesh.config import Address
from mesh.decoding import utf8
from mesh.status import ScrubStatus
from mesh.transport.client import node_client


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
