"""What is measured with: blobs of a seed, or of real files, straight into a data directory."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from random import Random

from mesh.core.digest import digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.offload import Lane, Threads
from mesh.store.base import Blob, Item
from mesh.store.directory import DataDirectory
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles

_BATCH_BYTES = 8 * 1024 * 1024
_BATCH_BLOBS = 4000
_PIECE = 1024 * 1024


def random_blobs(count: int, size: int, seed: int = 1) -> Iterator[bytes]:
    """`count` different blobs of `size` bytes."""
    source = Random(seed)  # noqa: S311 - test data
    for number in range(count):
        yield number.to_bytes(8, "big")[-size:] + source.randbytes(max(0, size - 8))


def file_blobs(directory: Path) -> Iterator[bytes]:
    """The regular files below a directory."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path.read_bytes()


async def fill(directory: Path, blobs: Iterable[bytes]) -> None:
    """Store blobs before any node runs on `directory`."""
    async with _claimed(directory) as store:
        batch: list[Item] = []
        held = 0
        for data in blobs:
            if len(data) >= LARGE_BLOB:
                await _large(store, data)
                continue
            batch.append(Blob(digest_of(data), data))
            held += len(data)
            if held >= _BATCH_BYTES or len(batch) >= _BATCH_BLOBS:
                await store.commit(batch)
                batch, held = [], 0
        await store.commit(batch)


async def fill_one(directory: Path, size: int, seed: int = 1) -> None:
    """Store one blob of `size` bytes, never held whole, before any node runs on `directory`."""
    source = Random(seed)  # noqa: S311 - test data
    async with _claimed(directory) as store, store.incoming() as incoming:
        for at in range(0, size, _PIECE):
            await incoming.write(source.randbytes(min(_PIECE, size - at)))
        await store.commit([await incoming.finish()])


def photos(directory: Path, total: int, seed: int = 1) -> None:
    """Files of 3 to 8 MB that no compression helps, `total` bytes in all, a hundred a directory."""
    source = Random(seed)  # noqa: S311 - test data
    number = 0
    while total > 0:
        size = min(total, source.randint(3_000_000, 8_000_000))
        path = directory / f"{number // 100:03d}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.randbytes(size))
        number += 1
        total -= size


@asynccontextmanager
async def _claimed(directory: Path) -> AsyncIterator[DiskStore]:
    claimed = DataDirectory.claim(directory)
    store = DiskStore(DiskFiles(directory), directory / "index.sqlite", Lane, Threads(2))
    await store.open()
    try:
        yield store
    finally:
        await store.close()
        claimed.release()


async def _large(store: DiskStore, data: bytes) -> None:
    async with store.incoming() as incoming:
        for at in range(0, len(data), _PIECE):
            await incoming.write(data[at : at + _PIECE])
        await store.commit([await incoming.finish()])


def copy(source: Path, target: Path) -> None:
    """The same blobs in another node's directory."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("node.json", "lock"))


async def as_files(source: Path, target: Path) -> int:
    """The blobs of a data directory as files, for tools that know only these; their number.

    256 directories by the first two hex digits, as content-addressed stores on files do it.
    """
    store = DiskStore(DiskFiles(source), source / "index.sqlite", Lane, Threads(2))
    await store.open()
    count = 0
    try:
        for digest in await store.tree():
            name = digest.hex()
            path = target / name[:2] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            size = await store.size(digest) or 0
            with path.open("wb") as out:
                async with aclosing(store.stream(digest, 0, size)) as pieces:
                    async for piece in pieces:
                        out.write(piece)
            count += 1
    finally:
        await store.close()
    return count
