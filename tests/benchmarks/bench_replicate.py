"""How fast an empty node is filled: real processes, real HTTP on loopback, durable.

    python tests/benchmarks/bench_replicate.py [--count 20000] [--size 4096] [--backend asyncio]

Prints the rate of a round that is asked for once the empty node is ready, and the peak resident
memory of both. With `--large BYTES`, one blob of that size is put, replicated and fetched instead.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parents[2]))

from mesh.core.digest import digest_of
from mesh.offload import Lane, Threads
from mesh.store.base import Blob
from mesh.store.directory import DataDirectory
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles
from tests.processes import nodes, until

MIB = 1024 * 1024


async def fill(directory: Path, count: int, size: int) -> None:
    """Blobs straight into a data directory, before any node runs on it."""
    claimed = DataDirectory.claim(directory)
    store = DiskStore(DiskFiles(directory), directory / "index.sqlite", Lane, Threads(2))
    await store.open()
    for at in range(0, count, 1000):
        group = [os.urandom(size) for _ in range(min(1000, count - at))]
        await store.commit([Blob(digest_of(data), data) for data in group])
    await store.close()
    claimed.release()


def replicate(base: Path, count: int, size: int, backend: str) -> None:
    anyio.run(fill, base / "full", count, size)
    with nodes() as start:
        full = start(base / "full", "--name", "full", backend=backend)
        until(lambda: full.status()["state"] == "ready")
        empty = start(base / "empty", "--peers", full.place, backend=backend)
        until(lambda: empty.status()["state"] == "ready")
        began = time.perf_counter()
        code, _, stats = empty.request("POST", f"/v1/peers/{full.place}/sync")
        seconds = time.perf_counter() - began
        assert code == 200, stats
        assert empty.status()["blobs"] == count
        until(lambda: empty.status()["root"] == full.status()["root"])
        print(
            f"{backend}: {count} blobs of {size} bytes in {seconds:.2f} s: {count / seconds:,.0f} "
            f"blobs/s, {count * size / seconds / MIB:.0f} MiB/s; peak memory "
            f"{full.peak_bytes() / MIB:.0f} MiB (source), {empty.peak_bytes() / MIB:.0f} MiB "
            f"(target); cpu {full.cpu_seconds():.2f} s, {empty.cpu_seconds():.2f} s"
        )


def large(base: Path, size: int, backend: str) -> None:
    file = base / "blob"
    hasher = hashlib.blake2b(digest_size=32)
    with file.open("wb") as out:
        for _ in range(size // MIB):
            piece = os.urandom(MIB)
            hasher.update(piece)
            out.write(piece)
    digest = hasher.hexdigest()
    with nodes() as start:
        one = start(base / "one", backend=backend)
        two = start(base / "two", "--peers", one.place, backend=backend)
        until(lambda: two.status()["state"] == "ready" and one.status()["state"] == "ready")
        began = time.perf_counter()
        with file.open("rb") as body:
            request = urllib.request.Request(
                f"{one.url}/v1/blobs/{digest}", data=body, method="PUT",
                headers={"Content-Length": str(file.stat().st_size)},
            )  # fmt: skip
            with urllib.request.urlopen(request) as answer:
                assert answer.status == 201
        put = time.perf_counter() - began
        two.request("POST", f"/v1/peers/{one.place}/sync")
        assert two.status()["blobs"] == 1
        moved = time.perf_counter() - began - put
        got = hashlib.blake2b(digest_size=32)
        began = time.perf_counter()
        with urllib.request.urlopen(f"{two.url}/v1/blobs/{digest}") as answer:
            while piece := answer.read(MIB):
                got.update(piece)
        fetched = time.perf_counter() - began
        assert got.hexdigest() == digest
        print(
            f"{backend}: one blob of {size // MIB} MiB: put {put:.2f} s, replicated after "
            f"{moved:.2f} s, fetched in {fetched:.2f} s; peak memory "
            f"{one.peak_bytes() / MIB:.0f} MiB (source), {two.peak_bytes() / MIB:.0f} MiB (target)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=4096, help="bytes a blob")
    parser.add_argument("--large", type=int, help="one blob of so many bytes instead")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        if options.large:
            large(Path(base), options.large, options.backend)
        else:
            replicate(Path(base), options.count, options.size, options.backend)


if __name__ == "__main__":
    main()
