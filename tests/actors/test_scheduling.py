"""When rounds happen, and that one bad peer, one bug and one stop are nobody else's business."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mesh.config import Address, Config
from mesh.core.digest import digest_of
from mesh.core.schedule import (
    BACKOFF_BASE,
    BACKOFF_CAP,
    FIRST_EACH,
    FIRST_WITHIN,
    HINT_SPACING,
    JITTER,
)
from mesh.errors import MeshError, StoreError
from mesh.node import Identity, Node
from mesh.offload import Inline
from mesh.store.base import Blob
from mesh.store.memory import MemoryStore
from mesh.transport.pace import CALL, SILENCE
from mesh.wire.frames import Kind, end, frame
from tests.actors.world import (
    HOUR,
    Dripping,
    Hanging,
    HangingStream,
    NotTaking,
    Refusing,
    Slow,
    Through,
    a_world,
    blob,
    blobs,
    filled,
    large,
    until,
    url_of,
)

pytestmark = pytest.mark.trio


class Tries(Through):
    """Notes when each request was begun, whatever becomes of it."""

    def __init__(self, wire: Any) -> None:
        super().__init__(wire)
        self.at: list[float] = []

    async def before(self, path: str) -> None:
        self.at.append(trio.current_time())


# --- interval, jitter, backoff -----------------------------------------------------------------


async def test_rounds_with_a_healthy_peer_come_once_an_interval_with_jitter(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("b")
        a = await world.start("a", ["b"], wires={"b": Tries}, interval=30.0)
        began = trio.current_time()
        await trio.sleep(HOUR)
        at = a.wire("b").at
        assert at[0] - began <= FIRST_WITHIN
        gaps = [later - earlier for earlier, later in pairwise(at)]
        assert 30.0 * (1 - JITTER) <= min(gaps) < 30.0 < max(gaps) <= 30.0 * (1 + JITTER)
        assert a.peer("b").rounds == len(at)


@pytest.mark.parametrize("seed", range(4))
async def test_a_peer_that_is_down_is_tried_ever_more_rarely(
    autojump_clock: MockClock, seed: int
) -> None:
    async with a_world(seed) as world:
        a = await world.start("a", ["b"], wires={"b": Tries})
        await trio.sleep(HOUR)
        tries = len(a.wire("b").at)
        # Every delay at its longest: the first round, then 2, 4, 8 … seconds up to the cap.
        growing = [BACKOFF_BASE * 2**n for n in range(1, 20) if BACKOFF_BASE * 2**n < BACKOFF_CAP]
        least = 1 + len(growing) + int((HOUR - FIRST_WITHIN - sum(growing)) / BACKOFF_CAP)
        # Delays are half as long on average; more than twice as many tries would be bad luck.
        assert least <= tries <= 2 * (least + HOUR / BACKOFF_CAP)
        status = a.peer("b")
        assert (status.state, status.failures) == ("failing", tries)
        assert "cannot reach" in (status.last_error or "")


async def test_a_node_beside_one_or_two_peers_begins_within_a_fifth_of_a_second(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("b")
        await world.start("c")
        began = trio.current_time()
        a = await world.start("a", ["b", "c"], wires={"b": Tries, "c": Tries})
        await trio.sleep(10.0)
        assert max(a.wire(name).at[0] for name in "bc") - began <= 0.2


async def test_nodes_do_not_try_in_step(autojump_clock: MockClock) -> None:
    """They start at the same moment, and all of them list one another: no hub meets a herd."""
    names = [f"n{number}" for number in range(16)]
    async with a_world() as world:
        for name in names:
            others = [other for other in names if other != name]
            world.add(name, others, wires=dict.fromkeys(others, Tries))
        for node in world.members:
            await node.start()
        await trio.sleep(20.0)
        within = FIRST_EACH * 15
        for hub in names:
            firsts = sorted(node.wire(hub).at[0] for node in world.members if node.name != hub)
            gaps = [b - a for a, b in zip(firsts, firsts[4:], strict=False)]
            assert within / 50 < min(gaps) <= max(gaps) < within
            assert firsts[-1] - firsts[0] > within / 2


async def test_being_contacted_resets_the_backoff(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a", ["b"], store=await filled(*blobs(0, 10)))
        await trio.sleep(HOUR)
        b = world.add("b", ["a"])
        await b.start()
        # b's first round is what contacts a; then a comes within BACKOFF_BASE.
        assert await until(lambda: a.peer("b").in_sync, 60.0) <= FIRST_WITHIN + BACKOFF_BASE + 0.5
        assert a.peer("b").failures == 0


async def test_a_peer_that_comes_back_is_found_within_the_cap(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a", ["b"])
        await trio.sleep(HOUR)
        await world.start("b", store=await filled(*blobs(0, 10)))
        await world.level(BACKOFF_CAP + 1.0)
        assert (a.peer("b").state, a.peer("b").last_error) == ("idle", None)


async def test_a_peer_that_is_busy_is_tried_again_when_it_says(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(*blobs(0, 10)))
        wires = {"b": lambda wire: Refusing(Tries(wire), "batch", retry_after=20.0)}
        a = await world.start("a", ["b"], wires=wires)
        await until(lambda: a.peer("b").failures == 1, 6.0)
        first = len(a.wire("b").inner.at)
        await trio.sleep(19.0)
        assert len(a.wire("b").inner.at) == first
        a.wire("b").broken = False
        await world.level(BACKOFF_CAP)


async def test_hints_cause_a_round_a_second_and_no_more(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b", ["a"], interval=HOUR)
        a = await world.start("a", ["b"], interval=HOUR)
        await trio.sleep(6.0)
        before = a.peer("b").rounds
        for burst in range(12):
            await b.put(*blobs(burst * 1100, burst * 1100 + 1100))
            await trio.sleep(0.5)
        await world.level(5.0)
        assert a.peer("b").rounds - before <= 6.0 / HINT_SPACING + 3


# --- peers that hang, drip, go away ------------------------------------------------------------


@pytest.mark.parametrize("fault", [Hanging, HangingStream])
async def test_a_peer_that_hangs_delays_another_one_by_nothing(
    autojump_clock: MockClock, fault: Any
) -> None:
    async def levelled(wires: dict[str, Any]) -> float:
        async with a_world(seed=5) as world:
            await world.start("h", store=await filled(*blobs(0, 3000), large(1)))
            await world.start("b", store=await filled(*blobs(4000, 7000), large(2)))
            a = await world.start("a", ["h", "b"], wires=wires)
            return await until(lambda: a.count >= 3001 and a.peer("b").in_sync, 10.0)

    alone = await levelled({"h": lambda wire: Refusing(wire)})
    beside = await levelled({"h": fault})
    assert beside <= alone + 0.1


@pytest.mark.parametrize(
    ("path", "fault", "within"),
    [
        ("root", Hanging, CALL),
        ("tree", Hanging, CALL),
        ("batch", Hanging, CALL),
        ("blob", Hanging, CALL),
        ("batch", HangingStream, SILENCE),
        ("blob", HangingStream, SILENCE),
        ("batch", Dripping, SILENCE),
        ("blob", Dripping, SILENCE),
        ("offer", Hanging, CALL),
        ("push", Hanging, CALL),
        ("push", NotTaking, SILENCE),
    ],
)
async def test_a_peer_that_makes_no_progress_is_cut(
    autojump_clock: MockClock, path: str, fault: Any, within: float
) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(*blobs(0, 3000), large(1)))
        store = await filled(*blobs(2000, 5000), large(2))
        a = await world.start(
            "a", ["b"], store=store, wires={"b": lambda wire: fault(wire, path)}, interval=HOUR
        )
        cut = await until(lambda: a.peer("b").state == "failing", FIRST_WITHIN + 2 * within)
        assert cut <= FIRST_WITHIN + within + 5.0
        assert "b:7280" in (a.peer("b").last_error or "")
        a.wire("b").broken = False
        await world.level(2 * HOUR)


@pytest.mark.parametrize("interval", [30.0, HOUR])
async def test_what_a_hanging_peer_has_claimed_comes_from_another_one(
    autojump_clock: MockClock, interval: float
) -> None:
    some = [*blobs(0, 3000), large(1)]
    async with a_world() as world:
        await world.start("h", store=await filled(*some))
        await world.start("b", store=await filled(*some))
        wires = {"h": HangingStream}
        a = await world.start("a", ["h", "b"], wires=wires, interval=interval)
        # At b's first round everything is claimed by h. When h has been cut, b brings it.
        world.nursery.start_soon(a.node.find_peer("h:7280").sync)
        await until(lambda: a.count == len(some), FIRST_WITHIN + SILENCE + 30.0 * (1 + JITTER))


async def test_a_link_that_flaps_leaves_no_tasks_behind(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a", ["b"], store=await filled(*blobs(0, 3000)))
        b = await world.start("b", ["a"], store=await filled(*blobs(2000, 5000)))
        before = trio.lowlevel.current_statistics().tasks_living
        random = Random(1)
        for number in range(200):
            world.cut("a", "b")
            await trio.sleep(random.uniform(0.0, 5.0))
            world.heal("a", "b")
            await trio.sleep(random.uniform(0.0, 0.2))
            await a.put(blob(10_000 + number))
            await b.put(blob(20_000 + number))
        await world.level(BACKOFF_CAP + 1.0)
        assert trio.lowlevel.current_statistics().tasks_living == before


async def test_a_partition_both_sides_of_which_take_writes_heals(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        names = ["a", "b", "c", "d"]
        nodes = [await world.start(name, [n for n in names if n != name]) for name in names]
        await trio.sleep(60.0)
        for one in "ab":
            for other in "cd":
                world.cut(one, other)
        for number, node in enumerate(nodes):
            await node.put(*blobs(1000 * number, 1000 * number + 500))
        await trio.sleep(600.0)
        assert [node.count for node in nodes] == [1000] * 4
        for one in "ab":
            for other in "cd":
                world.heal(one, other)
        await world.level(BACKOFF_CAP + 1.0)
        assert nodes[0].count == 2000


async def test_a_link_that_works_one_way_only_is_enough(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        world.network.cut(url_of("b"), url_of("a"))
        a = await world.start("a", ["b"], store=await filled(*blobs(0, 1000)))
        b = await world.start("b", ["a"], store=await filled(*blobs(500, 1500)))
        await world.level(10.0)
        await a.put(blob(5000))
        await b.put(blob(6000))
        await world.level(40.0)


async def test_a_peer_that_restarts_again_and_again_becomes_level(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        slow = {"a": lambda wire: Slow(wire, 100_000), "b": lambda wire: Slow(wire, 100_000)}
        some, others = blobs(0, 1500, 2000), blobs(1000, 2500, 2000)
        await world.start("a", ["b"], wires=slow, store=await filled(*some))
        b = await world.start("b", ["a"], wires=slow, store=await filled(*others))
        for number in range(10):
            await trio.sleep(7.0)
            await b.put(blob(10_000 + number))
            await b.restart()
        await world.level(BACKOFF_CAP)
        assert b.count == 2510


@pytest.mark.parametrize("seed", range(2))
async def test_sixteen_nodes_that_start_at_once_converge(
    autojump_clock: MockClock, seed: int
) -> None:
    names = [f"n{number}" for number in range(16)]
    async with a_world(seed) as world:
        for number, name in enumerate(names):
            store = await filled(*blobs(number * 50, number * 50 + 100))
            world.add(name, [other for other in names if other != name], store=store)
        async with trio.open_nursery() as nursery:
            for member in world.members:
                nursery.start_soon(member.start)
        # All of them list all others: two rounds of each are enough.
        await world.level(FIRST_WITHIN + 30.0 * (1 + JITTER))
        assert world.members[0].count == 16 * 50 + 50
        await trio.sleep(60.0)
        assert all(peer.in_sync for m in world.members for peer in m.node.status().peers)


# --- who is who --------------------------------------------------------------------------------


async def test_a_node_that_lists_itself_says_so(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a", ["a", "b"], store=await filled(*blobs(0, 10)))
        await world.start("b", store=await filled(*blobs(5, 20)))
        await world.level(6.0)
        await until(lambda: a.peer("a").state == "self", 6.0)
        await a.put(blob(100))
        await world.level(1.0)
        reports = {report.peer: report for report in await a.node.wait(10.0)}
        assert all(report.level for report in reports.values())


async def test_another_address_of_a_peer_is_recognised(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = world.add("b", store=await filled(*blobs(5, 20)))
        b.urls.append(url_of("alias"))
        await b.start()
        a = await world.start("a", ["b", "alias"], store=await filled(*blobs(0, 10)))
        await world.level(6.0)
        await trio.sleep(6.0)
        assert sorted([a.peer("b").state, a.peer("alias").state]) == ["duplicate", "idle"]
        await a.put(blob(100))
        await world.level(1.0)
        sent = [a.peer(name).sent_blobs for name in ("b", "alias")]
        assert sum(sent) == 6  # nothing goes twice
        assert all(report.level for report in await a.node.wait(10.0))


async def test_another_address_takes_over_when_the_first_one_fails(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = world.add("b")
        b.urls.append(url_of("alias"))
        await b.start()
        a = await world.start("a", ["b", "alias"])
        await trio.sleep(10.0)
        first, second = "b", "alias"
        if a.peer("alias").state == "idle":
            first, second = second, first
        world.cut("a", first)
        await trio.sleep(100.0)
        assert (a.peer(first).state, a.peer(second).state) == ("failing", "idle")
        await filled(blob(1), store=b.store)
        await b.restart()
        await world.level(40.0)


async def test_a_copy_of_our_own_data_directory_is_refused_and_said(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a = await world.start("a", ["copy", "b"], store=await filled(*blobs(0, 10)))
        await world.start("copy", ["a"], node_id=a.node_id, store=await filled(*blobs(90, 99)))
        b = await world.start("b", ["a"], store=await filled(*blobs(5, 20)))
        await world.level(6.0, a, b)
        await until(lambda: a.peer("copy").state == "failing", 6.0)
        assert "copy" in (a.peer("copy").last_error or "")
        assert a.peer("b").in_sync


async def test_two_peers_with_one_identity_are_said(autojump_clock: MockClock) -> None:
    """Not taken for two addresses of one node: what the second one has would never be fetched."""
    async with a_world() as world:
        a = await world.start("a", store=await filled(*blobs(0, 10)))
        await world.start("copy", node_id=a.node_id, store=await filled(*blobs(5, 20)))
        c = await world.start("c", ["a", "copy"])
        await trio.sleep(100.0)
        said = [c.peer(name).last_error or "" for name in ("a", "copy")]
        assert any("copy" in text for text in said), [c.peer("a").state, c.peer("copy").state]


async def test_a_peer_that_restarts_is_not_taken_for_a_copy(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a", ["b"])
        b = await world.start("b", ["a"])
        await trio.sleep(60.0)
        await b.restart()
        await trio.sleep(600.0)
        assert (a.peer("b").state, a.peer("b").in_sync) == ("idle", True)


# --- streams that are not read to their end ----------------------------------------------------


async def test_what_is_not_read_to_its_end_is_let_go_of_at_once(autojump_clock: MockClock) -> None:
    """Otherwise a peer that sends nonsense would use up the places for streams."""

    class Unasked(Through):
        async def received(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            if path == "batch":
                yield frame(Kind.ABSENT, digest_of(b"nobody"))
            async for chunk in chunks:
                yield chunk

    async with a_world() as world:
        await world.start("b", store=await filled(*blobs(0, 3000)))
        bad = await world.start("bad", ["b"], wires={"b": Unasked})
        for _ in range(30):
            assert "nobody asked for" in ((await bad.node.peers[0].sync()).error or "")
        a = await world.start("a", ["b"])
        stats = await a.node.peers[0].sync()
        assert (stats.fetched, stats.error) == (3000, None)


# --- bugs --------------------------------------------------------------------------------------


class Buggy:
    """A Replica that crashes a few times where it should answer."""

    def __init__(self, replica: Any, method: str, crashes: int) -> None:
        self._replica = replica
        self._method = method
        self._crashes = crashes

    def __getattr__(self, name: str) -> Any:
        if name == self._method and self._crashes:
            self._crashes -= 1
            raise RuntimeError("a bug")
        return getattr(self._replica, name)


@pytest.mark.parametrize("method", ["meet", "compare", "fetch", "offer", "push"])
async def test_a_bug_in_one_actor_restarts_it_and_leaves_the_others_alone(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    caplog.set_level(logging.INFO, "mesh")
    async with a_world(crashes=1) as world:
        await world.start("b", store=await filled(*blobs(0, 300)))
        await world.start("c", ["a"], store=await filled(*blobs(1000, 1300)))
        replicas = {"b": lambda replica: Buggy(replica, method, 1)}
        a = await world.start("a", ["b", "c"], replicas=replicas, store=await filled(blob(5000)))
        await world.level(60.0)
        await a.put(blob(6000))
        await world.level(60.0)
        crashed = [record.getMessage() for record in caplog.records if record.exc_info]
        assert len(crashed) == 1
        assert "b:7280" in crashed[0]
        assert a.peer("c").failures == 0


async def test_a_bug_that_always_strikes_does_not_become_a_busy_loop(
    autojump_clock: MockClock,
) -> None:
    class Always(Buggy):
        def __getattr__(self, name: str) -> Any:
            if name == "meet":
                times.append(trio.current_time())
                raise RuntimeError("a bug")
            return super().__getattr__(name)

    times: list[float] = []
    async with a_world(crashes=None) as world:
        await world.start("b")
        await world.start("a", ["b"], replicas={"b": lambda replica: Always(replica, "", 0)})
        await trio.sleep(HOUR)
    assert 12 <= len(times) <= 150


# --- stopping ----------------------------------------------------------------------------------


class Closing(MemoryStore):
    """A store that knows whether it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = False

    async def open(self) -> str:
        self.opened = True
        return await super().open()

    async def close(self) -> None:
        await super().close()
        self.opened = False


async def test_a_stop_in_mid_transfer_closes_the_store_and_loses_nothing(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        some = [*blobs(0, 2000, 1000), large(1)]
        b = await world.start("b", store=await filled(*some))
        tasks = trio.lowlevel.current_statistics().tasks_living
        store = Closing()
        slow = {"b": lambda wire: Slow(wire, 200_000)}
        a = await world.start("a", ["b"], store=store, wires=slow)
        acknowledged = await a.put(*blobs(5000, 5100))
        # In the middle of batches, and of the large blob.
        await until(lambda: a.count > 1000 and a.peer("b").state == "syncing", 60.0)
        assert store.opened
        a.cut_off()
        with trio.fail_after(1.0):
            await a.ended.wait()
        assert not store.opened
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        kept = store.totals.blobs
        await a.restart()
        assert a.count == kept
        assert a.has(*acknowledged)
        await world.level(120.0)
        assert b.count == len(some) + 100


async def test_a_stop_while_we_push_leaves_the_peer_whole(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b")
        slow = {"b": lambda wire: Slow(wire, 200_000)}
        store = await filled(*blobs(0, 2000, 1000), large(1))
        a = await world.start("a", ["b"], store=store, wires=slow)
        await until(lambda: b.count > 0, 60.0)
        a.cut_off()
        with trio.fail_after(1.0):
            await a.ended.wait()
        assert b.count < 2001
        await a.restart()
        await world.level(120.0)


async def test_a_stop_finishes_the_commit_under_way(autojump_clock: MockClock) -> None:
    class Writing(Closing):
        async def commit(self, items: Any) -> list[bool]:
            await trio.sleep(0.5)
            assert self.opened
            await trio.sleep(0.5)
            return await super().commit(items)

    async with a_world() as world:
        store = Writing()
        a = await world.start("a", store=store)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.put, blob(1))
            await trio.sleep(0.25)
            a.cut_off()
        await a.ended.wait()
        assert digest_of(blob(1)) in a.acknowledged
        assert store.totals.blobs == 1
        assert not store.opened


async def test_rounds_that_were_asked_for_are_answered_when_the_node_stops(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("b")
        a = await world.start("a", ["b"], wires={"b": Hanging})
        peer = a.node.peers[0]
        errors: list[str | None] = []

        async def ask() -> None:
            errors.append((await peer.sync()).error)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
            await trio.sleep(1.0)
            a.cut_off()
            with trio.move_on_after(60.0):
                await until(lambda: len(errors) == 20, 50.0)
            nursery.start_soon(ask)
            await trio.sleep(1.0)
            nursery.cancel_scope.cancel()
        assert len(errors) == 21
        assert all(errors)


async def test_a_put_after_the_stop_is_answered(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a")
        keeper = a.node.keeper
        a.cut_off()
        await a.ended.wait()
        with trio.move_on_after(60.0) as gave_up:
            with pytest.raises(MeshError):
                await keeper.put([Blob(digest_of(b"late"), b"late")])
        assert not gave_up.cancelled_caught


async def test_a_push_to_a_node_that_is_not_ready_can_be_cancelled(
    autojump_clock: MockClock,
) -> None:
    """Opening a store may take long, or fail: a stop must not wait for it."""
    node = _node(MemoryStore())

    async def frames() -> AsyncIterator[bytes]:
        yield frame(Kind.BLOB, digest_of(b"one"), 3) + b"one" + end(1)

    async def push(scope: trio.CancelScope) -> None:
        with scope:
            await node.service.upload(f"push/{bytes(16).hex()}", frames())
        ended.set()

    ended = trio.Event()
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(push, scope)
        await trio.sleep(1.0)
        scope.cancel()
        with trio.move_on_after(60.0) as gave_up:
            await ended.wait()
        nursery.start_soon(node.keeper.run)  # only this lets go of it
        await ended.wait()
        nursery.cancel_scope.cancel()
    node.keeper.close()
    node.fetcher.close()
    assert not gave_up.cancelled_caught


async def test_a_node_whose_store_does_not_open_ends_with_that_error(
    autojump_clock: MockClock,
) -> None:
    class Broken(Closing):
        async def open(self) -> str:
            raise StoreError("the index is on fire")

    node = _node(Broken())
    with pytest.raises(StoreError, match="on fire"):
        await node.run()


def _node(store: MemoryStore) -> Node:
    """A node without peers, by itself."""

    def connect(address: Address, ours: Any) -> Any:
        raise AssertionError("it has no peers")

    identity = Identity(b"n" * 16, b"i" * 8, "n")
    return Node(Config(), identity, store, connect, Inline(), Random(0))
