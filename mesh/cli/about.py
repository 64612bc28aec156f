"""`mesh show`: what a blob is, where it is stored, and when it came."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from mesh.cli.naming import NotHere, digest_named
from mesh.cli.objects import print_summary
from mesh.cli.tree import checked_chunks
from mesh.cli.trees import told
from mesh.cli.words import size_text
from mesh.config import Address
from mesh.core.digest import Digest
from mesh.core.manifest import MAX_BYTES, Manifest, decode
from mesh.core.snapshot import Snapshot, recognised
from mesh.core.spelling import spelled
from mesh.errors import InputError
from mesh.status import PlaceAnswer
from mesh.transport.client import NodeClient, node_client

# How a manifest begins: its keys are sorted.
_BEGINNING = b'{"entries":['


class _Content(NamedTuple):
    """What a blob turned out to be; both None for any blob."""

    manifest: Manifest | None = None
    snapshot: Snapshot | None = None


async def show(node: Address, name: str, *, as_json: bool) -> None:
    """A few lines about one blob, or one JSON object."""
    async with node_client(node) as client:
        digest = await digest_named(client, name)
        place = await client.placed(digest)
        if place is None:
            raise NotHere(f"blob {digest.hex()} is not on {client.place}")
        content = await _content(client, digest, place.size)
    if as_json:
        print_summary("show", **_object(place, content))
        return
    for field, value in _lines(place, content):
        print(f"{field:<11} {value}")


async def _content(client: NodeClient, digest: Digest, size: int) -> _Content:
    """What it is, by its bytes; no more of them are fetched than it takes to tell."""
    if size > MAX_BYTES:
        return _Content()
    data = bytearray()
    async with client.get(digest) as chunks:
        async for chunk in checked_chunks(digest, chunks):
            data += chunk
            if not _BEGINNING.startswith(bytes(data[: len(_BEGINNING)])) and len(data) > 4096:
                return _Content()
    snapshot = recognised(bytes(data))
    if snapshot is not None or not data.startswith(_BEGINNING):
        return _Content(snapshot=snapshot)
    try:
        return _Content(manifest=decode(bytes(data)))
    except InputError:
        return _Content()  # it only begins as one


def _minute(came: str) -> str:
    return f"{came[:16].replace('T', ' ')} UTC"


def _kind(content: _Content) -> str:
    if content.manifest is not None:
        return "manifest"
    return "snapshot" if content.snapshot is not None else "blob"


def _counts(manifest: Manifest) -> dict[str, int]:
    files = list(manifest.files())
    return {
        "files": len(files),
        "bytes": sum(file.size for file in files),
        "directories": sum(1 for _ in manifest.directories()),
        "links": sum(1 for _ in manifest.links()),
    }


def _lines(place: PlaceAnswer, content: _Content) -> list[tuple[str, str]]:
    stored = place.file if place.offset is None else f"{place.file} at {place.offset}"
    lines = [
        ("digest", place.digest),
        ("size", f"{place.size} bytes, {size_text(place.size)}"),
        ("kind", _kind(content)),
        ("stored", stored),
        (
            "came",
            _minute(place.came) if place.came else "? (before the index was made that knows it)",
        ),
    ]
    if place.pieces is not None:
        lines.append(("pieces", f"{place.pieces} of 512 KiB"))
    if content.manifest is not None:
        counts = _counts(content.manifest)
        lines.append(("files", f"{counts['files']}, {size_text(counts['bytes'])}"))
        lines += [(key, str(counts[key])) for key in ("directories", "links")]
    return lines + (told(content.snapshot) if content.snapshot is not None else [])


def _object(place: PlaceAnswer, content: _Content) -> dict[str, Any]:
    found: dict[str, Any] = {**msgspec.structs.asdict(place), "kind": _kind(content)}
    if content.manifest is not None:
        found["manifest"] = _counts(content.manifest)
    if content.snapshot is not None:
        said = msgspec.structs.asdict(content.snapshot)
        said["path"], said["path_hex"] = spelled(content.snapshot.path)
        said["manifest"] = content.snapshot.manifest.hex()
        found["snapshot"] = {
            key: value
            for key, value in said.items()
            if value is not None and value is not msgspec.UNSET
        }
    return found
