"""What `status` and `wait` say, against the dumbest oracle: the sets of blobs in the stores."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from mesh.config import Config, PeerEntry
from mesh.core.digest import Digest
from mesh.status import WaitAnswer
from mesh.store.memory import MemoryStore
from tests.actors.world import (
    HOUR,
    Member,
    Watching,
    World,
    a_world,
    blob,
    blobs,
    filled,
    holdings,
    until,
)

pytestmark = pytest.mark.trio


async def held(member: Member) -> set[Digest]:
    """What is in the store of a node, whether it runs or not."""
    return set(await holdings(member.store))


async def equal(world: World) -> bool:
    """Whether all stores hold the same blobs."""
    sets = [await held(member) for member in world.members]
    return all(one == sets[0] for one in sets)


async def answer(member: Member, timeout: float | None, *, whole: bool = True) -> WaitAnswer:
    return await member.node.wait_and_tell(timeout, whole=whole)


def listing(member: Member, **peers: str) -> None:
    """Let a node that does not run list these peers, each with its direction."""
    entries = tuple(PeerEntry(f"{name}:7280", direction=way) for name, way in peers.items())
    member.config = Config(peers=entries, interval_seconds=HOUR)


async def linked(world: World, links: dict[str, dict[str, str]], **stores: MemoryStore) -> None:
    """Nodes that list each other as `links` says, when their first rounds are over."""
    for name, peers in links.items():
        listing(world.add(name, store=stores.get(name)), **peers)
    for member in world.members:
        await member.start()
    await trio.sleep(10.0)


# --- status ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["root", "tree"])
async def test_before_a_round_has_compared_anything_nothing_is_known_to_be_missing(
    autojump_clock: MockClock, where: str
) -> None:
    hung = trio.Event()
    go_on = trio.Event()

    async def hang(path: str) -> None:
        if path == where:
            hung.set()
            await go_on.wait()

    async with a_world() as world:
        await world.start("b", store=await filled(*blobs(0, 100)), sketch_cells=0)
        a = await world.start(
            "a",
            "b",
            interval=HOUR,
            store=await filled(*blobs(50, 200)),
            sketch_cells=0,
            wires={"b": lambda wire: Watching(wire, hang)},
        )
        await hung.wait()
        await trio.testing.wait_all_tasks_blocked()
        status = a.peer("b")
        assert (status.missing_here, status.missing_there) == (None, None)
        go_on.set()
        await until(lambda: a.peer("b").state == "idle", 10.0)


async def test_what_comes_in_the_midst_of_a_round_is_not_counted_as_level(
    autojump_clock: MockClock,
) -> None:
    """A round knows what it compared. What came on either side since may be missing."""
    met = 0

    async def write(path: str) -> None:
        nonlocal met
        if path == "batch" and not met:
            met = 1
            await b.put(blob(1000))
            await a.put(blob(2000))

    async with a_world() as world:
        b = await world.start("b", interval=HOUR, store=await filled(*blobs(0, 100)))
        a = await world.start(
            "a",
            "b",
            direction="pull",
            interval=HOUR,
            store=await filled(blob(1)),
            wires={"b": lambda wire: Watching(wire, write)},
        )
        await until(lambda: met and a.peer("b").state == "idle", 20.0)
        assert await held(a) != await held(b)
        status = a.peer("b")
        assert (status.missing_here, status.missing_there) == (None, None)


# --- wait: one node and its peers ------------------------------------------------------------


async def test_what_one_peer_had_is_at_the_others_when_a_wait_ends(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        for number, name in enumerate("bcd"):
            await world.start(name, interval=HOUR, store=await filled(blob(number)))
        a = await world.start("a", "bcd", interval=HOUR, store=await filled(blob(9)))
        told = await answer(a, 60.0, whole=False)
        assert told.level
        assert await equal(world)


# --- wait: the nodes behind them -------------------------------------------------------------


@pytest.mark.parametrize(
    "links",
    [
        {"c": {}, "b": {"c": "pull"}, "a": {"b": "both"}},
        {"c": {}, "b": {"c": "both"}, "a": {"b": "pull"}},
        {"c": {}, "b": {}, "a": {"b": "pull"}},
    ],
)
async def test_a_node_that_lacks_blobs_is_not_counted_whatever_the_directions(
    autojump_clock: MockClock, links: dict[str, dict[str, str]]
) -> None:
    async with a_world() as world:
        await linked(world, links, a=await filled(*blobs(0, 10)))
        *_, a = world.members
        told = await answer(a, 30.0)
        assert not await equal(world)
        assert not told.level
