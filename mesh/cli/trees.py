"""`mesh trees`: the snapshots that a node knows of; and how they are asked for."""

from __future__ import annotations

import os

import msgspec

from mesh.cli.absolute import absolute
from mesh.cli.forms import Form
from mesh.cli.objects import Rows
from mesh.cli.words import size_text
from mesh.config import Address
from mesh.core.snapshot import Snapshot
from mesh.decoding import from_hex
from mesh.errors import InputError, printable
from mesh.status import SnapshotAnswer
from mesh.transport.client import node_client

# Of a digest in the table: enough to be told from the others, and to be copied.
_DIGITS = 12


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Which snapshots a person asks for; None: any. `path` is absolute."""

    host: str | None = None
    path: bytes | None = None
    tag: str | None = None
    most: int | None = None


def asked(
    host: str | None = None,
    path: str | None = None,
    tag: str | None = None,
    most: int | None = None,
) -> Asked:
    """The same, of what was typed: a path is taken from here on. InputError for what is no text.

    Whatever `put` takes as a host or a tag can be asked for, also what a terminal does not show.
    """
    for name, value in (("--host", host), ("--tag", tag)):
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            raise InputError(f"{name} is {value!a:.80}; expected text in UTF-8") from None
    from_root = absolute(path) if path is not None else None
    return Asked(host=host, path=from_root, tag=tag, most=most)


async def trees(node: Address, wanted: Asked, form: Form) -> None:
    """A line for each snapshot, the newest first; or as JSON."""
    rows = Rows(form, "trees", "snapshot", "snapshots")
    async with node_client(node) as client:
        found = client.snapshots(
            host=wanted.host, path=wanted.path, tag=wanted.tag, most=wanted.most
        )
        async for snapshot in found:
            rows.add(snapshot)
            if not form.machine:
                print(_line(snapshot))
    rows.finish()


def _line(snapshot: SnapshotAnswer) -> str:
    """Time, the first digits, files, size, host and path as `latest:` takes them, and the tag."""
    path = snapshot.path
    if path is None:
        path = os.fsdecode(from_hex(snapshot.path_hex or ""))
    time = snapshot.time[:19].replace("T", " ")
    count = f"{snapshot.files:>9} {size_text(snapshot.bytes):>10}"
    tag = f"  ({printable(snapshot.tag)})" if snapshot.tag is not None else ""
    place = printable(snapshot.host + path)
    return f"{time}  {snapshot.digest[:_DIGITS]} {count}  {place}{tag}"


def told(snapshot: Snapshot) -> list[tuple[str, str]]:
    """The fields of a snapshot for people: names and values, nothing of them raw."""
    fields = [
        ("time", snapshot.time),
        ("host", printable(snapshot.host)),
        ("path", printable(os.fsdecode(snapshot.path))),
        ("tag", printable(snapshot.tag) if snapshot.tag is not None else ""),
        ("files", f"{snapshot.files}, {size_text(snapshot.bytes)}"),
        ("manifest", snapshot.manifest.hex()),
    ]
    return [(name, value) for name, value in fields if value]
