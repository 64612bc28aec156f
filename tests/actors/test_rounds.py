"""Rounds of two nodes: whatever they hold, and whatever happens on the way, they become equal."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from mesh.core.claims import PENALTY
from mesh.core.digest import Digest, digest_of, split_digests
from mesh.core.limits import LARGE_BLOB
from mesh.core.reconcile import Answer, Ask, Difference, Forked, Listed
from mesh.core.tree import LEAF_MAX, Tree
from mesh.errors import Full, Refused
from mesh.status import RoundStats
from mesh.store.base import Item, Room
from mesh.store.memory import MemoryStore
from mesh.transport.base import Meeting
from mesh.wire.frames import FrameReader, Kind, end, frame
from mesh.wire.messages import (
    PROTOCOL,
    BatchRequest,
    Hello,
    Offer,
    OfferReply,
    PushReply,
    RootReply,
    TreeReply,
    TreeRequest,
    decode,
    encode,
)
from tests.actors.world import (
    HOUR,
    Corrupting,
    Cutting,
    Failing,
    Member,
    Refusing,
    Slow,
    Tap,
    Through,
    Watching,
    a_world,
    blob,
    blobs,
    filled,
    holdings,
    large,
    until,
    url_of,
)
from tests.oracles import oracle_root, quick

trio_test = pytest.mark.trio


async def sync(member: Member) -> RoundStats:
    """A round with its first peer, now, both ways."""
    return await member.node.peers[0].sync()


def digests(data: Sequence[bytes]) -> set[Digest]:
    return {digest_of(piece) for piece in data}


# --- becoming equal ----------------------------------------------------------------------------


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """How many blobs both have, each of them alone, how many large ones, and a seed."""
    counts = st.sampled_from([0, 1, 2, LEAF_MAX, LEAF_MAX + 1, 100, 257, 1500])
    few = st.integers(0, 2)
    return draw(counts), draw(counts), draw(counts), draw(few), draw(st.integers(0, 2**16))


@settings(quick, max_examples=20)
@given(plans())
def test_two_nodes_with_any_sets_become_equal_in_one_proven_round(
    plan: tuple[int, int, int, int, int],
) -> None:
    both, ours, theirs, big, seed = plan
    here = blobs(0, both) + blobs(10_000, 10_000 + ours) + [large(n) for n in range(big)]
    there = blobs(0, both) + blobs(20_000, 20_000 + theirs) + [large(n) for n in range(1, 2 * big)]

    async def main() -> None:
        async with a_world(seed) as world:
            await world.start("b", interval=HOUR, store=await filled(*there))
            a = await world.start("a", ["b"], interval=HOUR, store=await filled(*here))
            stats = await sync(a)
            assert stats.error is None
            assert stats.proven
            assert stats.missing_here == stats.missing_there == 0
            assert stats.fetched == len(digests(there) - digests(here))
            assert stats.sent == len(digests(here) - digests(there))
            await world.level(0.0)
            assert bytes.fromhex(a.root or "") == oracle_root(digests(here) | digests(there))

    trio.run(main, clock=MockClock(autojump_threshold=0))


@trio_test
async def test_nodes_become_equal_by_themselves(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a", ["b"], store=await filled(*blobs(0, 2000), large(1)))
        b = await world.start("b", ["a"], store=await filled(*blobs(1000, 3000), large(2)))
        assert await world.level(6.0) <= 5.0  # the first round begins within five seconds
        assert a.count == b.count == 3002


@trio_test
async def test_a_round_with_an_equal_peer_finds_nothing(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(*blobs(0, 50)))
        a = await world.start("a", ["b"], store=await filled(*blobs(0, 50)))
        stats = await sync(a)
        assert stats.proven
        assert (stats.fetched, stats.sent, stats.missing_here, stats.missing_there) == (0,) * 4
        status = a.peer("b")
        assert status.in_sync
        assert (status.state, status.missing_here, status.missing_there) == ("idle", 0, 0)


@trio_test
async def test_a_blob_without_bytes_travels_like_any_other(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(b"", *blobs(0, 5)))
        a = await world.start("a", ["b"])
        await sync(a)
        assert a.has(digest_of(b""))


@trio_test
async def test_blobs_on_both_sides_of_the_large_limit_travel(autojump_clock: MockClock) -> None:
    sizes = [LARGE_BLOB - 1, LARGE_BLOB, LARGE_BLOB + 1]
    some = [blob(number, size) for number, size in enumerate(sizes)]
    async with a_world() as world:
        b = await world.start("b", store=await filled(*some))
        a = await world.start("a", ["b"], store=await filled(blob(9, LARGE_BLOB)))
        stats = await sync(a)
        assert (stats.fetched, stats.fetched_bytes) == (3, sum(sizes))
        assert (stats.sent, stats.sent_bytes) == (1, LARGE_BLOB)
        assert b.count == 4
        await world.level(0.0)


@trio_test
async def test_a_peer_that_does_not_list_us_is_brought_level_by_offers(
    autojump_clock: MockClock,
) -> None:
    some = [*blobs(0, 3000), large(1)]
    async with a_world() as world:
        b = await world.start("b", store=await filled(*blobs(2000, 4000)))
        a = await world.start("a", ["b"], store=await filled(*some))
        await world.level(6.0)
        assert digests(some) <= set(await holdings(b.store))
        await a.put(blob(5000))
        await world.level(1.0)


@trio_test
async def test_a_peer_that_pulls_from_us_is_not_pushed_to(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        taps = {"a": Tap, "b": Tap}
        a = await world.start("a", ["b"], wires=taps)
        await world.start("b", ["a"], wires=taps)
        await trio.sleep(60.0)
        # What comes while the link is down is for the rounds, which find a peer that pulls.
        world.network.cut(url_of("a"), url_of("b"))
        await a.put(*blobs(0, 100))
        await trio.sleep(1.0)
        world.network.heal(url_of("a"), url_of("b"))
        await world.level(60.0)
        assert not a.wire("b").went


@trio_test
async def test_a_push_is_answered_when_its_blobs_are_durable_however_slow_the_disk(
    autojump_clock: MockClock,
) -> None:
    class SlowDisk(MemoryStore):
        async def commit(self, items: Sequence[Item]) -> list[bool]:
            await trio.sleep(20.0)
            return await super().commit(items)

    async def frames() -> AsyncGenerator[bytes, None]:
        for data in blobs(0, 10):
            yield frame(Kind.BLOB, digest_of(data), len(data)) + data
        yield end(10)

    async with a_world() as world:
        b = await world.start("b", store=SlowDisk())
        async with aclosing(frames()) as chunks:
            answer = await b.node.service.upload(f"push/{bytes(16).hex()}", chunks)
        reply = decode(PushReply, answer)
        assert b.has(*digests(blobs(0, 10)))
        assert (reply.stored, reply.known, reply.rejected) == (10, 0, 0)


@trio_test
async def test_a_peer_that_is_in_sync_is_shown_to_miss_nothing(autojump_clock: MockClock) -> None:
    some = [*blobs(0, 5000), large(1)]
    async with a_world() as world:
        await world.start("a", store=await filled(*some))
        await world.start("b", store=await filled(*some, blob(9000)))
        slow = {name: lambda wire: Slow(wire, 50_000) for name in "ab"}
        await world.start("c", ["a", "b"], interval=HOUR, wires=slow)
        await world.level(300.0)
        await trio.sleep(60.0)
        shown = {
            (member.name, peer.name): (peer.missing_here, peer.missing_there)
            for member in world.members
            for peer in member.node.status().peers
            if peer.in_sync
        }
        assert len(shown) >= 2
        assert shown == dict.fromkeys(shown, (0, 0))


# --- sets that change meanwhile ----------------------------------------------------------------


@trio_test
async def test_a_peer_that_takes_writes_during_a_descent_is_compared_as_it_was(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = world.add("b", interval=HOUR, store=await filled(*blobs(0, 5000)))
        fresh = iter(blobs(10_000, 20_000))

        async def write(path: str) -> None:
            if path == "tree":
                await b.put(next(fresh))

        await b.start()
        wires = {"b": lambda wire: Watching(wire, write)}
        store = await filled(*blobs(3000, 6000))
        a = await world.start("a", ["b"], interval=HOUR, store=store, wires=wires)
        stats = await sync(a)
        assert stats.proven
        assert (stats.fetched, stats.missing_here) == (3000, 0)
        assert stats.sent >= 1000
        assert a.traffic("b").requests.count("root") == 1


@trio_test
async def test_a_set_that_the_peer_has_forgotten_is_compared_anew(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = world.add("b", interval=HOUR, store=await filled(*blobs(0, 5000)))
        others = [world.add(f"o{number}", ["b"], interval=HOUR) for number in range(6)]
        await b.start()
        for other in others:
            await other.start()
        asked = 0

        async def forget(path: str) -> None:
            """Once: more sets are asked for than a node keeps for its peers."""
            nonlocal asked
            asked += path == "tree"
            if asked == 2 and path == "tree":
                for number, other in enumerate(others):
                    await b.put(blob(10_000 + number))
                    await other.node.peers[0].sync()

        wires = {"b": lambda wire: Watching(wire, forget)}
        store = await filled(*blobs(3000, 6000))
        a = await world.start("a", ["b"], interval=HOUR, store=store, wires=wires)
        stats = await sync(a)
        assert stats.error is None
        assert stats.proven
        assert (stats.fetched, stats.missing_here) == (3006, 0)


@trio_test
async def test_writes_on_both_sides_do_not_keep_nodes_from_becoming_equal(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a = await world.start("a", ["b"], store=await filled(*blobs(0, 1000)))
        b = await world.start("b", ["a"], store=await filled(*blobs(500, 1500)))

        async def write(member: Member, first: int) -> None:
            for number in range(100):
                await member.put(*blobs(first + 10 * number, first + 10 * number + 10))
                await trio.sleep(0.1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, a, 10_000)
            nursery.start_soon(write, b, 20_000)
        assert await world.level(10.0) < 2.0
        assert a.count == 3500


# --- blobs that do not come --------------------------------------------------------------------


@trio_test
async def test_a_corrupted_blob_is_discarded_and_fetched_from_another_peer(
    autojump_clock: MockClock,
) -> None:
    some, bad = blobs(0, 500), blob(77)
    async with a_world() as world:
        await world.start("b", store=await filled(*some))
        await world.start("c", store=await filled(bad))
        wires = {"b": lambda wire: Corrupting(wire, bad, "batch")}
        a = await world.start("a", ["b", "c"], wires=wires)
        stats = await sync(a)
        assert (stats.fetched, stats.failed, stats.missing_here) == (499, 1, 1)
        assert stats.error is None
        assert await a.store.read(digest_of(bad)) is None
        await until(lambda: a.has(digest_of(bad)), 6.0)
        assert await a.store.read(digest_of(bad)) == bad


@trio_test
async def test_a_corrupted_blob_is_fetched_again_from_the_only_peer_that_has_it(
    autojump_clock: MockClock,
) -> None:
    some, bad = blobs(0, 500), blob(77)
    async with a_world() as world:
        await world.start("b", store=await filled(*some))
        a = await world.start("a", ["b"], wires={"b": lambda wire: Corrupting(wire, bad, "batch")})
        stats = await sync(a)
        assert (stats.failed, stats.missing_here) == (1, 1)
        a.wire("b").broken = False
        assert await world.level(3 * PENALTY) >= PENALTY - 1.0  # not before it makes sense


@trio_test
async def test_a_corrupted_large_blob_is_discarded_and_fetched_again(
    autojump_clock: MockClock,
) -> None:
    bad = large(1)
    async with a_world() as world:
        await world.start("b", store=await filled(bad, large(2), *blobs(10, 500)))
        wires = {"b": lambda wire: Corrupting(wire, bad[:20], "blob")}
        a = await world.start("a", ["b"], wires=wires)
        stats = await sync(a)
        assert a.count == 491  # all but the one
        assert await a.store.size(digest_of(bad)) is None
        assert "what came as blob" in (stats.error or "")
        a.wire("b").broken = False
        await world.level(3 * PENALTY)


@trio_test
async def test_a_corrupted_push_is_rejected_and_made_good(autojump_clock: MockClock) -> None:
    some, bad = blobs(0, 500), blob(77)
    async with a_world() as world:
        b = await world.start("b")
        wires = {"b": lambda wire: Corrupting(wire, bad, "push")}
        a = await world.start("a", ["b"], store=await filled(*some), wires=wires)
        stats = await sync(a)
        assert (stats.sent, stats.failed) == (499, 1)
        assert await b.store.read(digest_of(bad)) is None
        a.wire("b").broken = False
        await world.level(3 * PENALTY)


@trio_test
async def test_a_batch_that_is_cut_keeps_what_came(autojump_clock: MockClock) -> None:
    size = 1000
    for silently in (False, True):
        async with a_world() as world:
            await world.start("b", store=await filled(*blobs(0, 200, size)))

            def cut(wire: Any, silently: bool = silently) -> Cutting:
                return Cutting(wire, 100 * (size + 41) + 500, "batch", silently=silently)

            a = await world.start("a", ["b"], wires={"b": cut})
            stats = await sync(a)
            assert a.count == stats.fetched == 100
            assert stats.state == "failing"
            assert stats.error
            assert a.peer("b").missing_here in (100, None)
            a.wire("b").broken = False
            await world.level(10.0)
            assert a.peer("b").fetched_blobs == 200


@trio_test
async def test_one_large_blob_that_fails_delays_nothing_else(autojump_clock: MockClock) -> None:
    some = [large(number) for number in range(8)]
    bad = min(digests(some))
    async with a_world() as world:
        await world.start("b", store=await filled(*some, *blobs(10, 3000)))
        wires = {"b": lambda wire: Refusing(wire, f"blob/{bad.hex()}", None)}
        a = await world.start("a", ["b"], wires=wires)
        stats = await sync(a)
        assert a.count == len(some) - 1 + 2990
        assert "busy" in (stats.error or "")
        # It stays known as missing, and is tried again by and by.
        await trio.sleep(PENALTY / 2)
        assert a.peer("b").missing_here == 1
        a.wire("b").broken = False
        await world.level(3 * PENALTY)


@trio_test
async def test_transfers_of_large_blobs_that_break_do_not_crash_the_peer_actor(
    autojump_clock: MockClock,
) -> None:
    """Both fetchers of large blobs have given up when the next batch names another one."""
    some = sorted([large(number) for number in range(6)], key=digest_of)
    # Small ones around them in the order in which they are asked for.
    small = blobs(10, 6000, 400)
    async with a_world() as world:
        await world.start("b", store=await filled(*some, *small))
        wires = {"b": lambda wire: Failing(Slow(wire, 1_000_000), "blob")}
        a = await world.start("a", ["b"], wires=wires)
        stats = await sync(a)
        assert a.count == len(small)
        assert stats.error == "connection reset"
        a.wire("b").broken = False
        await world.level(3 * PENALTY)


@trio_test
async def test_a_large_blob_that_comes_before_its_batch_has_ended_is_counted_once(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        store = await filled(*[large(number) for number in range(3)], *blobs(10, 900, 16_000))
        await world.start("b", store=store)
        slow_batches = {"b": lambda wire: SlowBatches(wire)}
        a = await world.start("a", ["b"], wires=slow_batches)
        stats = await sync(a)
        assert stats.proven
        assert (a.count, stats.missing_here) == (893, 0)


class SlowBatches(Through):
    """A second between two chunks of a batch."""

    async def received(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk
            if path == "batch":
                await trio.sleep(1.0)


@trio_test
async def test_a_slow_large_blob_does_not_hold_up_small_ones(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(large(1), large(2), *blobs(10, 5000)))
        wires = {"b": SlowBlobs}
        a = await world.start("a", ["b"], wires=wires)
        await until(lambda: a.count == 4990, 6.0)
        assert a.peer("b").missing_here == 2
        assert a.peer("b").state == "syncing"
        await world.level(60.0)


class SlowBlobs(Through):
    """A large blob comes at some 200 kB/s."""

    async def received(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            if path.startswith("blob"):
                await trio.sleep(0.33)
            yield chunk


@trio_test
@pytest.mark.parametrize("towards", ["a", "b"])
async def test_a_link_of_64_kbit_brings_everything(autojump_clock: MockClock, towards: str) -> None:
    """No total timeout kills a transfer that makes progress, in either direction."""
    some = [*blobs(0, 100, 10_000), large(1)]
    full, empty = await filled(*some), MemoryStore()
    async with a_world() as world:
        await world.start("b", store=empty if towards == "b" else full)
        store = empty if towards == "a" else full
        a = await world.start("a", ["b"], store=store, wires={"b": lambda wire: Slow(wire, 8000)})
        await world.level(2 * sum(map(len, some)) / 8000)
        assert a.peer("b").failures == 0


@trio_test
async def test_a_link_with_two_seconds_of_latency_brings_everything(
    autojump_clock: MockClock,
) -> None:
    class Far(Through):
        async def before(self, path: str) -> None:
            await trio.sleep(2.0)

    async with a_world() as world:
        await world.start(
            "b", ["a"], wires={"a": Far}, store=await filled(*blobs(0, 3000), large(1))
        )
        await world.start("a", ["b"], wires={"b": Far}, store=await filled(*blobs(2000, 5000)))
        await world.level(60.0)


# --- answers other than blobs --------------------------------------------------------------------


@trio_test
async def test_a_blob_that_the_peer_has_lost_is_taken_from_another_one(
    autojump_clock: MockClock,
) -> None:
    some = blobs(0, 300)
    lost = digest_of(some[5])
    async with a_world() as world:
        await world.start("b", store=await filled(*some))
        await world.start("c", store=await filled(*some))
        wires = {"b": lambda wire: Saying(wire, Kind.ABSENT, {lost})}
        a = await world.start("a", ["b", "c"], wires=wires)
        stats = await sync(a)
        assert stats.error is None
        assert (stats.fetched, stats.missing_here) == (299, 1)
        await world.level(6.0)


@trio_test
async def test_a_peer_may_put_off_a_part_of_what_it_is_asked_for(
    autojump_clock: MockClock,
) -> None:
    """A batch of more than ANSWER_BYTES is answered in parts, within one round."""
    some = blobs(0, 20, LARGE_BLOB - 1)
    async with a_world() as world:
        await world.start("b", store=await filled(*some))
        a = await world.start("a", ["b"])
        stats = await sync(a)
        assert stats.proven
        assert (stats.fetched, stats.missing_here) == (20, 0)
        assert a.traffic("b").requests.count("batch") == 2


@trio_test
async def test_a_peer_that_puts_off_everything_misbehaves(autojump_clock: MockClock) -> None:
    some = blobs(0, 300)
    async with a_world() as world:
        await world.start("b", store=await filled(*some))
        wires = {"b": lambda wire: Saying(wire, Kind.LATER, digests(some))}
        a = await world.start("a", ["b"], wires=wires)
        stats = await sync(a)
        assert "puts off" in (stats.error or "")
        a.wire("b").broken = False
        await world.level(10.0)


@trio_test
async def test_a_peer_that_sends_what_nobody_asked_for_misbehaves(
    autojump_clock: MockClock,
) -> None:
    class Generous(Through):
        async def received(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            extra = blob(9999)
            if path == "batch":
                yield frame(Kind.BLOB, digest_of(extra), len(extra)) + extra
            async for chunk in chunks:
                yield chunk

    async with a_world() as world:
        await world.start("b", store=await filled(*blobs(0, 10)))
        a = await world.start("a", ["b"], wires={"b": Generous})
        stats = await sync(a)
        assert "nobody asked for" in (stats.error or "")
        assert not a.has(digest_of(blob(9999)))


class Saying(Through):
    """Batches in which some blobs are answered with another kind of frame."""

    def __init__(self, wire: Any, kind: Kind, some: set[Digest]) -> None:
        super().__init__(wire)
        self.kind = kind
        self.some = some
        self.broken = True

    async def received(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        if path != "batch" or not self.broken:
            async for chunk in chunks:
                yield chunk
            return
        reader, count = FrameReader(), 0
        async for chunk in chunks:
            for item in reader.feed(chunk):
                count += 1
                if item.digest in self.some:
                    yield frame(self.kind, item.digest, item.length)
                else:
                    yield frame(item.kind, item.digest, item.length) + item.data
        yield end(count)


# --- a peer, or a disk, that is not ready ---------------------------------------------------------


class Building(MemoryStore):
    """A store whose scan takes as long as the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.scanned = trio.Event()

    async def tree(self) -> Tree:
        await self.scanned.wait()
        return await super().tree()


@trio_test
async def test_a_peer_that_is_still_building_its_tree_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        store = Building()
        b = world.add("b", store=await filled(*blobs(0, 100), store=store))
        world.nursery.start_soon(b.start)
        await trio.testing.wait_all_tasks_blocked()
        a = await world.start("a", ["b"], store=await filled(*blobs(50, 200)))
        stats = await sync(a)
        assert (stats.state, stats.proven, stats.error) == ("building", False, None)
        assert (a.peer("b").state, a.peer("b").in_sync) == ("building", False)
        assert not any(report.level for report in await a.node.wait(1.0))
        store.scanned.set()
        await trio.testing.wait_all_tasks_blocked()
        await world.level(40.0)


@trio_test
async def test_nodes_that_start_while_both_are_building_become_equal(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        for name, peer, first in (("a", "b", 0), ("b", "a", 50)):
            store = await filled(*blobs(first, first + 100), store=Building())
            world.nursery.start_soon(world.add(name, [peer], store=store).start)
        await trio.sleep(100.0)
        for member in world.members:
            assert member.root is None
            member.store.scanned.set()  # type: ignore[attr-defined]
        await trio.testing.wait_all_tasks_blocked()
        await world.level(40.0)


class FullUp(MemoryStore):
    """A store without room."""

    full = True

    async def commit(self, items: Sequence[Item]) -> list[bool]:
        if self.full:
            raise Full("no room for more; make some")
        return await super().commit(items)

    async def room(self, *, trial: bool) -> Room:
        if self.full:
            raise Full("no room for more; make some")
        return await super().room(trial=trial)


@trio_test
async def test_a_full_disk_is_said_and_ends_when_there_is_room(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        store = FullUp()
        store.full = False
        await filled(*blobs(0, 100), store=store)
        store.full = True
        b = await world.start("b", ["a"], store=await filled(*blobs(50, 2000), large(1)))
        a = await world.start("a", ["b"], store=store)
        await trio.sleep(100.0)
        assert a.peer("b").state == "idle"
        assert a.peer("b").missing_here == 1901
        assert "no room" in (a.peer("b").last_error or "")
        assert a.node.status().store.state == "full"
        assert b.has(*digests(blobs(0, 100)))  # it goes on serving
        store.full = False
        await world.level(10.0)
        assert a.node.status().store.state == "ok"


@trio_test
async def test_a_peer_of_another_version_is_refused_in_words(autojump_clock: MockClock) -> None:
    class Newer(Liar):
        async def call(self, path: str, body: bytes) -> bytes:
            await trio.lowlevel.checkpoint()
            hello = msgspec.structs.replace(self._hello, protocol=PROTOCOL + 1)
            return encode(RootReply(hello=hello))

    async with a_world() as world:
        world.network.attach(url_of("newer"), Newer(LIES["absent"]))
        a = await world.start("a", ["newer"])
        stats = await sync(a)
        assert f"speaks protocol {PROTOCOL + 1}" in (stats.error or "")
        newer = msgspec.structs.replace(a.node.hello(), protocol=PROTOCOL + 1)
        with pytest.raises(Refused, match="protocol"):
            await a.node.service.call("root", encode(newer))
        with pytest.raises(Refused, match="protocol"):
            await a.node.service.call("offer", encode(Offer(hello=newer)))


# --- limits --------------------------------------------------------------------------------------


@trio_test
async def test_a_blob_over_the_limit_is_left_out_and_said(autojump_clock: MockClock) -> None:
    limit = 5 * 1024 * 1024
    async with a_world() as world:
        store = await filled(*blobs(10, 500), large(1), large(2, limit + 1), large(3, limit))
        await world.start("b", store=store)
        limits = {"max_replica_bytes": limit, "max_blob_bytes": 1000}
        a = await world.start("a", ["b"], **limits)
        await trio.sleep(100.0)
        status = a.peer("b")
        assert a.count == 492
        assert (status.state, status.over_limit, status.missing_here) == ("over limit", 1, 1)
        assert "max_replica_bytes" in (status.last_error or "")
        assert status.failures == 0
        assert not status.in_sync


@trio_test
async def test_a_limit_below_the_size_of_large_blobs_holds_too(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(*blobs(10, 500), blob(1, 100_001)))
        a = await world.start("a", ["b"], max_replica_bytes=100_000, max_blob_bytes=1000)
        await sync(a)
        assert a.count == 490
        assert a.peer("b").state == "over limit"


@trio_test
async def test_the_limit_holds_for_what_is_pushed_as_well(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b", max_replica_bytes=100_000, max_blob_bytes=1000)
        store = await filled(*blobs(10, 500), blob(1, 100_001), large(2))
        await world.start("a", ["b"], store=store)
        await trio.sleep(100.0)
        assert b.count == 490


@trio_test
async def test_large_blobs_that_found_no_place_in_the_line_come_soon(
    autojump_clock: MockClock,
) -> None:
    """More of them than a round takes: the next round does not wait for its hour."""
    some = blobs(0, 2500)
    async with a_world() as world:
        await world.start("b", store=await filled(*some))
        wires = {"b": lambda wire: Saying(wire, Kind.LARGE, digests(some))}
        a = await world.start("a", ["b"], interval=HOUR, wires=wires)
        await world.level(60.0)
        assert a.peer("b").failures == 0


@trio_test
async def test_over_limit_ends_when_nothing_is_over_the_limit_any_more(
    autojump_clock: MockClock,
) -> None:
    limit = 5 * 1024 * 1024
    async with a_world() as world:
        b = await world.start("b", store=await filled(large(2, limit + 1)))
        a = await world.start("a", ["b"], max_replica_bytes=limit, max_blob_bytes=1000)
        await sync(a)
        assert a.peer("b").state == "over limit"
        await b.stop()
        b.store = MemoryStore()  # as after a new disk
        await b.start()
        assert (await sync(a)).proven
        assert a.peer("b").in_sync
        assert (a.peer("b").state, a.peer("b").over_limit) == ("idle", 0)


@trio_test
async def test_a_blob_over_the_peers_limit_delays_nothing_else_that_is_pushed(
    autojump_clock: MockClock,
) -> None:
    limit = 5 * 1024 * 1024
    some = sorted([large(number) for number in range(5)], key=digest_of)
    # Of all large ones the first to be pushed is the one that is declined.
    number = next(n for n in range(100, 999) if digest_of(large(n, limit + 1)) < digest_of(some[0]))
    async with a_world() as world:
        limits = {"max_replica_bytes": limit, "max_blob_bytes": 1000}
        b = await world.start("b", **limits)
        store = await filled(*some, large(number, limit + 1), *blobs(2000, 2500))
        a = await world.start("a", ["b"], store=store)
        stats = await sync(a)
        assert b.count == len(some) + 500
        assert "max_replica_bytes" in (stats.error or a.peer("b").last_error or "")


# --- liars ---------------------------------------------------------------------------------------


class Liar:
    """A node with a set almost without end, none of which it has."""

    PAGES = 40  # enough is enough: then it has no more to say
    COUNT = 2**50

    def __init__(self, deliver: Callable[[Digest], bytes]) -> None:
        """`deliver`: the frame for a digest that it is asked for; b"" for none at all."""
        self._deliver = deliver
        self._hello = Hello(
            node=b"L" * 16, instance=b"L" * 8, name="liar", root=b"\x77" * 32, count=self.COUNT
        )
        self.pages = 0
        self.asked = 0

    async def call(self, path: str, body: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        if path == "root":
            return encode(RootReply(hello=self._hello, pulled=0))
        if path == "offer":
            return encode(OfferReply(hello=self._hello))
        request = decode(TreeRequest, body)
        answers = [self._answer(ask, request.width) for ask in request.asks[:1]]
        return encode(TreeReply(root=request.root, count=self.COUNT, answers=answers))

    def _answer(self, ask: Ask, width: int) -> Answer:
        if ask.after is None:
            return Forked(0xFFFF, [self.COUNT >> 4 * (len(ask.prefix) + 1)] * 16, bytes(width * 16))
        self.pages += 1
        if self.pages > self.PAGES:
            raise Refused("out of lies")
        first = int.from_bytes(ask.after or bytes.fromhex(ask.prefix.ljust(64, "0")), "big")
        listed = range(first + 1, first + 4097)
        return Listed(b"".join(number.to_bytes(32, "big") for number in listed), True)

    async def download(self, path: str, body: bytes) -> AsyncIterator[bytes]:
        await trio.lowlevel.checkpoint()
        if path != "batch":
            raise Refused("not here")
        wanted = split_digests(decode(BatchRequest, body).digests)
        self.asked += len(wanted)
        frames = [each for each in map(self._deliver, wanted) if each]
        yield b"".join(frames) + end(len(frames))

    async def upload(self, path: str, chunks: AsyncIterator[bytes]) -> bytes:
        raise Refused("never asked for")


LIES: dict[str, Callable[[Digest], bytes]] = {
    "absent": lambda digest: frame(Kind.ABSENT, digest),
    "silence": lambda digest: b"",
    "junk": lambda digest: frame(Kind.BLOB, digest, 4) + b"junk",
    "large": lambda digest: frame(Kind.LARGE, digest, LARGE_BLOB),
}


@trio_test
@pytest.mark.parametrize("lie", list(LIES))
async def test_a_peer_that_lists_blobs_without_end_and_delivers_none_is_stopped(
    autojump_clock: MockClock, lie: str
) -> None:
    async with a_world() as world:
        liar = Liar(LIES[lie])
        world.network.attach(url_of("liar"), liar)
        await world.start("b", ["a"], store=await filled(*blobs(0, 2000)))
        a = await world.start("a", ["liar", "b"], interval=HOUR)
        stats = await a.node.find_peer("liar:7280").sync()
        assert stats.state == "failing"
        assert "out of lies" not in (stats.error or ""), "it could have gone on for ever"
        assert liar.pages < Liar.PAGES
        assert a.peer("liar").state == "failing"
        await world.level(6.0)
        assert a.peer("b").in_sync


@trio_test
async def test_a_peer_that_contradicts_itself_is_named_and_the_others_are_not_affected(
    autojump_clock: MockClock,
) -> None:
    class Forger(Liar):
        def _answer(self, ask: Ask, width: int) -> Answer:
            return Forked(0xFFFF, [1] * 16, bytes(width * 16))

    async with a_world() as world:
        world.network.attach(url_of("liar"), Forger(LIES["absent"]))
        await world.start("b", ["a"], store=await filled(*blobs(0, 20)))
        a = await world.start("a", ["liar", "b"], store=await filled(*blobs(5, 100)))
        await world.level(6.0)
        await until(lambda: a.peer("liar").state == "failing", 6.0)
        assert "contradicts itself" in (a.peer("liar").last_error or "")
        assert a.peer("b").in_sync


# --- restarts of the comparison ------------------------------------------------------------------


class Moving:
    """A peer whose set moves away under a comparison, after `first` of what is missing was found.

    The comparison begins anew when `seen` is set, and then finds everything.
    """

    own_count = 0
    proven = False
    restarts = 0

    def __init__(self, inner: Any, missing: list[Digest], first: int, seen: trio.Event) -> None:
        self._inner = inner
        self._missing = missing
        self._first = first
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def compare(self, ours: Callable[[], Tree], meeting: Meeting) -> Moving:
        self.root, self.count = meeting.root, meeting.count
        self.own_count = len(ours())
        return self

    async def __aiter__(self) -> AsyncGenerator[Difference, None]:
        yield Difference(self._missing[: self._first])
        await self._seen.wait()
        self.restarts = 1
        yield Difference(self._missing)
        self.proven = True


@pytest.mark.parametrize("first", [100, 5000])
@trio_test
async def test_what_was_found_before_a_restart_of_the_comparison_counts_once(
    autojump_clock: MockClock, first: int
) -> None:
    """100 wait to be asked for with others; of 5,000 some windows begin after the restart."""
    go_on, seen = trio.Event(), trio.Event()

    async def hold(path: str) -> None:
        if path == "batch":
            await go_on.wait()

    data = blobs(0, 6000, 100)
    missing = sorted(digests(data))
    async with a_world() as world:
        await world.start("b", store=await filled(*data))
        a = await world.start(
            "a",
            ["b"],
            interval=HOUR,
            max_replica_bytes=50,
            max_blob_bytes=50,
            wires={"b": lambda wire: Watching(wire, hold)},
            replicas={"b": lambda peer: Moving(peer, missing, first, seen)},
        )
        await until(lambda: a.peer("b").state == "syncing", 10.0)
        await trio.testing.wait_all_tasks_blocked()
        seen.set()
        await trio.testing.wait_all_tasks_blocked()
        assert a.peer("b").missing_here == 6000
        go_on.set()
        await until(lambda: a.peer("b").state == "over limit", 10.0)
        status = a.peer("b")
        assert (status.missing_here, status.over_limit) == (6000, 6000)
