"""From the name of a tree to its manifest, whatever names it.

A tree is named by the digest of a snapshot or of a manifest, by a prefix of one, or by
`latest:HOST/PATH`: the newest snapshot of that directory that the node knows.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from mesh.cli.exclude import inclusion
from mesh.cli.naming import NotHere, digest_named
from mesh.cli.trees import Asked, asked
from mesh.core.digest import Digest, new_hasher, parse_digest
from mesh.core.manifest import MAX_BYTES, Entry, Manifest, decode
from mesh.core.snapshot import Snapshot, recognised
from mesh.errors import Corrupt, InputError, MeshError, printable
from mesh.transport.client import NodeClient

LATEST = "latest:"


def _unseen(_done: int, _size: int | None) -> None:
    """Nobody wants to know."""


class Tree(NamedTuple):
    """A manifest and its digest; the snapshot by which it was named, if it was."""

    digest: Digest
    manifest: Manifest
    snapshot: Snapshot | None


async def tree_named(
    client: NodeClient, text: str, reading: Callable[[int, int | None], None] = _unseen
) -> Tree:
    """The tree that a person named.

    `reading` is told how many bytes of the manifest have come, and of how many.
    InputError for what names no tree, NotHere when there is none of that name.
    """
    if text.startswith(LATEST):
        digest = await _latest(client, text)
    elif ":" in text:
        hint = "--include restores a part of it; without --tree, one file is fetched"
        raise InputError(f"{printable(text)} is no whole tree: {hint}")
    else:
        digest = await digest_named(client, text)
    data = await whole(client, digest, reading)
    snapshot = recognised(data)
    if snapshot is not None:
        digest = snapshot.manifest
        data = await whole(client, digest, reading)
    return Tree(digest, decode(data), snapshot)


def split_inside(text: str) -> tuple[str, str | None]:
    """TREE:path/inside apart; None when there is no path inside.

    The path begins after the first colon; in `latest:HOST/PATH:inside`, after the second one.
    """
    head = LATEST if text.startswith(LATEST) else ""
    tree, colon, inside = text[len(head) :].partition(":")
    return head + tree, inside if colon else None


def wanted_of(text: str) -> Asked:
    """What `latest:HOST/PATH` asks for; without a HOST, from any.

    "/" alone is a PATH: the root directory, and not any directory.
    """
    host, slash, path = text.removeprefix(LATEST).partition("/")
    if not host and not slash:
        raise InputError(f"{printable(text)} names no tree; expected latest:HOST/PATH")
    return asked(host=host or None, path=slash + path if slash else None, most=1)


async def _latest(client: NodeClient, text: str) -> Digest:
    wanted = wanted_of(text)
    found = client.snapshots(host=wanted.host, path=wanted.path, most=1)
    async for snapshot in found:
        return parse_digest(snapshot.digest)
    raise NotHere(f"no snapshot on {client.place} is of {printable(text)}; see `mesh trees`")


def selected(manifest: Manifest, globs: Sequence[str]) -> Manifest:
    """What `globs` match, with what is below it, and the directories on the way there.

    MeshError when that is nothing.
    """
    included = inclusion(globs)
    kept: list[Entry] = []
    way: set[bytes] = set()
    for entry in reversed(manifest.entries):  # so that a directory comes after what is in it
        path = entry.path
        if included(path) or path in way:
            kept.append(entry)
            way.add(path.rpartition(b"/")[0])
    if not kept:
        raise MeshError("nothing in the tree matches --include")
    return Manifest(tuple(reversed(kept)))


def entry_at(tree: Tree, inside: str) -> Entry:
    """The entry of a path in a tree; NotHere when it has none."""
    path = os.fsencode(inside).strip(b"/")
    for entry in tree.manifest.entries:
        if entry.path == path:
            return entry
    raise NotHere(f"{printable(inside)} is not in the tree of manifest {tree.digest.hex()}")


# --- bytes ---------------------------------------------------------------------------------------


async def whole(
    client: NodeClient, digest: Digest, reading: Callable[[int, int | None], None] = _unseen
) -> bytes:
    """A blob of a manifest's size at most, checked; InputError for a longer one."""
    pieces: list[bytes] = []
    size = 0
    reading(0, None)
    async with client.get(digest) as chunks:
        async for chunk in checked_chunks(digest, chunks):
            size += len(chunk)
            if size > MAX_BYTES:
                raise InputError(f"blob {digest.hex()} is no tree manifest: it is too long")
            pieces.append(chunk)
            reading(size, chunks.size)
    return b"".join(pieces)


async def checked_chunks(digest: Digest, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks; Corrupt at their end when they were not the blob."""
    hasher = new_hasher()
    async for chunk in chunks:
        hasher.update(chunk)
        yield chunk
    if hasher.digest() != digest:
        raise Corrupt(f"what came as blob {digest.hex()} is {hasher.digest().hex()}")
