"""A node whose disk is full, takes no writes or fails: what it does then, and that it ends."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from mesh.actors.door import Known
from mesh.core.digest import Digest, digest_of
from mesh.errors import Full, ReadOnly, StoreError
from mesh.store.base import Item, Room
from mesh.store.memory import MemoryStore
from tests.actors.world import HOUR, Member, a_world, blob, blobs, filled, large, until

trio_test = pytest.mark.trio

GIB = 1024**3
SOON = 6.0  # a look every five seconds


class Disk(MemoryStore):
    """A store on a disk with `free` bytes, that meets `error` when it is written."""

    def __init__(self, free: int = 100 * GIB) -> None:
        super().__init__()
        self.free = free
        self.error: StoreError | None = None
        self.looks = 0
        self.trials = 0

    async def commit(self, items: list[Item]) -> list[bool]:
        if self.error is not None:
            raise self.error
        return await super().commit(items)

    async def room(self, *, trial: bool) -> Room:
        await super().room(trial=trial)
        self.looks += 1
        self.trials += trial
        if self.error is not None:
            raise self.error
        return Room(self.free, 1000 * GIB)


def state(member: Member) -> str:
    return member.node.status().store.state


async def here(member: Member, *data: bytes) -> bool:
    return all([await member.store.size(digest_of(each)) is not None for each in data])


@trio_test
async def test_below_its_reserve_a_node_fetches_nothing_and_goes_on_serving(
    autojump_clock: MockClock,
) -> None:
    theirs = [*blobs(50, 500), large(1)]
    async with a_world() as world:
        store = Disk(free=GIB - 1)
        await filled(*blobs(0, 100), store=store)
        b = await world.start("b", ["a"], store=await filled(*theirs))
        a = await world.start("a", ["b"], store=store)
        await until(lambda: b.count == 501, 20.0)  # it serves
        await trio.sleep(100.0)
        assert a.count == 100
        assert state(a) == "full"
        assert f"{GIB - 1} bytes are free" in a.node.status().store.reason
        # It compares: what is missing is known, and why it stays so.
        seen = a.peer("b")
        assert (seen.state, seen.missing_here, seen.failures) == ("idle", 401, 0)
        assert "nothing is fetched, the store is full" in (seen.last_error or "")
        assert not [path for path in a.traffic("b").requests if path.startswith(("batch", "blob"))]
        # What the other one offers and pushes is not wanted either.
        await b.put(b"new")
        await trio.sleep(1.0)
        assert a.count == 100
        with pytest.raises(Full, match="reserve"):
            await a.put(b"from a client")
        await a.put(blob(7))  # known: it needs no room
        store.free = 2 * GIB
        await world.level(SOON + 2.0)
        assert state(a) == "ok"
        await a.put(b"from a client")


@trio_test
async def test_a_reserve_that_is_set_is_kept(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a", store=Disk(free=10 * GIB), reserve_bytes=11 * GIB)
        await until(lambda: state(a) == "full", SOON)
        b = await world.start("b", store=Disk(free=10), reserve_bytes=0)
        await trio.sleep(SOON)
        assert state(b) == "ok"
        assert b.node.status().store.reserve_bytes == 0


@trio_test
async def test_a_large_blob_that_does_not_fit_delays_no_other(autojump_clock: MockClock) -> None:
    big, small = large(1, 3 * 4_194_304), large(2)
    async with a_world() as world:
        store = Disk(free=GIB + 2 * 4_194_304)
        await world.start("b", store=await filled(big, small, *blobs(10, 30)))
        a = await world.start("a", ["b"], store=store)
        await until(lambda: a.count == 21, 20.0)
        await until(lambda: "no room for a blob" in (a.peer("b").last_error or ""), 60.0)
        assert state(a) == "ok"
        store.free = 10 * GIB
        await world.level(60.0)


@trio_test
async def test_a_blob_that_keeps_coming_stops_at_the_reserve(autojump_clock: MockClock) -> None:
    """It need not say how long it is, and may be longer than what is left of the disk."""
    async with a_world() as world:
        store = Disk(free=2 * GIB)
        a = await world.start("a", store=store)
        await until(lambda: state(a) == "ok", SOON)
        async with a.node.keeper.door.incoming() as incoming:
            await incoming.write(bytes(1000))
            store.free = GIB - 1
            await until(lambda: state(a) == "full", SOON + 10.0)
            with pytest.raises(Full, match="reserve"):
                await incoming.write(bytes(1000))
        async with a.node.keeper.door.incoming() as incoming:
            with pytest.raises(Full, match="reserve"):
                await incoming.write(b"one byte is too many as well")


@trio_test
@pytest.mark.parametrize(
    ("error", "named"),
    [
        (ReadOnly("cannot store: Read-only file system"), "read-only"),
        (StoreError("cannot store: Input/output error"), "failing"),
        (StoreError("cannot store: Too many open files"), "failing"),
        (Full("cannot store: No space left on device"), "full"),
    ],
)
async def test_what_a_disk_does_not_take_has_a_name_and_ends_by_itself(
    autojump_clock: MockClock, error: StoreError, named: str
) -> None:
    async with a_world() as world:
        store = Disk()
        await filled(*blobs(0, 10), store=store)
        b = await world.start("b", ["a"], store=await filled(*blobs(5, 20)))
        a = await world.start("a", ["b"], store=store)
        await world.level(20.0)
        store.error = error
        with pytest.raises(type(error)):
            await a.put(b"one")
        assert state(a) == named
        assert str(error) in a.node.status().store.reason
        # What is here is acknowledged once more, unless it may be gone with its directory.
        known = [Known(digest_of(blob(0)), len(blob(0)))]
        if named == "failing":
            with pytest.raises(StoreError, match="the store is failing"):
                await a.node.keeper.put(known)
        else:
            assert await a.node.keeper.put(known) == [False]
        await b.put(b"two")
        await trio.sleep(200.0)
        assert await here(a, *blobs(0, 20))
        assert not a.has(digest_of(b"two"))
        assert a.peer("b").missing_here == 1
        store.error = None
        await world.level(SOON + 2.0)
        assert state(a) == "ok"
        await a.put(b"one")


@trio_test
async def test_one_error_that_does_not_come_again_is_over_at_once(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        store = Disk()
        a = await world.start("a", store=store)
        store.error = StoreError("cannot store: Input/output error")
        with pytest.raises(StoreError):
            await a.put(b"one")
        store.error = None
        await a.put(b"one")
        await until(lambda: state(a) == "ok", 1.0)


@trio_test
async def test_a_disk_is_looked_at_now_and_then(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        store = Disk()
        await world.start("a", store=store)
        await trio.sleep(HOUR)
        assert HOUR / 10 < store.looks < HOUR / 2
        assert store.trials == 0, "one that is well is not written to"


@trio_test
async def test_what_has_come_in_part_is_shown_until_the_whole_is_here(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        store = MemoryStore()
        names = [digest_of(large(number)) for number in (1, 2)]
        for name in names:
            await part(store, name, 1000)
        a = await world.start("a", store=store, interval=HOUR)
        await until(lambda: a.node.status().store.partial_blobs == 2, SOON)
        assert a.node.status().store.partial_bytes == 2000
        await a.put(large(1))  # the whole has come from somewhere else
        await until(lambda: a.node.status().store.partial_blobs == 1, 3 * SOON)
        (left,) = await store.partials()
        assert left.digest == names[1]


async def part(store: MemoryStore, name: Digest, size: int) -> None:
    async with store.resume(name, b"somebody") as arriving:
        assert arriving is not None
        await arriving.write(bytes(size))
