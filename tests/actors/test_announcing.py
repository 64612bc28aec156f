"""New blobs are everywhere at once, although the periodic rounds are an hour apart."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from mesh.core.digest import Digest, digest_of, split_digests
from mesh.wire.messages import Offer, decode
from tests.actors.world import (
    HOUR,
    Failing,
    Member,
    Slow,
    Tap,
    World,
    a_world,
    blob,
    blobs,
    filled,
    large,
    until,
    url_of,
)

pytestmark = pytest.mark.trio

FULL = {"a": "bc", "b": "ac", "c": "ab"}
CHAIN = {"a": "b", "b": "ac", "c": "b"}
FORWARD = {"a": "b", "b": "c", "c": ""}  # each is listed by the one before it only


async def quiet(world: World, mesh: dict[str, str]) -> list[Member]:
    """The nodes of a mesh, an hour's interval each, when all their first rounds are over."""
    for name, peers in mesh.items():
        world.add(name, peers, interval=HOUR, wires=dict.fromkeys(peers, Tap))
    for member in world.members:
        await member.start()
    await trio.sleep(10.0)
    return world.members


def offered(source: Member, target: str) -> list[Digest]:
    """Every digest that a node offered a peer."""
    bodies = source.wire(target).offered
    return [digest for body in bodies for digest in split_digests(decode(Offer, body).digests)]


@pytest.mark.parametrize("mesh", [FULL, CHAIN, FORWARD], ids=["full", "chain", "forward"])
@pytest.mark.parametrize("data", [b"", blob(1), large(1)], ids=["empty", "small", "large"])
async def test_a_new_blob_is_everywhere_within_a_second(
    autojump_clock: MockClock, mesh: dict[str, str], data: bytes
) -> None:
    async with a_world() as world:
        a, *_ = await quiet(world, mesh)
        await a.put(data)
        await world.level(1.0)


async def test_one_blob_on_a_quiet_mesh_is_everywhere_within_50_milliseconds(
    autojump_clock: MockClock,
) -> None:
    """The time that nodes wait by themselves: no link takes any here."""
    async with a_world() as world:
        a, b, c = await quiet(world, FULL)
        await a.put(blob(1))
        await trio.sleep(0.05)
        assert (b.count, c.count) == (1, 1)
        await trio.sleep(10.0)
        await c.put(*blobs(2, 100))
        await trio.sleep(0.05)
        assert (a.count, b.count) == (99, 99)


async def test_a_lost_announcement_is_looked_into_at_once(autojump_clock: MockClock) -> None:
    """Until then the peer is not known to be in sync, nor how much it lacks."""
    async with a_world() as world:
        a, *_ = await quiet(world, {"a": "b", "b": ""})
        assert a.peer("b").in_sync
        world.cut("a", "b")
        await a.put(blob(1))
        await trio.sleep(0.5)
        status = a.peer("b")
        assert (status.state, status.in_sync) == ("failing", False)
        assert (status.missing_here, status.missing_there) == (None, None)
        assert "cannot reach" in (status.last_error or "")
        world.heal("a", "b")
        await until(lambda: a.peer("b").in_sync, 10.0)
        assert (a.peer("b").missing_here, a.peer("b").missing_there) == (0, 0)


async def test_lost_announcements_to_a_dead_peer_are_no_reason_to_try_it_more_often(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a, *_ = await quiet(world, {"a": "b", "b": ""})
        world.cut("a", "b")
        for number in range(600):
            await a.put(blob(number))
            await trio.sleep(1.0)
        assert a.peer("b").rounds < 25


async def test_while_many_come_a_peer_that_fetches_is_only_told_that_there_is_more(
    autojump_clock: MockClock,
) -> None:
    """It then asks for thousands at a time, and nothing is pushed but what came first."""
    async with a_world() as world:
        a, b = await quiet(world, {"a": "b", "b": "a"})
        a.traffic("b").reset()
        b.traffic("a").reset()
        for first in range(0, 8000, 400):
            await a.put(*blobs(first, first + 400))
            await trio.sleep(0.1)
        await world.level(5.0)
        assert len(offered(a, "b")) <= 1000
        pushes = [path for path in a.traffic("b").requests if path.startswith("push")]
        batches = [path for path in b.traffic("a").requests if path.startswith("batch")]
        assert len(pushes) <= 2
        assert len(batches) < 20


async def test_whoever_gave_everything_away_sees_its_peers_level_soon(
    autojump_clock: MockClock,
) -> None:
    """They fetched it by themselves, and its own next round with them is an hour away."""
    async with a_world() as world:
        a, b, c = await quiet(world, FULL)
        rounds = a.peer("b").rounds
        await a.put(*blobs(0, 5000))
        await until(lambda: b.count == c.count == 5000, 4.0)
        await until(lambda: a.peer("b").in_sync and a.peer("c").in_sync, 1.0)
        await until(lambda: b.peer("c").in_sync and c.peer("b").in_sync, 2.0)
        assert a.peer("b").rounds - rounds <= 2


async def test_what_a_full_peer_does_not_take_is_said_soon(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b", interval=HOUR, reserve_bytes=2**50)
        a = await world.start("a", ["b"], interval=HOUR)
        await trio.sleep(10.0)
        await a.put(blob(1))
        await trio.sleep(2.5)
        assert not a.peer("b").in_sync
        stats = await a.node.peers[0].sync()
        assert (stats.proven, stats.missing_there, stats.level) == (True, 1, False)
        assert any("did not take 1" in why for why in stats.reasons)
        assert "did not take 1" in (a.peer("b").last_error or "")


async def test_a_new_blob_travels_in_both_directions_of_a_chain(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a, b, c = await quiet(world, CHAIN)
        for number, member in enumerate((c, b, a)):
            await member.put(blob(number))
            await world.level(1.0)


async def test_a_long_chain_takes_a_second_a_link_at_most(autojump_clock: MockClock) -> None:
    names = [f"n{number}" for number in range(8)]
    async with a_world() as world:
        for number, name in enumerate(names):
            peers = names[max(0, number - 1) : number] + names[number + 1 : number + 2]
            world.add(name, peers, interval=HOUR)
        for member in world.members:
            await member.start()
        await trio.sleep(10.0)
        await world.members[0].put(blob(1))
        await world.level(7.0)


async def test_a_blob_is_never_offered_back_to_its_source(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a, b, c = await quiet(world, FULL)
        (name,) = await a.put(blob(1))
        await trio.sleep(10.0)
        assert offered(a, "b") == offered(a, "c") == [name]
        assert offered(b, "a") == offered(c, "a") == []
        # Whoever brings it to b or c, it crosses each link once at most, and comes once.
        assert sum(member.wire(peer).went[name] for member in world.members for peer in FULL
                   if peer != member.name) == 2  # fmt: skip


async def test_a_blob_that_was_pulled_is_not_offered_back_either(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a, b, c = await quiet(world, CHAIN)
        await filled(blob(1), store=a.store)  # unnoticed, as from a backup
        await a.restart()
        await b.node.find_peer("a").sync()
        await trio.sleep(10.0)
        assert c.has(digest_of(blob(1)))
        assert offered(b, "c") == [digest_of(blob(1))]
        assert offered(b, "a") == []


async def test_puts_in_a_row_share_an_announcement(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a, b, _ = await quiet(world, FULL)
        before = len(a.wire("b").offered)
        for number in range(100):
            await a.put(blob(number))
        await world.level(1.0)
        assert len(a.wire("b").offered) - before <= 2
        assert b.count == 100


async def test_a_burst_is_hinted_at_and_arrives_within_seconds(autojump_clock: MockClock) -> None:
    for mesh in (FULL, CHAIN):
        async with a_world() as world:
            a, *_ = await quiet(world, mesh)
            await a.put(*blobs(0, 5000))
            await world.level(4.0)
            offers = [decode(Offer, body) for body in a.wire("b").offered]
            assert any(offer.more for offer in offers)
            assert len(offered(a, "b")) <= 1000


async def test_a_burst_of_single_puts_arrives_within_seconds(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a, *_ = await quiet(world, CHAIN)
        async with trio.open_nursery() as nursery:
            for first in range(0, 5000, 10):
                nursery.start_soon(a.put, *blobs(first, first + 10))
        await world.level(4.0)


async def test_a_burst_reaches_a_peer_that_does_not_list_us_within_seconds(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a, *_ = await quiet(world, FORWARD)
        await a.put(*blobs(0, 5000))
        await world.level(10.0)


async def test_announcements_that_are_lost_are_made_good_by_the_periodic_round(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a, b, _ = await quiet(world, CHAIN)
        world.network.cut(url_of("a"), url_of("b"))
        await a.put(*blobs(0, 10))
        await trio.sleep(5.0)
        world.network.heal(url_of("a"), url_of("b"))
        await trio.sleep(60.0)
        assert b.count == 0  # nobody told it
        # Its own round, an hour after the first one at most, and what that one has announced.
        await world.level(1.2 * HOUR)


async def test_an_offer_that_is_not_pushed_does_not_keep_the_blob_away(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        wires = {"b": lambda wire: Failing(wire, "push")}
        a = await world.start("a", ["b"], interval=HOUR, wires=wires)
        b = await world.start("b", ["a"])
        await trio.sleep(10.0)
        await a.put(*blobs(0, 10))
        # b has claimed them for a, which could not bring them: it fetches them itself.
        await until(lambda: b.count == 10, 2 * 36.0)
        assert not a.wire("b").inner.traffic.requests.count("push")


async def test_a_slow_peer_does_not_delay_what_another_one_is_told(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        wires = {"b": lambda wire: Slow(wire, 8000)}
        a = await world.start("a", ["b", "c"], interval=HOUR, wires=wires)
        b = await world.start("b", interval=HOUR)
        c = await world.start("c", interval=HOUR)
        await trio.sleep(10.0)
        for number in range(10):
            await a.put(blob(number, 10_000))
            assert await until(lambda: c.count == a.count, 1.0) < 1.0
        assert b.count < 10
        await world.level(1000.0)


async def test_a_blob_that_comes_from_two_sides_is_taken_once(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a, b, c = await quiet(world, {"a": "c", "b": "c", "c": "ab"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.put, blob(1), large(2))
            nursery.start_soon(b.put, blob(1), large(2))
        await world.level(1.0)
        for data in (blob(1), large(2)):
            assert a.wire("c").went[digest_of(data)] + b.wire("c").went[digest_of(data)] == 1
        assert c.count == 2
