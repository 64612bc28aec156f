"""What replication costs, pinned: requests and payload bytes on the network in memory.

A number that changes here is a change of what users pay; one that grows needs a reason.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mesh.core.digest import digest_of
from mesh.status import RoundStats
from mesh.store.base import Blob
from mesh.store.memory import MemoryStore
from tests.actors.world import HOUR, Member, Slow, Tap, World, a_world, blobs, filled, large

pytestmark = pytest.mark.trio

MANY = 100_000


@cache
def _items(count: int) -> list[Blob]:
    return [Blob(digest_of(data), data) for data in blobs(0, count)]


_stores: dict[int, MemoryStore] = {}


async def holding(count: int) -> MemoryStore:
    """A store of `count` blobs."""
    if count not in _stores:
        _stores[count] = store = MemoryStore()
        await store.commit(_items(count))
    return deepcopy(_stores[count])


async def one_round(
    world: World, here: MemoryStore, there: MemoryStore, **config: Any
) -> tuple[Member, RoundStats]:
    """The first round of a node with its only peer, which does not list it; `config` is ours."""
    await world.start("b", interval=HOUR, store=there)
    a = await world.start("a", ["b"], interval=HOUR, store=here, **config)
    stats = await a.node.peers[0].sync()
    assert stats.proven
    return a, stats


def kinds(member: Member, peer: str = "b") -> Counter[str]:
    """The requests to a peer by their kind."""
    return Counter(path.partition("/")[0] for path in member.traffic(peer).requests)


@pytest.mark.parametrize(("count", "up", "down"), [(0, 146, 41), (1000, 148, 41), (MANY, 150, 41)])
async def test_equal_stores_cost_one_small_request(
    autojump_clock: MockClock, count: int, up: int, down: int
) -> None:
    async with a_world() as world:
        a, _ = await one_round(world, await holding(count), await holding(count))
        traffic = a.traffic("b")
        assert kinds(a) == {"root": 1}
        assert (traffic.up, traffic.down) == (up, down)
        assert up + down <= 200


@pytest.mark.parametrize(
    ("cells", "requests", "up", "down"),
    [
        (2**18, {"root": 1, "find": 1, "batch": 1}, 241, 313),
        (0, {"root": 1, "tree": 4, "batch": 1}, 375, 1131),
    ],
)
async def test_one_blob_that_only_the_peer_has_costs_a_little(
    autojump_clock: MockClock, cells: int, requests: dict[str, int], up: int, down: int
) -> None:
    here, there = await holding(MANY), await holding(MANY)
    await filled(b"one more", store=there)
    async with a_world() as world:
        a, stats = await one_round(world, here, there, sketch_cells=cells)
        assert stats.fetched == 1
        assert kinds(a) == requests
        assert (a.traffic("b").up, a.traffic("b").down) == (up, down)


@pytest.mark.parametrize(
    ("cells", "requests", "up", "down"),
    [
        (2**18, {"root": 1, "offer": 1, "push": 1}, 366, 421),
        (0, {"root": 1, "tree": 4, "offer": 1, "push": 1}, 543, 1237),
    ],
)
async def test_one_blob_that_only_we_have_costs_a_little(
    autojump_clock: MockClock, cells: int, requests: dict[str, int], up: int, down: int
) -> None:
    here, there = await holding(MANY), await holding(MANY)
    await filled(b"one more", store=here)
    async with a_world() as world:
        a, stats = await one_round(world, here, there, sketch_cells=cells)
        assert stats.sent == 1
        assert kinds(a) == requests
        assert (a.traffic("b").up, a.traffic("b").down) == (up, down)


async def test_filling_an_empty_node_costs_a_batch_for_each_thousand_blobs(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a, stats = await one_round(world, MemoryStore(), await holding(20_000))
        assert stats.fetched == 20_000
        assert kinds(a) == {"root": 1, "tree": 3, "batch": 20}
        payload = stats.fetched_bytes
        # 32 bytes a blob to learn of it, 32 to ask for it, 41 to frame it.
        assert (a.traffic("b").up, a.traffic("b").down - payload) == (640_736, 1_461_283)


async def test_filling_an_empty_peer_costs_an_offer_and_a_push_for_each_thousand_blobs(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a, stats = await one_round(world, await holding(20_000), MemoryStore())
        assert stats.sent == 20_000
        assert kinds(a) == {"root": 1, "offer": 20, "push": 20}
        payload = stats.sent_bytes
        assert (a.traffic("b").up - payload, a.traffic("b").down) == (1_462_828, 643_976)


@pytest.mark.parametrize(("group", "every"), [(100, 0.02), (1000, 0.1), (250, 0.25)])
async def test_a_bulk_put_into_one_of_three_moves_each_blob_twice_and_asks_seldom(
    autojump_clock: MockClock, group: int, every: float
) -> None:
    """10,000 files: each peer fetches them in large batches; the peers tell each other little.

    `group` files are committed at a time, `every` so many seconds: as quick and as slow clients do.
    """
    mesh = {"a": "bc", "b": "ac", "c": "ab"}
    async with a_world() as world:
        for name, peers in mesh.items():
            links = dict.fromkeys(peers, lambda wire: Slow(wire, 20_000_000))
            world.add(name, peers, interval=HOUR, wires=links)
        for member in world.members:
            await member.start()
        await trio.sleep(10.0)
        links = [(member, peer) for member in world.members for peer in mesh[member.name]]
        for member, peer in links:
            member.traffic(peer).reset()
        began = trio.current_time()
        for first in range(0, 10_000, group):
            await world.named("a").put(*blobs(first, first + group, 1000))
            await trio.sleep(every)
        putting = trio.current_time() - began
        await world.level(2.5)
        await trio.sleep(5.0)
        assert all(member.peer(peer).in_sync for member, peer in links)
        requests: Counter[str] = Counter()
        for member, peer in links:
            requests += kinds(member, peer)
        # 10 full batches for each peer, and one or two that are not full for each round.
        rounds = putting + 3
        assert requests["batch"] <= 2 * (10 + 2 * rounds)
        assert requests["push"] <= 2  # what came first; the peers are not known to fetch yet
        assert requests["offer"] <= 2 * (rounds + 2) + 4 * (rounds + 4)
        assert requests.total() <= 90 + 18 * rounds
        moved = sum(member.traffic(peer).up + member.traffic(peer).down for member, peer in links)
        # Twice the bytes, and 140 at most for each blob and peer: to find, ask for, and frame it.
        assert 2 * 10_000_000 <= moved <= 2 * 10_000 * (1000 + 140)
        # The two others say little to each other.
        assert sum(t.up + t.down for t in (world.named("b").traffic("c"),
                   world.named("c").traffic("b"))) <= 100_000  # fmt: skip


async def test_with_two_sources_each_blob_is_fetched_once(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("a", interval=HOUR, store=await holding(20_000))
        await world.start("b", interval=HOUR, store=await holding(20_000))
        taps = {"a": Tap, "b": Tap}
        c = await world.start("c", ["a", "b"], interval=HOUR, wires=taps)
        reports = await c.node.wait(60.0)
        assert all(report.level for report in reports)
        came = c.wire("a").came + c.wire("b").came
        assert set(came) == {item.digest for item in _items(20_000)}
        assert set(came.values()) == {1}


async def test_a_batch_that_takes_longer_than_a_lease_is_not_fetched_twice(
    autojump_clock: MockClock,
) -> None:
    some = blobs(0, 256, 16 * 1024)
    slow = {name: lambda wire: Slow(Tap(wire), 50_000) for name in "ab"}
    async with a_world() as world:
        await world.start("a", store=await filled(*some))
        await world.start("b", store=await filled(*some))
        c = await world.start("c", ["a", "b"], wires=slow)
        await world.level(600.0)
        came = c.wire("a").inner.came + c.wire("b").inner.came
        assert sum(came.values()) == len(some)


async def test_large_blobs_that_wait_for_their_turn_are_not_fetched_twice(
    autojump_clock: MockClock,
) -> None:
    some = [large(number) for number in range(8)]
    slow = {name: lambda wire: Slow(Tap(wire), 500_000) for name in "ab"}
    async with a_world() as world:
        await world.start("a", store=await filled(*some))
        await world.start("b", store=await filled(*some))
        c = await world.start("c", ["a", "b"], wires=slow)
        await world.level(600.0)
        came = c.wire("a").inner.came + c.wire("b").inner.came
        assert sum(came.values()) == len(some)
