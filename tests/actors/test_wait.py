"""Node.wait: is everything everywhere yet, and if not, what is missing and why."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mesh.status import WaitReport
from tests.actors.world import (
    HOUR,
    Member,
    Slow,
    Watching,
    a_world,
    blob,
    blobs,
    filled,
    large,
)

pytestmark = pytest.mark.trio


async def wait(member: Member, timeout: float | None) -> dict[str, WaitReport]:
    """The reports by peer, and how long it took at most."""
    began = trio.current_time()
    reports = await member.node.wait(timeout)
    assert timeout is None or trio.current_time() - began <= timeout + 0.001
    return {report.peer: report for report in reports}


def seconds(began: float) -> float:
    return trio.current_time() - began


async def test_a_node_without_peers_is_level(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a")
        assert await wait(a, None) == {}


async def test_in_a_level_mesh_all_are_level_at_once(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        for name, peers in {"a": "bc", "b": "ac", "c": "ab"}.items():
            await world.start(name, peers, interval=HOUR, store=await filled(*blobs(0, 100)))
        a, *_ = world.members
        began = trio.current_time()
        reports = await wait(a, 60.0)
        assert seconds(began) < 0.1
        assert reports == {
            name: WaitReport(peer=name, level=True, missing_here=0, missing_there=0)
            for name in "bc"
        }


async def test_nodes_are_made_level_without_waiting_for_their_rounds(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        store = await filled(*blobs(0, 3000), large(1))
        await world.start("b", interval=HOUR, store=store)
        store = await filled(*blobs(2000, 5000), large(2))
        a = await world.start("a", "b", interval=HOUR, store=store)
        began = trio.current_time()
        reports = await wait(a, None)
        assert seconds(began) < 1.0
        assert reports["b"] == WaitReport(peer="b", level=True, missing_here=0, missing_there=0)
        await world.level(0.0)


async def test_an_unreachable_peer_is_not_level_at_the_time_limit(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(*blobs(0, 10)))
        a = await world.start("a", ["b", "gone"], store=await filled(*blobs(5, 20)))
        began = trio.current_time()
        reports = await wait(a, 20.0)
        assert seconds(began) >= 19.9
        assert reports["b"].level
        gone = reports["gone:7280"]
        assert (gone.level, gone.missing_here, gone.missing_there) == (False, None, None)
        assert "cannot reach" in (gone.error or "")


async def test_a_peer_that_never_answers_is_reported_as_such(autojump_clock: MockClock) -> None:
    async with a_world() as world:

        async def hang(path: str) -> None:
            await trio.sleep_forever()

        await world.start("b")
        a = await world.start("a", ["b"], wires={"b": lambda wire: Watching(wire, hang)})
        reports = await wait(a, 5.0)
        assert reports["b:7280"] == WaitReport(peer="b:7280", level=False, error="no answer yet")


async def test_a_peer_that_comes_up_meanwhile_is_waited_for(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a", ["b"], store=await filled(*blobs(0, 10)))
        b = world.add("b")

        async def later() -> None:
            await trio.sleep(30.0)
            await b.start()

        world.nursery.start_soon(later)
        began = trio.current_time()
        reports = await wait(a, None)
        assert all(report.level for report in reports.values())
        assert 30.0 <= seconds(began) <= 33.0
        assert b.count == 10


async def test_blobs_that_are_put_after_the_call_began_do_not_matter(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = await world.start("b", interval=HOUR, store=await filled(*blobs(0, 1000)))
        fresh = iter(range(10_000, 100_000))

        async def write(path: str) -> None:
            """Before every request of a's, something new on both sides."""
            await a.put(blob(next(fresh)))
            await b.put(blob(next(fresh)))

        wires: dict[str, Any] = {"b": lambda wire: Watching(wire, write)}
        store = await filled(*blobs(500, 1500))
        a = await world.start("a", ["b"], interval=HOUR, store=store, wires=wires)
        reports = await wait(a, 60.0)
        assert reports["b"].level


async def test_blobs_that_were_put_before_the_call_do_matter(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        a = await world.start("a", ["b"], interval=HOUR)
        await trio.sleep(10.0)
        world.network.cut("http://a:7280", "http://b:7280")
        names = await a.put(*blobs(0, 10))
        await trio.sleep(1.0)
        assert not (await wait(a, 5.0))["b"].level
        world.network.heal("http://a:7280", "http://b:7280")
        assert (await wait(a, 60.0))["b"].level
        assert b.has(*names)


async def test_what_is_missing_here_is_counted(autojump_clock: MockClock) -> None:
    limit = 5 * 1024 * 1024
    async with a_world() as world:
        some = [large(1, limit + 1), large(2, limit + 1)]
        await world.start("b", store=await filled(*some, *blobs(10, 20)))
        a = await world.start("a", ["b"], max_replica_bytes=limit, max_blob_bytes=1000)
        report = (await wait(a, 10.0))["b"]
        assert (report.level, report.missing_here, report.missing_there) == (False, 2, 0)


async def test_what_is_missing_there_is_counted(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        store = await filled(*blobs(0, 10, 100_000), large(1))
        await world.start("b", interval=HOUR)
        slow: dict[str, Any] = {"b": lambda wire: Slow(wire, 10_000)}
        a = await world.start("a", ["b"], interval=HOUR, store=store, wires=slow)
        # Too little time for them to get there.
        report = (await wait(a, 20.0)).popitem()[1]
        assert not report.level
        assert (report.missing_there, report.error) in ((11, None), (None, "no answer yet"))


async def test_a_peer_that_stays_behind_is_counted(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start(
            "b", store=await filled(*blobs(5, 8)), max_replica_bytes=99, max_blob_bytes=9
        )
        a = await world.start("a", ["b"], store=await filled(*blobs(0, 8), large(1)))
        report = (await wait(a, 10.0))["b"]
        assert not report.level
        # The round in which it declined says why, one that did not offer it again how many.
        assert report.missing_there == 1 or "max_replica_bytes" in (report.error or "")


async def test_a_wait_ends_with_its_caller(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a", ["gone"])
        tasks = trio.lowlevel.current_statistics().tasks_living
        with trio.move_on_after(10.0):
            await a.node.wait(None)
        assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_many_may_wait_at_once(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(*blobs(0, 1000)))
        a = await world.start("a", ["b"])
        done: list[bool] = []

        async def one() -> None:
            done.append((await wait(a, 60.0))["b"].level)

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
        assert done == [True] * 50
