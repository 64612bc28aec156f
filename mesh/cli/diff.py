"""`mesh diff`: which blobs a node and its peer do not both have."""

from __future__ import annotations

import sys
from contextlib import aclosing

import msgspec

from mesh.cli.forms import Form
from mesh.cli.objects import Rows, print_summary
from mesh.cli.words import count_text
from mesh.config import Address
from mesh.errors import Misbehaved, PeerError, one_line, printable
from mesh.status import DiffEnd
from mesh.transport.client import NodeClient, node_client

EQUAL, DIFFERENT, NOT_COMPARED = 0, 1, 3
"""Exit codes; 2 is a wrong use of the command."""


class _Only(msgspec.Struct, frozen=True):
    digest: str
    only: str  # here or there


async def diff(node: Address, peer: str, form: Form, *, count: bool) -> int:
    """A line for each blob that one side has alone, unless only the `count` is wanted; the code."""
    rows = Rows(form, "diff", "blob", "blobs")
    async with node_client(node) as client:
        try:
            end = await _told(client, peer, None if count else rows, form)
        except PeerError as error:  # 1 says that they differ, so it says nothing else
            print(
                f"mesh: cannot compare with {printable(peer)}: {one_line(error)}", file=sys.stderr
            )
            return NOT_COMPARED
    _print_end(end, None if count else rows, form)
    if not end.proven:
        return NOT_COMPARED
    return DIFFERENT if end.only_here or end.only_there else EQUAL


async def _told(client: NodeClient, peer: str, rows: Rows | None, form: Form) -> DiffEnd:
    """Print what differs as it is found, unless `rows` is None; the end."""
    async with aclosing(client.diff(peer)) as lines:
        async for line in lines:
            if line.end is not None:
                return line.end
            if rows is not None:
                _print(line.here, "here", rows, form)
                _print(line.there, "there", rows, form)
    raise Misbehaved(f"{client.place} broke off the comparison; try again")


def _print(digests: list[str], only: str, rows: Rows, form: Form) -> None:
    if form.machine:
        for digest in digests:
            rows.add(_Only(digest, only))
    elif digests:
        sign = "<" if only == "here" else ">"
        print("\n".join(f"{sign} {printable(digest)}" for digest in digests))


def _print_end(end: DiffEnd, rows: Rows | None, form: Form) -> None:
    if not form.machine:
        print(_said(end))
    elif rows is None:
        print_summary("diff", **msgspec.structs.asdict(end))
    else:
        rows.finish(**msgspec.structs.asdict(end))


def _said(end: DiffEnd) -> str:
    name = printable(end.peer)
    if not end.proven:
        found = f"{count_text(end.only_here, 'blob')} only here, {end.only_there} only there"
        why = printable(end.reason or "?")
        return f"{name}: not compared to the end ({why}); found so far: {found}"
    if not end.only_here and not end.only_there:
        return f"{name}: equal"
    return f"{name}: {count_text(end.only_here, 'blob')} only here, {end.only_there} only there"
