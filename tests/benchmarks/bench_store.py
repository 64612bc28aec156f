"""What verifying costs: writing, reading, the tree, a scrub, in CPU time of one core.

python tests/benchmarks/bench_store.py [BLOBS]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from mesh.core.digest import digest_of
from mesh.offload import Inline
from mesh.store.base import Blob, Cursor
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles

LARGE_MIB = 256


@contextmanager
def measured(what: str, amount: float, unit: str) -> Iterator[None]:
    began = time.process_time()
    yield
    seconds = time.process_time() - began
    print(f"{what:<28} {amount / seconds:>9.0f} {unit} a second  ({seconds:.2f} s)")


async def main(blobs: int, root: Path) -> None:
    store = DiskStore(DiskFiles(root), root / "index.sqlite", lambda _: Inline(), Inline())
    await store.open()
    contents = [b"%d " % number * 500 for number in range(blobs)]
    items = [Blob(digest_of(data[:4096]), data[:4096]) for data in contents]
    with measured("small blobs, 1,000 a commit", blobs, "blobs"):
        for at in range(0, blobs, 1000):
            await store.commit(items[at : at + 1000])
    size = (root / "index.sqlite").stat().st_size
    print(f"{'index':<28} {size / blobs:>9.0f} bytes a blob")
    with measured("the tree, index checked", blobs, "blobs"):
        await store.tree()
    names = [item.digest for item in items]
    with measured("batches of 256", blobs, "blobs"):
        while names:
            names = names[len(await store.batch(names, 2**20)) :]
    data = os.urandom(LARGE_MIB * 2**20)
    with measured("a large blob in", LARGE_MIB, "MiB"):
        async with store.incoming() as arriving:
            for at in range(0, len(data), 2**19):
                await arriving.write(data[at : at + 2**19])
            item = await arriving.finish()
            await store.commit([item])
    with measured("a large blob out", LARGE_MIB, "MiB"):
        async for _ in store.stream(item.digest, 0, item.size):
            pass
    with measured("a scrub, unpaced", store.totals.bytes / 2**20, "MiB"):
        cursor: Cursor | None = Cursor()
        while cursor is not None:
            cursor = (await store.scrub(cursor, 2**20)).cursor
    await store.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as base:
        anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, Path(base))
