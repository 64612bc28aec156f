"""How fast an empty node is filled: real processes, real HTTP on loopback, durable."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from random import Random

import anyio
import msgspec
from anyio import create_task_group

from mesh.bench.blobs import as_files, copy, file_blobs, fill, random_blobs
from mesh.bench.processes import NodeProcess, node, ready
from mesh.bench.relay import relay
from mesh.bench.rivals import available, race
from mesh.core.digest import Digest, parse_digest
from mesh.core.limits import LARGE_BLOB
from mesh.errors import MeshError
from mesh.status import RoundStats, Status
from mesh.transport.client import NodeClient, node_client

_PROBES = 1000  # blobs that the probe asks for in turn
_LOOK = 0.02  # seconds between looks at how much has come
_CLASSES = (
    ("below 64 KiB", 0, 65536),
    ("below 4 MiB", 65536, LARGE_BLOB),
    ("4 MiB and more", LARGE_BLOB, 2**63),
)
_PROBE_PAUSE = 0.02  # seconds between its GETs: 50 a second, as a person's page might


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. Sizes in bytes, latency in seconds on every request.

    `nodes`: in all, one of them empty. `directory`: its files instead of `count` blobs of `size`.
    `probe`: GET small blobs from the first source meanwhile. `against`: rivals in the same run.
    """

    count: int = 20_000
    size: int = 4096
    nodes: int = 2
    latency: float = 0.0
    backend: str = "asyncio"
    directory: Path | None = None
    probe: bool = False
    against: tuple[str, ...] = ()


class Rival(msgspec.Struct, frozen=True):
    """Another tool's time for the same blobs; `ratio` is its seconds over ours."""

    name: str
    seconds: float
    ratio: float


class Replicated(msgspec.Struct, frozen=True, kw_only=True):
    """What came out. `rss_bytes` is the peak of the new node, `sources` what each brought.

    CPU seconds are of the measured time alone. `get_seconds_p99` is the probe's. `halfway`, for
    the files of a directory: when half of the bytes had come, which share of each class of size
    (in bytes of that class) had; a class far below the others is starved.
    """

    backend: str
    blobs: int
    bytes: int
    seconds: float
    blobs_per_second: float
    bytes_per_second: float
    rss_bytes: int
    source_rss_bytes: int
    cpu_seconds: float
    source_cpu_seconds: float
    sources: dict[str, int]
    get_seconds_p50: float | None = None
    get_seconds_p99: float | None = None
    halfway: dict[str, float] = {}
    rivals: list[Rival] = []


async def replicate(plan: Plan, base: Path) -> Replicated:
    """Measure `plan` below the empty directory `base`."""
    for rival in plan.against:
        available(rival)
    blobs = (
        file_blobs(plan.directory)
        if plan.directory is not None
        else random_blobs(plan.count, plan.size)
    )
    first = base / "source1"
    await fill(first, blobs)
    sources = [first, *(base / f"source{n}" for n in range(2, plan.nodes))]
    for other in sources[1:]:
        copy(first, other)
    with ExitStack() as stack:
        nodes = [stack.enter_context(node(data, plan.backend)) for data in sources]
        result = await _fill_new(plan, base / "new", nodes)
    if not plan.against:
        return result
    files = base / "files"
    await as_files(first, files)
    rivals = []
    for rival in plan.against:
        seconds = race(rival, files, base / f"{rival}-target", base)
        rivals.append(Rival(rival, seconds, seconds / result.seconds))
    return msgspec.structs.replace(result, rivals=rivals)


async def _fill_new(plan: Plan, data: Path, sources: list[NodeProcess]) -> Replicated:
    async with AsyncExitStack() as stack:
        places = [
            await stack.enter_async_context(relay(source.place, plan.latency))
            if plan.latency
            else source.place
            for source in sources
        ]
        with node(data, plan.backend, places) as new:
            client = await stack.enter_async_context(node_client(new.address))
            full = await stack.enter_async_context(node_client(sources[0].address))
            wanted = await ready(full)
            for source in sources[1:]:
                await ready(await stack.enter_async_context(node_client(source.address)))
            await ready(client)
            digests = [parse_digest(b.digest) async for b in full.listing("")] if plan.probe else []
            cpu = new.cpu_seconds(), sum(source.cpu_seconds() for source in sources)
            probed: list[float] = []
            halfway: dict[str, float] = {}
            async with create_task_group() as watch, create_task_group() as group:
                if plan.directory is not None:
                    sizes = {b.digest: b.size async for b in full.listing("")}
                    watch.start_soon(_watch, client, sizes, halfway)
                if plan.probe:
                    group.start_soon(_probe, full, digests, probed)
                began = time.perf_counter()
                status = await _sync_until(client, places, wanted.blobs)
                seconds = time.perf_counter() - began
                group.cancel_scope.cancel()
            if status.root != wanted.root:
                raise MeshError("the new node has every blob and another root")
            probed.sort()
            return Replicated(
                backend=plan.backend,
                blobs=status.blobs,
                bytes=status.bytes,
                seconds=seconds,
                blobs_per_second=status.blobs / seconds,
                bytes_per_second=status.bytes / seconds,
                rss_bytes=new.peak_bytes(),
                source_rss_bytes=max(source.peak_bytes() for source in sources),
                cpu_seconds=new.cpu_seconds() - cpu[0],
                source_cpu_seconds=sum(source.cpu_seconds() for source in sources) - cpu[1],
                sources={peer.name: peer.fetched_blobs for peer in status.peers},
                get_seconds_p50=probed[len(probed) // 2] if probed else None,
                get_seconds_p99=probed[len(probed) * 99 // 100] if probed else None,
                halfway=halfway,
            )


async def _sync_until(client: NodeClient, places: list[str], blobs: int) -> Status:
    """Rounds with all peers at once until so many blobs are there; how the node stands then."""
    while True:
        async with create_task_group() as group:
            for place in places:
                group.start_soon(_round, client, place)
        status = await client.status(Status)
        if status.blobs >= blobs:
            return status


async def _round(client: NodeClient, place: str) -> None:
    stats = await client.sync(place, RoundStats)
    if stats.error is not None:
        raise MeshError(f"a round failed: {stats.error}")


async def _watch(client: NodeClient, sizes: dict[str, int], shares: dict[str, float]) -> None:
    """Wait until half of the bytes are there; which share of each class of size is."""
    half = sum(sizes.values()) / 2
    while True:
        if (await client.status(Status)).bytes >= half:
            break
        await anyio.sleep(_LOOK)
    there = {blob.digest async for blob in client.listing("")}
    for name, low, high in _CLASSES:
        group = {digest: size for digest, size in sizes.items() if low <= size < high}
        if total := sum(group.values()):
            shares[name] = sum(size for digest, size in group.items() if digest in there) / total


async def _probe(client: NodeClient, digests: list[Digest], seconds: list[float]) -> None:
    """GET blobs one after the other, and note how long each took, until cancelled."""
    chosen = Random(2).sample(digests, min(_PROBES, len(digests)))  # noqa: S311 - test data
    while True:
        for digest in chosen:
            began = time.perf_counter()
            async with client.get(digest) as chunks:
                async for _ in chunks:
                    pass
            seconds.append(time.perf_counter() - began)
            await anyio.sleep(_PROBE_PAUSE)
