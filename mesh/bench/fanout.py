"""One large blob to workers that start together: how much longer they take than one alone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import msgspec

from mesh.bench.blobs import fill_one
from mesh.bench.processes import NodePlan, NodeProcess, meshed, node, nodes, ready
from mesh.bench.relay import Passed, relay
from mesh.status import Status
from mesh.transport.client import NodeClient, node_client

# Seconds between looks at who has the blob. Each look costs the worker some ms of CPU, and looks
# every 20 ms were 7 % of its time.
_LOOK = 0.1


class FanoutResult(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from the start of the workers' processes until the last has the blob, durably.

    `alone_seconds`: of one worker. `ratio` is `seconds` over that. `source_sent_bytes`: what left
    the source for the workers, HTTP included, in a run of its own through a relay that counts, so
    that the counting costs no time in `seconds`; `source_sent_ratio` is that over the blob's size.
    CPU of each process. `load` is the machine's load average (of one minute) at the beginning.
    """

    backend: str
    workers: int
    size: int
    load: float
    alone_seconds: float
    seconds: float
    ratio: float
    source_sent_bytes: int
    source_sent_ratio: float
    source_cpu_seconds: float
    worker_cpu_seconds: list[float]


async def fanout(workers: int, size: int, backend: str, base: Path) -> FanoutResult:
    """Measure below the empty directory `base`. `size` in bytes, above 0."""
    load = os.getloadavg()[0]
    await fill_one(base / "source", size)
    with node(base / "source", backend) as source:
        async with node_client(source.address) as client:
            await ready(client)
        alone, _ = await _pull(base, backend, 1, source.place)
        before = source.cpu_seconds()
        seconds, used = await _pull(base, backend, workers, source.place)
        source_used = source.cpu_seconds() - before
        passed = Passed()
        async with relay(source.place, 0.0, passed) as counted:
            await _pull(base, backend, workers, counted)
    return FanoutResult(
        backend=backend,
        workers=workers,
        size=size,
        load=load,
        alone_seconds=alone,
        seconds=seconds,
        ratio=seconds / alone,
        source_sent_bytes=passed.bytes,
        source_sent_ratio=passed.bytes / size,
        source_cpu_seconds=source_used,
        worker_cpu_seconds=used,
    )


async def _pull(base: Path, backend: str, workers: int, place: str) -> tuple[float, list[float]]:
    """Empty workers, peers of the source at `place` and of each other; seconds, CPU of each."""
    directories = [base / f"worker{number + 1}" for number in range(workers)]
    plans = [_with_source(plan, place) for plan in meshed(directories)]
    # What earlier work left in the page cache would be written on this measurement's time.
    await anyio.to_thread.run_sync(os.sync)
    began = time.perf_counter()
    with nodes(plans, backend) as processes:
        await _all_have_it(processes)
        seconds = time.perf_counter() - began
        used = [process.cpu_seconds() for process in processes]
    for data in directories:
        shutil.rmtree(data)
    return seconds, used


def _with_source(plan: NodePlan, place: str) -> NodePlan:
    return plan._replace(peers=[place, *plan.peers])


async def _all_have_it(processes: Sequence[NodeProcess]) -> None:
    async with AsyncExitStack() as stack:
        clients: list[NodeClient] = [
            await stack.enter_async_context(node_client(process.address)) for process in processes
        ]
        for client in clients:
            while True:
                if (await client.status(Status)).blobs:
                    break
                await anyio.sleep(_LOOK)
