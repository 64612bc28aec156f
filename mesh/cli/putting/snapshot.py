"""The snapshot of a tree that is put: what is known of it before, and the blob at the end."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import msgspec

from mesh.cli.absolute import absolute
from mesh.cli.putting.printing import Printer
from mesh.core.digest import Digest, digest_of
from mesh.core.manifest import Entry, File
from mesh.core.snapshot import MAX_COUNT, MAX_HOST, Snapshot, encode
from mesh.dates import rfc3339_milliseconds
from mesh.errors import printable
from mesh.transport.client import NodeClient, checked


def begun(path: str, tag: str | None, host: str | None, now: float) -> Snapshot:
    """The snapshot of a tree whose put begins now, without what is only known at its end.

    `now`: seconds since 1970; `host`: None for what this machine calls itself. InputError for a
    path, a tag or a host that a snapshot has no room for, or that cannot stand in one.
    """
    # As large as it can become, so that what is too long is refused before anything is sent.
    snapshot = Snapshot(
        manifest=Digest(bytes(32)),
        host=host if host is not None else _host(),
        path=absolute(path),
        time=rfc3339_milliseconds(now),
        files=MAX_COUNT,
        bytes=MAX_COUNT,
        tag=tag,
    )
    encode(snapshot)
    return snapshot


async def put_snapshot(
    client: NodeClient,
    printer: Printer,
    begun: Snapshot,
    manifest: Digest,
    entries: Sequence[Entry],
    place: bytes,
) -> None:
    """Put the snapshot of a manifest that is durable, and print its line: PLACE@TIME."""
    sizes = [entry.size for entry in entries if isinstance(entry, File)]
    whole = msgspec.structs.replace(begun, manifest=manifest, files=len(sizes), bytes=sum(sizes))
    data = encode(whole)
    checked(await client.put_stream(data, len(data)), digest_of(data))
    printer.snapshot(digest_of(data), place, whole.time)


def _host() -> str:
    """What this machine calls itself, as far as that can stand in a snapshot."""
    # A name has up to 64 bytes on Linux; escaped ones may become longer than a snapshot takes.
    name = printable(socket.gethostname()).replace("/", "-")
    return name[:MAX_HOST] or "localhost"
