"""How fast `mesh put DIR` stores many small files in a local node, durably."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mesh.bench.blobs import random_blobs
from mesh.bench.processes import node, ready, timed_mesh
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
        # The node runs in a process of its own, and nothing else of ours waits here.
        seconds = timed_mesh("put", "--node", target.url, str(files)).seconds
        return PutResult(
            backend=backend,
            files=count,
            bytes=count * size,
            seconds=seconds,
            files_per_second=count / seconds,
            bytes_per_second=count * size / seconds,
            rss_bytes=target.peak_bytes(),
        )
