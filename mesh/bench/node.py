"""What a node of many blobs costs: its start, its memory, a put, a round with an equal peer."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import msgspec

from mesh.bench.blobs import copy, fill, random_blobs
from mesh.bench.processes import NodeProcess, node, ready
from mesh.core.digest import Digest, digest_of
from mesh.errors import MeshError, PeerError
from mesh.status import RoundStats, Status
from mesh.transport.client import NodeClient, node_client

_ROUNDS = 200  # with an equal peer: enough for CPU time that is counted in steps of 10 ms
_PUTS = 50

_LOOK = 0.5  # seconds over which a node is looked at
_IDLE = 0.1  # seconds of CPU a second that count as nothing to do


class NodeCost(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds from the start of the process; CPU in seconds.

    `equal_round_cpu_seconds`: a round with an equal peer, both sides together, the client's
    request for it included. `put_cpu_seconds`: one blob put, and the root asked for after it.
    """

    backend: str
    blobs: int
    served_seconds: float
    ready_seconds: float
    rss_bytes: int
    equal_round_cpu_seconds: float
    put_cpu_seconds: float


async def node_cost(blobs: int, size: int, backend: str, base: Path) -> NodeCost:
    """Measure a node with `blobs` blobs of `size` bytes below the empty directory `base`."""
    await fill(base / "one", random_blobs(blobs, size))
    copy(base / "one", base / "two")
    known = digest_of(next(random_blobs(1, size)))
    with node(base / "two", backend) as other:
        async with node_client(other.address) as client:
            await ready(client)
        began = time.perf_counter()
        with node(base / "one", backend, [other.place]) as one:
            async with node_client(one.address) as client:
                served = await _served(client, known, began)
                status = await ready(client)
                seconds = time.perf_counter() - began
                if status.blobs != blobs:
                    raise MeshError(f"the node has {status.blobs} blobs instead of {blobs}")
                resident = one.resident_bytes()
                await _quiet(one, other)
                rounds = await _rounds(client, one, other)
                puts = await _puts(client, one)
    return NodeCost(
        backend=backend,
        blobs=blobs,
        served_seconds=served,
        ready_seconds=seconds,
        rss_bytes=resident,
        equal_round_cpu_seconds=rounds,
        put_cpu_seconds=puts,
    )


async def _served(client: NodeClient, digest: Digest, began: float) -> float:
    """Seconds until a blob could be fetched."""
    while True:
        try:
            async with client.get(digest) as chunks:
                async for _ in chunks:
                    pass
            return time.perf_counter() - began
        except PeerError:
            await anyio.sleep(0.01)  # its socket listens before its store is open


async def _quiet(*nodes: NodeProcess) -> None:
    """Wait until nodes have nothing left to do by themselves: a sketch is made after the tree."""
    before = -1.0
    while (now := sum(each.cpu_seconds() for each in nodes)) - before > _IDLE * _LOOK:
        before = now
        await anyio.sleep(_LOOK)


async def _rounds(client: NodeClient, one: NodeProcess, other: NodeProcess) -> float:
    before = one.cpu_seconds() + other.cpu_seconds()
    for _ in range(_ROUNDS):
        stats = await client.sync(other.place, RoundStats)
        if stats.error is not None or not stats.proven or stats.fetched:
            raise MeshError(f"a round with an equal peer moved something or failed: {stats.error}")
    return (one.cpu_seconds() + other.cpu_seconds() - before) / _ROUNDS


async def _puts(client: NodeClient, one: NodeProcess) -> float:
    before = one.cpu_seconds()
    for data in random_blobs(_PUTS, 4096, seed=3):
        await client.put_stream(data, len(data))
        await client.status(Status)
    return (one.cpu_seconds() - before) / _PUTS
