"""What it takes to find what two nodes differ by: the real protocol on the network in memory.

The nodes have met before, as nodes in a mesh have, and their sketches and trees are up to date.
A round trip is a request; they follow one another.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import aclosing
from statistics import median
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from mesh.actors.keeper import Keeper
from mesh.actors.round import Limits
from mesh.actors.service import Service
from mesh.actors.sketcher import Sketcher
from mesh.config import Config
from mesh.core.digest import Digest
from mesh.core.holder import Caller
from mesh.core.tree import Tree
from mesh.errors import InputError
from mesh.offload import Inline
from mesh.store.memory import MemoryStore
from mesh.transport.memory import MemoryNetwork
from mesh.transport.native import NativePeer
from mesh.wire.messages import Hello, StandingReply, StandingRequest

METHODS = ("auto", "sketch", "tree")
_HERE, _THERE = "http://here:7280", "http://there:7280"


class Case(NamedTuple):
    """Two sets: `blobs` are common, `differ` are not."""

    blobs: int
    differ: int
    one_sided: bool
    method: str


class Run(NamedTuple):
    """One comparison. Bytes of payload; seconds of both sides together, the proof included."""

    up: int
    down: int
    trips: int
    seconds: float
    by_tree: bool
    right: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of them: medians, unless the name says otherwise."""

    blobs: int
    differ: int
    one_sided: bool
    method: str
    seeds: int
    bytes_up: int
    bytes_down: int
    bytes: int
    bytes_most: int
    round_trips: int
    round_trips_most: int
    at_most_two_round_trips: float
    cpu_seconds: float
    cpu_seconds_most: float
    by_tree: int
    wrong: int


class _Known:
    """Acquaintances for a Service whose only caller pulled half a minute ago."""

    def heard(self, hello: Hello, caller: Caller) -> None:
        """Nothing to note."""

    def hinted(self, hello: Hello) -> None:
        """Nothing to note."""

    def greeted(self, hello: Hello, caller: Caller) -> None:
        """Nothing to note."""

    def is_peer(self, hello: Hello) -> bool:  # noqa: ARG002 - the port's
        """It calls us; we do not call it."""
        return False

    def pulled(self, hello: Hello) -> float | None:  # noqa: ARG002 - the port's
        """Seconds."""
        return 30.0

    async def standing(self, request: StandingRequest) -> StandingReply:  # noqa: ARG002 - the port's
        """It has no peers."""
        return StandingReply(peers=[])


class _Side:
    """A node as far as comparing needs one."""

    def __init__(self, name: str, common: Tree, cells: int) -> None:
        self.keeper = Keeper(MemoryStore(), lambda *_: None)
        self.keeper.tree = common
        self.sketcher = Sketcher(self.keeper, Inline(), cells, b"")
        self.id = name.encode().ljust(16, b".")
        self._name = name

    def hello(self) -> Hello:
        tree = self.keeper.ready_tree()
        return Hello(
            node=self.id, instance=bytes(8), name=self._name, root=tree.root, count=len(tree)
        )

    def service(self) -> Service:
        limits = Limits(Inline(), Config().max_replica_bytes)
        return Service(self.keeper, limits, self.hello, _Known(), self.sketcher)

    async def become(self, tree: Tree, *, sketch: bool) -> None:
        """Have that set, with everything up to date that a node in a mesh has up to date."""
        self.keeper.tree = tree
        tree.root  # noqa: B018 - computed when first asked for
        if sketch:
            await self.sketcher.catch_up()


async def measure(case: Case, seeds: int) -> Report:
    """Compare `seeds` pairs of sets, one after another. InputError for a method there is not."""
    if case.method not in METHODS:
        raise InputError(f"no method {case.method[:20]!a}; there are {', '.join(METHODS)}")
    common = Tree(_digest(f"common {number}") for number in range(case.blobs))
    sketch = case.method != "tree"
    cells = Config().sketch_cells if sketch else 0
    here, there = _Side("here", common, cells), _Side("there", common, cells)
    network = MemoryNetwork()
    network.attach(_THERE, there.service())
    wire = network.wire(_HERE, _THERE)
    peer = NativePeer(wire, "there", here.id, here.sketcher if sketch else None)
    await peer.meet(here.hello())
    runs: list[Run] = []
    for seed in range(seeds):
        few, more = _apart(case, seed)
        await here.become(common.add(few), sketch=sketch)
        await there.become(common.add(more), sketch=sketch)
        wire.traffic.reset()
        before = time.process_time()
        found_here, found_there, proven = await _compare(peer, here)
        seconds = time.process_time() - before
        traffic = wire.traffic
        right = proven and found_here == set(more) and found_there == set(few)
        by_tree = "tree" in traffic.requests
        runs.append(Run(traffic.up, traffic.down, len(traffic.requests), seconds, by_tree, right))
    for side in (here, there):
        side.keeper.close()
    return _report(case, runs)


async def _compare(peer: NativePeer, here: _Side) -> tuple[set[Digest], set[Digest], bool]:
    missing_here: list[Digest] = []
    missing_there: list[Digest] = []
    meeting = await peer.meet(here.hello())
    if meeting.equal:
        return set(), set(), True
    comparison = peer.compare(here.keeper.ready_tree, meeting)
    async with aclosing(aiter(comparison)) as pieces:
        async for piece in pieces:
            missing_here += piece.missing_here
            for some in piece.missing_there:
                missing_there += some
    return set(missing_here), set(missing_there), comparison.proven


def _apart(case: Case, seed: int) -> tuple[list[Digest], list[Digest]]:
    """What only we have, and what only they have."""
    new = [_digest(f"new {seed} {number}") for number in range(case.differ)]
    half = 0 if case.one_sided else case.differ // 2
    return new[:half], new[half:]


def _digest(text: str) -> Digest:
    return Digest(hashlib.blake2b(text.encode(), digest_size=32).digest())


def _report(case: Case, runs: list[Run]) -> Report:
    totals = [run.up + run.down for run in runs]
    return Report(
        **case._asdict(),
        seeds=len(runs),
        bytes_up=round(median(run.up for run in runs)),
        bytes_down=round(median(run.down for run in runs)),
        bytes=round(median(totals)),
        bytes_most=max(totals),
        round_trips=round(median(run.trips for run in runs)),
        round_trips_most=max(run.trips for run in runs),
        at_most_two_round_trips=sum(run.trips <= 2 for run in runs) / len(runs),
        cpu_seconds=median(run.seconds for run in runs),
        cpu_seconds_most=max(run.seconds for run in runs),
        by_tree=sum(run.by_tree for run in runs),
        wrong=sum(not run.right for run in runs),
    )


def show(report: Report, *, as_json: bool) -> None:
    """On standard output."""
    if as_json:
        print(msgspec.json.encode(report).decode())
        return
    sides = "one side" if report.one_sided else "both sides"
    title = f"{report.blobs:,} blobs, {report.differ:,} differ on {sides}, {report.seeds} seeds"
    table = Table(report.method, "median", "most", title=title)
    rows = [
        ("bytes up", f"{report.bytes_up:,}", ""),
        ("bytes down", f"{report.bytes_down:,}", ""),
        ("bytes together", f"{report.bytes:,}", f"{report.bytes_most:,}"),
        ("round trips", str(report.round_trips), str(report.round_trips_most)),
        ("two round trips or less", f"{report.at_most_two_round_trips:.0%}", ""),
        ("CPU of both sides, ms", _ms(report.cpu_seconds), _ms(report.cpu_seconds_most)),
        ("seeds that needed the tree", str(report.by_tree), ""),
        ("seeds with a wrong result", str(report.wrong), ""),
    ]
    for row in rows:
        table.add_row(*row)
    for column in table.columns[1:]:
        column.justify = "right"
    Console().print(table)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
