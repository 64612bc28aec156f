"""The main job: a real directory put into one of several connected nodes, until all have it.

Real node processes, connected and configured as users have them; the commands are those that users
type. The clock runs from the start of `mesh put` to the end of `mesh wait`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from anyio import to_thread

from mesh.bench.processes import NodeProcess, meshed, nodes, ready, timed_mesh
from mesh.bench.rivals import available, race
from mesh.errors import MeshError
from mesh.status import RoundStats, Status
from mesh.transport.client import NodeClient, node_client


class TreePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The files below `directory` into one of `nodes`; `against`: rivals in the same run."""

    directory: Path
    nodes: int = 3
    backend: str = "asyncio"
    against: tuple[str, ...] = ()


class TreePass(msgspec.Struct, frozen=True, kw_only=True):
    """One put of everything. `put_seconds` of `mesh put` alone; CPU of each process.

    `other_cpu_seconds`: of each node that the files were not put into.
    """

    seconds: float
    put_seconds: float
    client_cpu_seconds: float
    node_cpu_seconds: float
    other_cpu_seconds: list[float]
    cpu_seconds: float


class TreeRival(msgspec.Struct, frozen=True, kw_only=True):
    """Another tool's time to each destination, one after the other, and for the same again.

    `ours_over_theirs` is our time over the sum of theirs: below 1 the mesh is faster.
    """

    name: str
    each_seconds: list[float]
    seconds: float
    again_seconds: float
    ours_over_theirs: float
    again_ours_over_theirs: float


class TreeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came out. `first`: into empty nodes; `again`: the same, unchanged, once more.

    `blobs` and `bytes` are those of a node afterwards: files with the same bytes are one blob.
    `load` is the machine's load average (of one minute) when the measurement began.
    """

    name: str
    backend: str
    nodes: int
    files: int
    blobs: int
    bytes: int
    load: float
    first: TreePass
    again: TreePass
    rivals: list[TreeRival] = []


async def tree(plan: TreePlan, base: Path) -> TreeResult:
    """Measure `plan` below the empty directory `base`; MeshError when a node ends with less."""
    for rival in plan.against:
        available(rival)
    load = os.getloadavg()[0]
    directories = [base / f"node{number + 1}" for number in range(plan.nodes)]
    with nodes(meshed(directories), plan.backend) as processes:
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(node_client(process.address))
                for process in processes
            ]
            await _acquainted(clients, processes)
            first = await _put(plan.directory, processes)
            again = await _put(plan.directory, processes)
            status = await _level(clients)
    for data in directories:
        shutil.rmtree(data)
    return TreeResult(
        name=plan.directory.name,
        backend=plan.backend,
        nodes=plan.nodes,
        files=sum(1 for path in plan.directory.rglob("*") if _is_file(path)),
        blobs=status.blobs,
        bytes=status.bytes,
        load=load,
        first=first,
        again=again,
        rivals=[
            await to_thread.run_sync(_beside, rival, plan, base, first, again)
            for rival in plan.against
        ],
    )


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


async def _acquainted(clients: Sequence[NodeClient], processes: Sequence[NodeProcess]) -> None:
    """Return when each node is ready and has had a round with each other."""
    for client in clients:
        await ready(client)
    for client, here in zip(clients, processes, strict=True):
        for there in processes:
            if there is not here:
                stats = await client.sync(there.place, RoundStats)
                if stats.error is not None:
                    raise MeshError(f"a round before the measurement failed: {stats.error}")


async def _put(directory: Path, processes: Sequence[NodeProcess]) -> TreePass:
    # What earlier work left in the page cache would be written on this measurement's time.
    await to_thread.run_sync(os.sync)
    before = [process.cpu_seconds() for process in processes]
    url = processes[0].url
    put = await to_thread.run_sync(timed_mesh, "put", "--node", url, str(directory))
    seconds, client = put
    if len(processes) > 1:
        waited = await to_thread.run_sync(timed_mesh, "wait", "--node", url)
        seconds += waited.seconds
        client += waited.cpu_seconds
    used = [process.cpu_seconds() - at for process, at in zip(processes, before, strict=True)]
    return TreePass(
        seconds=seconds,
        put_seconds=put.seconds,
        client_cpu_seconds=client,
        node_cpu_seconds=used[0],
        other_cpu_seconds=used[1:],
        cpu_seconds=client + sum(used),
    )


async def _level(clients: Sequence[NodeClient]) -> Status:
    """How the nodes stand; MeshError unless all have the same."""
    stands = [await client.status(Status) for client in clients]
    if len({status.root for status in stands}) != 1:
        counts = ", ".join(f"{status.name} {status.blobs}" for status in stands)
        raise MeshError(f"the nodes do not have the same blobs after `mesh wait`: {counts}")
    return stands[0]


def _beside(rival: str, plan: TreePlan, base: Path, first: TreePass, again: TreePass) -> TreeRival:
    """The same files by another tool, to as many destinations as the put has other nodes."""
    each: list[float] = []
    repeated = 0.0
    for _ in range(max(1, plan.nodes - 1)):
        target = base / f"{rival}-target"
        os.sync()
        each.append(race(rival, plan.directory, target, base))
        repeated += race(rival, plan.directory, target, base)
        shutil.rmtree(target)
    return TreeRival(
        name=rival,
        each_seconds=each,
        seconds=sum(each),
        again_seconds=repeated,
        ours_over_theirs=first.seconds / sum(each),
        again_ours_over_theirs=again.seconds / repeated,
    )
