"""`mesh ls`: which blobs a node has."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mesh.cli.forms import Form
from mesh.config import Address
from mesh.transport.client import ListedBlob, node_client

# The object of `--json` is written as it comes: a listing of ten million blobs is never held whole.
_HEAD = '{"event":"summary","command":"ls","blobs":['
_FOOT = '],"count":%d,"bytes":%d}'

_LAST = '{"event":"summary","command":"ls","count":%d,"bytes":%d}'


async def ls(node: Address, prefix: str, form: Form) -> None:
    """A line for each blob: digest and size. As JSON one object, or an object a line."""
    count = size = 0
    show = _shown(form)
    async with node_client(node) as client:
        if form.json:
            print(_HEAD, end="")
        async for blob in client.listing(prefix):
            print(show(blob, count), end="" if form.json else "\n")
            count += 1
            size += blob.size
    if form.machine:
        print((_FOOT if form.json else _LAST) % (count, size))


def _shown(form: Form) -> Callable[[ListedBlob, int], str]:
    """What is written of a blob before which so many were written."""
    if form.json:
        return lambda blob, before: ("," if before else "") + _json(blob)
    if form.lines:
        return lambda blob, _: f'{{"event":"blob",{_json(blob)[1:]}'
    return lambda blob, _: f"{blob.digest} {blob.size:>12}"


def _json(blob: ListedBlob) -> str:
    return msgspec.json.encode(blob).decode()
