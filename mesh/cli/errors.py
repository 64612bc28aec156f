"""`mesh errors`: what keeps failing."""

from __future__ import annotations

import msgspec

from mesh.cli.columns import folded
from mesh.cli.words import span_text
from mesh.config import Address
from mesh.decoding import json_of, utf8
from mesh.errors import printable
from mesh.status import ErrorRow, Errors
from mesh.transport.client import node_client


async def errors(node: Address, *, retry: bool, as_json: bool) -> bool:
    """Print all of it; whether there is nothing."""
    async with node_client(node) as client:
        raw = bytes(await client.errors(msgspec.Raw, retry=retry))
    found = json_of(Errors).read(raw)
    print(utf8(raw).rstrip() if as_json else "\n".join(lines(found)))
    return not found.errors and not found.more


def lines(found: Errors) -> list[str]:
    """At most 80 columns each: what fails, and below it with whom, how often, when, why."""
    if not found.errors and not found.more:
        return ["nothing keeps failing"]
    shown: list[str] = []
    for row in found.errors:
        what = row.digest or f"peer {printable(row.peer or '?')}"
        shown += [*folded(what, "  "), *folded(f"  {_how(row)}", "    ")]
    if found.more:
        shown.append(f"and {found.more} more")
    return shown


def _how(row: ErrorRow) -> str:
    said = []
    if row.digest is not None and row.peer is not None:
        said.append(f"from {row.peer}" if row.missing == "here" else f"to {row.peer}")
    if row.tries is not None:
        said.append("1 try" if row.tries == 1 else f"{row.tries} tries")
    if row.first_seconds_ago is not None:
        span = span_text(row.first_seconds_ago)
        said.append(f"for {span}" if row.tries is None else f"first {span} ago")
    if row.last_seconds_ago is not None:
        said.append(f"last {span_text(row.last_seconds_ago)} ago")
    return f"{printable(', '.join(said))}: {printable(row.reason)}"
