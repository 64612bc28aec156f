"""Node.wait: is everything everywhere yet, and if not, what is missing and why."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mesh.config import Config
from mesh.core.horizon import MAX_HOPS
from mesh.errors import InputError, Refused
from mesh.status import WaitAnswer, WaitReport
from mesh.wire.messages import StandingReply, StandingRequest, decode, encode
from tests.actors.world import (
    HOUR,
    Failing,
    Member,
    Slow,
    Watching,
    World,
    a_world,
    blob,
    blobs,
    filled,
    large,
    url_of,
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


async def answer(member: Member, timeout: float | None, *, whole: bool = False) -> WaitAnswer:
    """What `mesh wait` gets to see, and how long it took at most."""
    began = trio.current_time()
    told = await member.node.wait_and_tell(timeout, whole=whole)
    assert timeout is None or trio.current_time() - began <= timeout + 0.001
    return told


async def chain(world: World, names: str, *, interval: float = HOUR, **options: Any) -> None:
    """Nodes in a row, each of which lists its neighbours, when their first rounds are over."""
    for at, name in enumerate(names):
        peers = names[max(0, at - 1) : at] + names[at + 1 : at + 2]
        await world.start(name, peers, interval=interval, **options)
    await trio.sleep(10.0)


# --- who counts ------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
async def test_without_peers_nothing_is_promised(autojump_clock: MockClock, whole: bool) -> None:
    async with a_world() as world:
        a = await world.start("a", store=await filled(blob(1)))
        told = await answer(a, None, whole=whole)
        assert (told.level, told.peers) == (False, [])
        assert told.said == "no peers are configured; nothing is anywhere else"


async def test_a_node_that_is_its_only_peer_promises_nothing(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a", ["a"], store=await filled(blob(1)))
        told = await answer(a, None)
        assert not told.level
        assert [report.counts for report in told.peers] == [False]
        assert "the only peer that is configured is this node itself" in told.said


async def test_another_address_of_a_peer_is_not_counted_twice(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = world.add("b")
        b.urls.append(url_of("alias"))
        await b.start()
        a = await world.start("a", ["a", "b", "alias"], store=await filled(*blobs(0, 10)))
        told = await answer(a, 60.0)
        assert told.level
        assert told.said == "level with 1 of 1 peers"


# --- directions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "here", "there", "said"),
    [
        ("pull", 0, None, "from b blobs are only fetched, so it may lack some"),
        ("push", None, 0, "to b blobs are only sent, so some of its own may be missing here"),
    ],
)
async def test_only_what_the_direction_moves_is_waited_for(
    autojump_clock: MockClock, direction: str, here: int | None, there: int | None, said: str
) -> None:
    async with a_world() as world:
        b = await world.start("b", store=await filled(blob(1), blob(2)))
        a = await world.start("a", ["b"], direction=direction, store=await filled(blob(3)))
        told = await answer(a, 60.0)
        assert told.level
        assert told.peers == [
            WaitReport(
                peer="b", level=True, direction=direction, missing_here=here, missing_there=there
            )
        ]
        assert told.said == f"level with 1 of 1 peers; {said}"
        assert (a.count, b.count) == ((3, 2) if direction == "pull" else (1, 3))


@pytest.mark.parametrize("direction", ["pull", "push"])
async def test_what_the_direction_moves_is_waited_for(
    autojump_clock: MockClock, direction: str
) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(*blobs(0, 10)))
        a = await world.start("a", ["b"], direction=direction, store=await filled(*blobs(20, 30)))
        world.network.cut(url_of("a"), url_of("b"))
        (report,) = (await answer(a, 20.0)).peers
        assert (report.level, report.direction) == (False, direction)
        assert "cannot reach" in (report.error or "")


# --- the peers -------------------------------------------------------------------------------


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
        assert "max_replica_bytes" in (report.error or "")


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


async def test_a_wait_for_what_will_never_fit_ends_at_once(autojump_clock: MockClock) -> None:
    limit = 5 * 1024 * 1024
    async with a_world() as world:
        await world.start("b", store=await filled(large(1, limit + 1), *blobs(10, 20)))
        a = await world.start("a", ["b"], max_replica_bytes=limit, max_blob_bytes=1000)
        told = await answer(a, None)
        assert not told.level
        assert "1 blob missing here" in told.said
        assert "raise it on this node" in told.said


async def test_a_peer_that_takes_nothing_is_said_to(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b", reserve_bytes=2**50)  # it is full
        a = await world.start("a", ["b"], store=await filled(*blobs(0, 10)))
        told = await answer(a, 10.0)
        assert not told.level
        assert "b: 10 missing there" in told.said
        assert "the peer did not take 10" in told.said


# --- behind the peers ------------------------------------------------------------------------


async def test_a_dead_end_of_a_chain_is_said(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await chain(world, "abc")
        a, b, c = world.members
        await c.stop()
        await a.put(blob(1))
        told = await answer(a, 60.0)
        assert told.level, "with all peers of a"
        assert told.said.startswith("level with 1 of 1 peers; b says its peer c is not level (")
        assert "cannot reach" in told.said
        assert b.count == 1
        told = await answer(a, 60.0, whole=True)
        assert not told.level
        assert len(told.beyond) == 1


async def test_a_chain_that_is_well_is_seen_to_its_end(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await chain(world, "abcdef")
        a, *others = world.members
        names = await a.put(*blobs(0, 100))
        told = await answer(a, 60.0, whole=True)
        assert told.level
        assert told.said == "level with 1 of 1 peers and with 4 nodes behind them"
        assert all(member.has(*names) for member in others)


async def test_the_end_of_a_chain_is_waited_for(autojump_clock: MockClock) -> None:
    """Although its neighbour has long stopped trying it often."""
    async with a_world() as world:
        await chain(world, "abcd")
        a, _, _, d = world.members
        await d.stop()
        names = await a.put(*blobs(0, 10))
        await trio.sleep(2000.0)

        async def later() -> None:
            await trio.sleep(30.0)
            d.config = Config(peers=(), interval_seconds=HOUR)  # it calls nobody by itself
            await d.start()

        world.nursery.start_soon(later)
        began = trio.current_time()
        told = await answer(a, None, whole=True)
        assert told.level
        assert d.has(*names)
        assert 30.0 <= seconds(began) <= 45.0


async def test_a_circle_is_asked_once_around(autojump_clock: MockClock) -> None:
    ring = {"a": "be", "b": "ac", "c": "bd", "d": "ce", "e": "da"}
    async with a_world() as world:
        for name, peers in ring.items():
            await world.start(name, peers, interval=HOUR)
        a, *_ = world.members
        await trio.sleep(10.0)
        await a.put(blob(1))
        await world.level(5.0)
        await trio.sleep(10.0)  # so that nobody has to wait before it begins a round
        for member in world.members:
            for name in ring[member.name]:
                member.traffic(name).reset()
        told = await answer(a, 60.0, whole=True)
        assert told.level
        asked = [
            member.traffic(name).requests.count("standing")
            for member in world.members
            for name in ring[member.name]
        ]
        # a asks b and e twice: at first they have not been level with c and d since the wait began.
        # Then it has c and d asked by them.
        assert sum(asked) == 8


async def test_a_mesh_is_waited_for_while_it_is_written_to(autojump_clock: MockClock) -> None:
    """Roots are never equal there; that all of the beginning has arrived is proven all the same."""
    async with a_world() as world:
        await chain(world, "abc")
        a, b, c = world.members
        names = await a.put(*blobs(0, 10))
        fresh = iter(range(10_000, 100_000))

        async def write() -> None:
            while True:
                for member in (b, c):
                    await member.put(blob(next(fresh)))
                await trio.sleep(0.05)

        with trio.CancelScope() as writing:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                told = await answer(a, 60.0, whole=True)
                writing.cancel()
        assert told.level
        assert c.has(*names)


async def test_an_older_peer_is_said_not_to_tell(autojump_clock: MockClock) -> None:
    def older(wire: Any) -> Any:
        return Failing(wire, "standing", Refused("b:7280 declined: Not Found"))

    async with a_world() as world:
        await world.start("c")
        await world.start("b", ["c"], interval=HOUR)
        a = await world.start("a", ["b"], interval=HOUR, wires={"b": older})
        told = await answer(a, 60.0)
        assert told.level
        assert "b does not tell how it stands with its peers" in told.said
        began = trio.current_time()
        told = await answer(a, None, whole=True)
        assert not told.level
        assert seconds(began) < 1.0, "it will not tell later either"


async def test_an_older_node_behind_a_peer_is_said_not_to_tell(autojump_clock: MockClock) -> None:
    def older(wire: Any) -> Any:
        return Failing(wire, "standing", Refused("c:7280 declined: Not Found"))

    async with a_world() as world:
        await world.start("c", interval=HOUR)
        await world.start("b", ["c"], interval=HOUR, wires={"c": older})
        a = await world.start("a", ["b"], interval=HOUR)
        await trio.sleep(10.0)
        told = await answer(a, None, whole=True)
        assert not told.level
        assert "c does not tell how it stands with its peers" in told.said


async def test_a_peer_that_hangs_when_it_is_asked_does_not_hold_up_a_wait(
    autojump_clock: MockClock,
) -> None:
    async def hang(path: str) -> None:
        if path == "standing":
            await trio.sleep_forever()

    async with a_world() as world:
        await world.start("b", interval=HOUR)
        a = await world.start("a", ["b"], wires={"b": lambda wire: Watching(wire, hang)})
        await trio.sleep(10.0)
        began = trio.current_time()
        told = await answer(a, None)
        assert told.level
        assert seconds(began) <= 1.5
        told = await answer(a, 5.0, whole=True)
        assert not told.level
        assert "b has not said yet how it stands with its peers" in told.said


# --- what a node tells -----------------------------------------------------------------------


async def tell(member: Member, *route: Member, since: int | None = None) -> StandingReply:
    """The answer to a question that a stranger sends."""
    request = StandingRequest(route=[each.node_id for each in route], since=since)
    return decode(StandingReply, await member.node.service.call("standing", encode(request)))


async def test_a_node_tells_of_the_peers_that_count(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        a = await world.start("a", ["a", "b", "gone"], interval=HOUR)
        await trio.sleep(10.0)
        reply = await tell(a)
        assert [edge.name for edge in reply.peers] == ["b", "gone:7280"]
        well, dead = reply.peers
        assert (well.node, well.level, well.error) == (b.node_id, 0, None)
        assert (dead.node, dead.level) == (None, None)
        assert "cannot reach" in (dead.error or "")


async def test_a_question_is_passed_on_to_peers_and_to_nobody_else(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await chain(world, "abc")
        a, b, c = world.members
        stranger = await world.start("d")
        assert [edge.name for edge in (await tell(a, b)).peers] == ["a", "c"]
        assert [edge.name for edge in (await tell(a, b, c)).peers] == ["b"]
        assert [edge.name for edge in (await tell(a, b, a)).peers] == ["b"]
        for route in ((c,), (stranger,), (b, stranger), (a,)):
            reply = await tell(a, *route)
            assert "is not a peer of" in (reply.error or ""), route
            assert not reply.peers
        with pytest.raises(InputError, match="once"):
            await tell(a, b, a, b)
        with pytest.raises(InputError):
            await tell(a, *[b] * (MAX_HOPS + 1))


async def test_questions_that_hang_are_few(autojump_clock: MockClock) -> None:
    async def hang(path: str) -> None:
        if path == "standing":
            await trio.sleep_forever()

    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        a = await world.start("a", ["b"], wires={"b": lambda wire: Watching(wire, hang)})
        await trio.sleep(10.0)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(tell, a, b)
            await trio.sleep(1.0)
            with pytest.raises(Refused, match="busy"):
                await tell(a, b)
            assert (await tell(a)).peers, "what it knows by itself it tells all the same"
            await trio.sleep(60.0)  # they are given up
        assert "no answer" in ((await tell(a, b)).error or "")


async def test_asking_makes_a_node_look_once_and_not_more_often_than_once_a_second(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("b", interval=HOUR, store=await filled(blob(1)))
        a = await world.start("a", ["b"], interval=HOUR, max_replica_bytes=1, max_blob_bytes=1)
        await trio.sleep(10.0)
        before = a.peer("b").rounds
        for _ in range(100):
            await tell(a, since=0)
            await trio.sleep(0.1)
        assert 9 <= a.peer("b").rounds - before <= 11
