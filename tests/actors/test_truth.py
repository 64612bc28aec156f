"""What `status` and `wait` say, against the dumbest oracle: the sets of blobs in the stores."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from mesh.config import Config, PeerEntry
from mesh.core.digest import Digest
from mesh.errors import Unreachable
from mesh.status import WaitAnswer
from mesh.store.base import Damage
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
    name_of,
    until,
    url_of,
)
from tests.oracles import quick

trio_test = pytest.mark.trio


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


@trio_test
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


@trio_test
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


@trio_test
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
@trio_test
async def test_a_node_that_lacks_blobs_is_not_counted_whatever_the_directions(
    autojump_clock: MockClock, links: dict[str, dict[str, str]]
) -> None:
    async with a_world() as world:
        await linked(world, links, a=await filled(*blobs(0, 10)))
        *_, a = world.members
        told = await answer(a, 30.0)
        assert not await equal(world)
        assert not told.level


@trio_test
async def test_a_node_that_has_just_lost_its_disk_is_not_counted(
    autojump_clock: MockClock,
) -> None:
    """Its neighbour does not know of it yet: it lists nobody, and so it calls nobody."""
    links = {"c": {}, "b": {"c": "both"}, "a": {"b": "both"}}
    async with a_world() as world:
        await linked(world, links, a=await filled(*blobs(0, 10)))
        c, b, a = world.members
        await c.stop()
        c.store = MemoryStore()
        await c.start()
        told = await answer(a, 60.0)
        assert told.level
        assert await equal(world), "it was filled before it was counted"
        assert b.peer("c").in_sync


@trio_test
async def test_what_a_node_far_away_had_alone_is_everywhere_when_a_wait_ends(
    autojump_clock: MockClock,
) -> None:
    """Although nobody but the node that waits calls for rounds, and none of them announces."""
    links = {"d": {}, "c": {"d": "pull"}, "b": {"c": "pull"}, "a": {"b": "pull"}}
    back = {"d": {"c": "pull"}, "c": {"b": "pull"}, "b": {"a": "pull"}}
    both = {name: {**peers, **back.get(name, {})} for name, peers in links.items()}
    async with a_world() as world:
        await linked(world, both)
        d, *_, a = world.members
        await d.put(blob(1))
        told = await answer(a, 60.0)
        assert told.level
        assert await equal(world)


# --- anything --------------------------------------------------------------------------------


class Plan(NamedTuple):
    """Some nodes, whom they list in which direction, what they hold, and what befalls them."""

    links: list[tuple[int, int, str]]
    blobs: list[set[int]]
    faults: list[str]
    settled: bool
    seed: int


FAULTS = ("none", "none", "none", "lost its disk", "dead", "rot", "takes little", "cut off")


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    nodes = draw(st.integers(2, 5))
    pairs = [(one, other) for one in range(nodes) for other in range(nodes)]
    way = st.sampled_from(["", "", "both", "both", "pull", "push"])
    links = [(one, other, draw(way)) for one, other in pairs]
    held = draw(st.lists(st.sets(st.integers(0, 5)), min_size=nodes, max_size=nodes))
    faults = draw(st.lists(st.sampled_from(FAULTS), min_size=nodes, max_size=nodes))
    return Plan(
        [x for x in links if x[2]], held, faults, draw(st.booleans()), draw(st.integers(0, 99))
    )


def reached(plan: Plan) -> set[int]:
    """The nodes that node 0 lists, or that those list, and so on."""
    found, fresh = {0}, {0}
    while fresh:
        fresh = {other for one, other, _ in plan.links if one in fresh} - found
        found |= fresh
    return found


async def befall(world: World, member: Member, fault: str) -> None:
    if fault == "dead":
        await member.stop()
    elif fault == "lost its disk":
        await member.stop()
        member.store = MemoryStore()
        await member.start()
    elif fault == "rot":
        for digest in sorted(await held(member))[:1]:
            member.node.keeper.damaged(Damage(digest, "it has rotted"))
            await member.node.keeper.settled(digest)
    elif fault == "cut off":
        for other in world.members:
            if other is not member:
                world.cut(member.name, other.name)


@settings(quick, max_examples=30)
@given(plans())
def test_whatever_befalls_a_mesh_what_it_says_of_itself_is_true(plan: Plan) -> None:
    async def main() -> None:
        async with a_world(plan.seed) as world:
            for number, names in enumerate(plan.blobs):
                store = await filled(*(blob(n, 100 + n) for n in names))
                member = world.add(f"n{number}", store=store)
                little = plan.faults[number] == "takes little"
                peers = [(other, way) for one, other, way in plan.links if one == number]
                entries = tuple(PeerEntry(f"n{n}:7280", direction=way) for n, way in peers)
                member.config = Config(
                    peers=entries,
                    interval_seconds=HOUR,
                    max_replica_bytes=103 if little else 10**9,
                    max_blob_bytes=103 if little else 10**9,
                )
            for member in world.members:
                await member.start()
            if plan.settled:
                await trio.sleep(10.0)
            for member, fault in zip(world.members, plan.faults, strict=True):
                await befall(world, member, fault)
            asker = world.members[0]
            if asker.running:
                before = await held(asker)
                told = await answer(asker, 30.0)
                others = [await held(world.members[n]) for n in reached(plan)]
                if told.level:
                    assert all(before <= other for other in others)
                    if not any(way == "push" for one, _, way in plan.links if one in reached(plan)):
                        assert all(other == others[0] for other in others)
            await trio.sleep(1.0)
            await statuses_are_true(world)

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def statuses_are_true(world: World) -> None:
    """Of each peer whose root is what it is said to be, the numbers are right or unknown."""
    for member in world.members:
        for peer in member.node.status().peers if member.running else ():
            other = world.named(name_of(peer.url))
            if not other.running or peer.root != other.root:
                continue
            ours, theirs = await held(member), await held(other)
            assert peer.missing_here in (None, len(theirs - ours)), (member.name, peer)
            assert peer.missing_there in (None, len(ours - theirs)), (member.name, peer)
            if peer.in_sync:
                assert ours == theirs


# --- another node, or another run of it, at an address -----------------------------------------


async def replaced(world: World, member: Member) -> Member:
    """Another node, which holds nothing, at the address of one that is stopped."""
    await member.stop()
    other = world.add(member.name, node_id=b"another node" + bytes(4), interval=HOUR)
    await other.start()
    return other


@trio_test
async def test_another_node_that_answers_an_announcement_is_compared_with_at_once(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        a = await world.start("a", "b", interval=HOUR, store=await filled(*blobs(0, 10)))
        await world.level(10.0)
        other = await replaced(world, b)
        await a.put(blob(10))
        await world.level(10.0, a, other)


@trio_test
async def test_a_node_that_takes_the_place_of_a_peer_in_a_wait_is_not_counted(
    autojump_clock: MockClock,
) -> None:
    async def swap(path: str) -> None:
        nonlocal b
        if path == "standing" and len(world.members) == 2:
            b = await replaced(world, b)
            await a.node.peers[0].sync()
            raise Unreachable("b:7280 broke off")

    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        wires = {"b": lambda wire: Watching(wire, swap)}
        a = await world.start("a", "b", interval=HOUR, store=await filled(blob(1)), wires=wires)
        told = await answer(a, 30.0)
        assert not told.level
        assert "another node answers at its address now" in told.said


@trio_test
async def test_a_round_with_two_runs_of_a_peer_proves_nothing(autojump_clock: MockClock) -> None:
    """What the first run had when it was compared, the second may not have."""

    async def restart(path: str) -> None:
        nonlocal restarted
        if path == "offer" and not restarted:
            restarted = True
            await b.restart()

    restarted = False
    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        wires = {"b": lambda wire: Watching(wire, restart)}
        a = await world.start("a", "b", interval=HOUR, store=await filled(blob(1)), wires=wires)
        stats = await a.node.peers[0].sync()
        assert restarted
        assert (stats.error, stats.proven, stats.sent) == (None, False, 1)
        await until(lambda: a.peer("b").in_sync, 10.0)


@trio_test
async def test_a_node_that_has_several_addresses_of_its_own_only_says_so(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a = world.add("a", ["a", "alias"])
        a.urls.append(url_of("alias"))
        await a.start()
        told = await answer(a, 10.0)
        assert not told.level
        assert told.said.startswith("each of the 2 peers that is configured is this node itself")
