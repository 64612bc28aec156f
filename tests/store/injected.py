"""A process that puts one blob into a store, for tests that make its system calls fail.

It has imported everything, and forks for each order on standard input (`DIRECTORY KIND`): the fork
opens the store, says so with its process id, waits to be traced, puts, and ends with an exit code
that says what became of it. No system call but the store's own writes anything meanwhile.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio

from mesh.core.digest import digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.errors import Full, StoreError
from mesh.offload import Inline
from mesh.store.base import Blob
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles

BLOBS = {"small": b"a small blob " * 20, "large": b"a large blob " * (LARGE_BLOB // 13 + 1)}

STORED, FAILED, FULL = 10, 11, 12


def over(directory: Path) -> DiskStore:
    files = DiskFiles(directory)
    return DiskStore(files, directory / "index.sqlite", lambda _: Inline(), Inline())


async def put(store: DiskStore, data: bytes) -> None:
    """As a node does it."""
    if len(data) < LARGE_BLOB:
        await store.commit([Blob(digest_of(data), data)])
        return
    async with store.incoming() as arriving:
        await arriving.write(data)
        await store.commit([await arriving.finish()])


async def one(directory: Path, kind: str) -> int:
    """Open, wait for a byte, put; the exit code."""
    store = over(directory)
    await store.open()
    os.write(1, f"{os.getpid()}\n".encode())
    os.read(0, 1)
    try:
        await put(store, BLOBS[kind])
    except Full:
        return FULL
    except StoreError:
        return FAILED
    return STORED


def main() -> None:
    while order := _line():
        directory, _, kind = order.partition(" ")
        if not (child := os.fork()):
            os._exit(anyio.run(one, Path(directory), kind))
        _, status = os.waitpid(child, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _line() -> str:
    """A line without reading ahead: the next byte is the fork's."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()


if __name__ == "__main__":
    sys.exit(main())
