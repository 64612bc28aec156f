"""How fast `mesh put DIR` stores many small files in a local node, durably."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec

from mesh.bench.blobs import random_blobs
from mesh.bench.processes import node, ready
from mesh.errors import MeshError
from mesh.transport.client import node_client


class PutResult(msgspec.Struct, frozen=True, kw_only=True):
    """The time of the command as a whole, from its start to its exit. Rates a second."""

    backend: str
    files: int
    bytes: int
    seconds: float
    files_per_second: float
    bytes_per_second: float
    rss_bytes: int


async def put(count: int, size: int, backend: str, base: Path) -> PutResult:
    """Put `count` files of `size` bytes below the empty directory `base`."""
    files = base / "files"
    for number, data in enumerate(random_blobs(count, size)):
        path = files / f"{number // 1000:04d}" / f"{number:08d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with node(base / "node", backend) as target:
        async with node_client(target.address) as client:
            await ready(client)
        command = [sys.executable, "-m", "mesh", "put", "--node", target.url, str(files)]
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # noqa: S603, ASYNC221
        seconds = time.perf_counter() - began
        if done.returncode:
            raise MeshError(f"mesh put ended with {done.returncode}")
        return PutResult(
            backend=backend,
            files=count,
            bytes=count * size,
            seconds=seconds,
            files_per_second=count / seconds,
            bytes_per_second=count * size / seconds,
            rss_bytes=target.peak_bytes(),
        )
