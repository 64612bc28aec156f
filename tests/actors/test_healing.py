"""Rot, and blobs that are elsewhere: what a node does when somebody asks for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mesh.actors.fetcher import PLACES
from mesh.core.digest import Digest, digest_of
from mesh.errors import Corrupt, Full, StoreError, Unreachable
from mesh.store.memory import MemoryStore
from mesh.transport.base import Wire
from mesh.wire.frames import FrameReader, Kind
from tests.actors.world import (
    HOUR,
    Corrupting,
    Faulty,
    Hanging,
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
)

pytestmark = pytest.mark.trio

KINDS = {"small": blob(1, 5000), "large": large(1), "empty": b""}


async def read(member: Member, data: bytes, start: int = 0, stop: int | None = None) -> Any:
    """What a client gets that asks `member` for `data`: None when it is nowhere."""
    digest = digest_of(data)
    reader = member.node.reader
    size = await reader.size(digest)
    if size is None:
        return None
    assert size == len(data)
    pieces = await reader.stream(digest, size, start, size if stop is None else stop)
    return None if pieces is None else b"".join([piece async for piece in pieces])


def rot(member: Member, data: bytes) -> Digest:
    """Let a blob of `member` rot. It was acknowledged, but nobody can keep that alone."""
    assert isinstance(member.store, MemoryStore)
    digest = digest_of(data)
    member.store.rot(digest, b"rotten")
    member.acknowledged.discard(digest)
    return digest


async def pair(world: World, **config: Any) -> tuple[Member, Member]:
    """Two level nodes of which only `a` calls `b`, and no round is due for hours."""
    b = await world.start("b", interval=HOUR)
    a = await world.start("a", peers=["b"], interval=HOUR, **config)
    await until(lambda: a.peer("b").rounds > 0, within=10.0)
    return a, b


# --- rot ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["small", "large"])
async def test_a_rotten_blob_is_healed_by_the_read_that_meets_it(
    autojump_clock: Any, kind: str
) -> None:
    data = KINDS[kind]
    async with a_world() as world:
        a, b = await pair(world)
        await b.put(data, *blobs(10, 30))
        assert await read(a, data) == data
        await a.node.peers[0].sync()
        root = a.root
        digest = rot(a, data)
        began = trio.current_time()
        assert await read(a, data, 0, 3000) == data[:3000]
        assert trio.current_time() - began < 1.0
        assert a.has(digest)
        assert a.root == root
        assert a.node.status().wanted_blobs == 0


async def test_a_rotten_blob_is_not_sent_and_comes_back_in_the_next_round(
    autojump_clock: Any,
) -> None:
    async with a_world() as world:
        b = await world.start("b", peers=["a", "c"])
        a = await world.start("a", peers=["b"], store=await filled(*blobs(0, 20)))
        await world.level(10.0)
        digest = rot(a, blob(7))
        c = await world.start("c", peers=["a"])  # it asks the one where it is rotten
        with trio.fail_after(60):
            await a.node.wait(None)
        await world.level(60.0)
        for member in (a, b, c):
            assert member.has(digest)
            assert await member.store.read(digest) == blob(7)
            assert member.node.status().wanted_blobs == 0


async def test_a_rotten_blob_that_nobody_else_has_is_gone_and_wanted(autojump_clock: Any) -> None:
    async with a_world() as world:
        a, b = await pair(world)
        await a.put(*blobs(0, 5))
        await a.node.peers[0].sync()
        rot(b, blob(3))
        digest = rot(a, blob(3))
        count = a.count
        assert await read(a, blob(3)) is None
        assert a.count == count - 1
        assert not a.has(digest)
        status = a.node.status()
        assert status.wanted_blobs == 1
        assert status.wanted[0].digest == digest.hex()
        assert "not what they were" in status.wanted[0].reason
        await a.restart()
        assert a.node.status().wanted_blobs == 1
        assert await read(a, blob(3)) is None
        # The two are level, and the answer says what is lost.
        told = await a.node.wait_and_tell(60.0, whole=False)
        assert told.level
        assert "; 1 blob that was found damaged here and did not come from any peer" in told.said
        # Somebody has it after all.
        await b.node.keeper.settled(digest)
        await b.put(blob(3))
        assert await read(a, blob(3)) == blob(3)
        assert a.node.status().wanted_blobs == 0


async def test_a_blob_that_the_store_has_lost_leaves_the_tree_when_it_is_asked_for(
    autojump_clock: Any,
) -> None:
    class Losing(MemoryStore):
        lost: Digest | None = None

        async def size(self, digest: Digest) -> int | None:
            return None if digest == self.lost else await super().size(digest)

        async def discard(self, damages: Any) -> list[Digest]:
            self._blobs.pop(self.lost, None)  # type: ignore[arg-type]
            self.lost = None
            return await super().discard(damages)

    async with a_world() as world:
        store = await filled(*blobs(0, 5), store=(losing := Losing()))
        b = await world.start("b", interval=HOUR)
        a = await world.start("a", peers=["b"], interval=HOUR, store=store)
        await until(lambda: a.peer("b").rounds > 0, within=10.0)
        losing.lost = digest_of(blob(2))
        assert await read(a, blob(2)) == blob(2), "b has it from a"
        assert b.has(digest_of(blob(2)))
        assert a.root == b.root


async def test_a_blob_that_rots_again_and_again_does_not_keep_a_read_for_ever(
    autojump_clock: Any,
) -> None:
    class Bad(MemoryStore):
        async def read(self, digest: Digest) -> bytes | None:
            raise Corrupt("a disk that fails every first read")

    async with a_world() as world:
        a = await world.start("a", store=await filled(blob(1), store=Bad()))
        with pytest.raises(Corrupt), trio.fail_after(5):
            await read(a, blob(1))
        assert a.has(digest_of(blob(1))), "looked at again, it is good"


async def test_other_blobs_are_read_while_one_heals(autojump_clock: Any) -> None:
    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        a = await world.start(
            "a", peers=["b"], interval=HOUR, wires={"b": lambda wire: Hanging(wire, "blob")}
        )
        await until(lambda: a.peer("b").rounds > 0, within=10.0)
        await b.put(blob(1))
        await a.put(blob(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, a, blob(1))
            await trio.sleep(1.0)
            began = trio.current_time()
            assert await read(a, blob(2)) == blob(2)
            assert trio.current_time() == began


# --- read-through ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_blob_that_only_a_peer_has_is_fetched_stored_and_read(
    autojump_clock: Any, kind: str
) -> None:
    data = KINDS[kind]
    async with a_world() as world:
        a, b = await pair(world)
        await b.put(data)
        assert not a.has(digest_of(data))
        assert await read(a, data) == data
        assert a.has(digest_of(data))
        requests = list(a.traffic("b").requests)
        assert requests.count(f"blob/{digest_of(data).hex()}/0") == 1
        assert await read(a, data, 3) == data[3:]
        assert a.traffic("b").requests == requests


async def test_a_blob_that_nobody_has_is_not_here(autojump_clock: Any) -> None:
    async with a_world() as world:
        a, _ = await pair(world)
        began = trio.current_time()
        assert await read(a, b"nowhere") is None
        assert trio.current_time() - began < 0.2
        assert a.node.status().wanted_blobs == 0, "it never was here"


async def test_read_through_can_be_turned_off(autojump_clock: Any) -> None:
    async with a_world() as world:
        a, b = await pair(world, read_through=False)
        await b.put(blob(1))
        assert await read(a, blob(1)) is None


async def test_a_read_goes_one_hop_and_no_further(autojump_clock: Any) -> None:
    async with a_world() as world:
        c = await world.start("c", interval=HOUR)
        b = await world.start("b", peers=["c"], interval=HOUR)
        a = await world.start("a", peers=["b"], interval=HOUR)
        await until(lambda: a.peer("b").rounds and b.peer("c").rounds, within=10.0)
        await c.put(blob(1))
        asked = list(b.traffic("c").requests)
        assert await read(a, blob(1)) is None
        assert b.traffic("c").requests == asked
        assert await read(b, blob(1)) == blob(1)
        assert await read(a, blob(1)) == blob(1)


async def test_a_peer_that_hangs_delays_nobody(autojump_clock: Any) -> None:
    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        await world.start("h", interval=HOUR)
        await world.start("i", interval=HOUR)
        hang = {name: lambda wire: Hanging(wire, "blob") for name in ("h", "i")}
        a = await world.start("a", peers=["h", "i", "b"], interval=HOUR, wires=hang)
        await until(lambda: all(a.peer(n).rounds for n in "hib"), within=10.0)
        await b.put(blob(1))
        began = trio.current_time()
        assert await read(a, blob(1)) == blob(1)
        assert trio.current_time() - began < 0.5
        # Where nobody has it, those that hang are waited for, but not for long.
        began = trio.current_time()
        assert await read(a, b"nowhere") is None
        assert 4.0 < trio.current_time() - began < 6.0


async def test_a_peer_that_is_down_is_asked_last_and_briefly(autojump_clock: Any) -> None:
    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        a = await world.start(
            "a", peers=["d", "b"], interval=HOUR, wires={"d": lambda wire: Hanging(wire, "blob")}
        )
        await until(lambda: a.peer("d").failures and a.peer("b").rounds, within=10.0)
        await b.put(blob(1))
        began = trio.current_time()
        assert await read(a, blob(1)) == blob(1)
        assert trio.current_time() - began < 0.05
        assert await read(a, b"nowhere") is None
        assert trio.current_time() - began < 1.3


async def test_many_readers_of_one_blob_share_the_fetch(autojump_clock: Any) -> None:
    got: list[bytes] = []
    data = large(1)
    async with a_world() as world:
        a, b = await pair(world)
        await b.put(data)

        async def one() -> None:
            got.append(await read(a, data))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
            cancelled = trio.CancelScope()
            with cancelled:  # one who leaves does not take the fetch along
                cancelled.cancel()
                await read(a, data)
        assert got == [data] * 20
        assert a.traffic("b").requests.count(f"blob/{digest_of(data).hex()}/0") == 1


async def test_two_peers_that_have_it_send_it_once(autojump_clock: Any) -> None:
    data = large(1)
    async with a_world() as world:
        stores = [await filled(data) for _ in "bc"]
        for name, store in zip("bc", stores, strict=True):
            await world.start(name, interval=HOUR, store=store)
        taps: list[Tap] = []

        def tapped(wire: Wire) -> Tap:
            taps.append(Tap(wire))
            return taps[-1]

        a = await world.start(
            "a", peers=["b", "c"], interval=HOUR, wires={"b": tapped, "c": tapped}
        )
        assert await read(a, data) == data, "before the first round"
        assert sum(tap.came[digest_of(data)] for tap in taps) == 1


class Lying(Corrupting):
    """What comes for a blob is another one."""


@pytest.mark.parametrize("kind", ["small", "large"])
async def test_what_is_not_the_blob_is_not_kept_and_another_peer_is_asked(
    autojump_clock: Any, kind: str
) -> None:
    data = KINDS[kind]
    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        c = await world.start("c", interval=HOUR)
        lies = {"b": lambda wire: Lying(wire, b"blob", "blob")}
        a = await world.start("a", peers=["b", "c"], interval=HOUR, wires=lies)
        await until(lambda: a.peer("b").rounds and a.peer("c").rounds, within=10.0)
        await b.put(data)
        assert await read(a, data) is None
        assert a.count == 0
        await c.put(data)
        assert await read(a, data) == data
        assert a.wire("b").met >= 2
        assert a.count == 1


class Stopping(Faulty):
    """A blob that comes alone stops after its first chunk: silent, or with an error."""

    def __init__(self, wire: Wire, *, silent: bool) -> None:
        super().__init__(wire, "blob")
        self._silent = silent

    async def received(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        stops = self.hits(path)
        async for chunk in chunks:
            yield chunk
            if stops and self._silent:
                await trio.sleep_forever()
            elif stops:
                raise Unreachable("connection reset")


@pytest.mark.parametrize("silent", [True, False])
async def test_a_peer_that_stops_half_way_is_replaced_by_another(
    autojump_clock: Any, silent: bool
) -> None:
    data = large(1)
    async with a_world() as world:
        for name in "bc":
            await world.start(name, interval=HOUR, store=await filled(data))
        wires = {"b": lambda wire: Stopping(wire, silent=silent)}
        a = await world.start("a", peers=["b", "c"], interval=HOUR, wires=wires)
        began = trio.current_time()
        assert await read(a, data) == data
        assert trio.current_time() - began < (12.0 if silent else 0.5)
        assert a.wire("b").met == 1


async def test_a_full_disk_is_said_and_ends_no_other_fetch(autojump_clock: Any) -> None:
    class Filling(MemoryStore):
        full = False

        async def commit(self, items: Any) -> list[bool]:
            if self.full:
                raise Full("no room")
            return await super().commit(items)

    async with a_world() as world:
        store = Filling()
        b = await world.start("b", interval=HOUR)
        c = await world.start("c", interval=HOUR)
        wires = {"c": lambda wire: Slow(wire, 1300.0)}
        a = await world.start("a", peers=["b", "c"], interval=HOUR, store=store, wires=wires)
        await until(lambda: a.peer("b").in_sync and a.peer("c").in_sync, within=20.0)
        # The disk is looked at every 5 s: after it was full, and before the slow one is here.
        await trio.sleep(3.0)
        slow, got = blob(1, 5000), []
        await b.put(blob(2))
        await c.put(slow)

        async def wait() -> None:
            got.append(await read(a, slow))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(1.0)
            store.full = True
            with pytest.raises(Full):
                await read(a, blob(2))
            store.full = False
        assert got == [slow]
        assert await read(a, blob(2)) == blob(2)


class HangingElsewhere(Hanging):
    """Requests are never answered, but for those that speak of `wanted`."""

    def __init__(self, wire: Wire, wanted: Digest) -> None:
        super().__init__(wire, "blob")
        self.wanted = wanted

    def hits(self, path: str) -> bool:
        return self.wanted.hex() not in path and super().hits(path)


async def test_who_waits_for_a_fetch_keeps_it_when_the_first_to_ask_goes_away(
    autojump_clock: Any,
) -> None:
    wanted, got = digest_of(blob(1)), []
    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        wires = {"b": lambda wire: HangingElsewhere(wire, wanted)}
        a = await world.start("a", peers=["b"], interval=HOUR, wires=wires)
        await until(lambda: a.peer("b").rounds > 0, within=10.0)
        await b.put(blob(1))

        async def wait() -> None:
            got.append(await a.node.reader.size(wanted))

        async with trio.open_nursery() as nursery, trio.open_nursery() as first:
            for number in range(PLACES):  # all places are taken
                nursery.start_soon(a.node.reader.size, digest_of(b"nobody has %d" % number))
            await wait_all_tasks_blocked()
            first.start_soon(wait)
            await wait_all_tasks_blocked()
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            first.cancel_scope.cancel()
        assert got == [len(blob(1))]


async def test_a_batch_of_a_client_is_healed_and_fetched_and_says_what_nobody_has(
    autojump_clock: Any,
) -> None:
    async with a_world() as world:
        a, b = await pair(world)
        there = blobs(100, 100 + 3 * PLACES)
        await b.put(*there)
        here = blobs(200, 220)
        await a.put(*here)
        await until(lambda: all(b.has(digest_of(data)) for data in here), within=10.0)
        rot(a, here[3])
        big = large(1)
        await b.put(big)
        asked = [digest_of(data) for data in [*here[:5], *there, *here[5:], big]]
        absent = digest_of(b"nobody has this")
        asked[7:7] = [absent]
        reader, frames = FrameReader(), []
        async for chunk in a.node.reader.frames(asked):
            frames += reader.feed(chunk)
        reader.finish()
        assert [frame.digest for frame in frames] == asked
        kinds = {frame.digest: frame.kind for frame in frames}
        assert kinds.pop(absent) == Kind.ABSENT
        assert kinds.pop(digest_of(big)) == Kind.LARGE
        assert set(kinds.values()) == {Kind.BLOB}
        assert all(digest_of(frame.data) == frame.digest for frame in frames if frame.data)


async def test_a_node_that_stops_lets_go_of_those_who_wait(autojump_clock: Any) -> None:
    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        a = await world.start(
            "a", peers=["b"], interval=HOUR, wires={"b": lambda wire: Hanging(wire, "blob")}
        )
        await until(lambda: a.peer("b").rounds > 0, within=10.0)
        await b.put(blob(1))
        reader, got = a.node.reader, []

        async def wait() -> None:
            try:
                got.append(await reader.size(digest_of(blob(1))))
            except StoreError as error:
                got.append(str(error))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
            await trio.sleep(0.5)
            await a.stop()
        # Nobody knows whether the peer has it: "absent" would be wrong.
        assert got == ["the fetcher was stopped before it had an answer; try again"] * 3
