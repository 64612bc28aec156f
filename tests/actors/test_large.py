"""Large blobs over connections that break, from peers that lie, and over restarts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mesh.core.claims import PENALTY
from mesh.core.digest import digest_of
from mesh.core.holder import Configured, bringer
from mesh.core.limits import LARGE_BLOB
from mesh.core.partial import FRUITLESS, PROGRESS
from mesh.errors import InputError, Refused, Unreachable
from mesh.status import RoundStats
from mesh.store.memory import MemoryStore
from mesh.wire.messages import PushReply, decode
from tests.actors.world import (
    HOUR,
    Corrupting,
    Cutting,
    Faulty,
    Member,
    Refusing,
    Slow,
    a_world,
    blobs,
    filled,
    large,
    until,
    url_of,
)

trio_test = pytest.mark.trio

BLOB = large(1, 3 * LARGE_BLOB + 5)
NAME = digest_of(BLOB)


async def sync(member: Member, peer: int = 0) -> RoundStats:
    return await member.node.peers[peer].sync()


def starts(member: Member, peer: str) -> list[int]:
    """The offsets from which large blobs were asked for."""
    asked = [path for path in member.traffic(peer).requests if path.startswith("blob/")]
    return [int(path.rpartition("/")[2]) for path in asked]


def cut(after: int, *, silently: bool = False) -> Any:
    return lambda wire: Cutting(wire, after, "blob", silently=silently)


@trio_test
async def test_a_cut_blob_goes_on_at_once_where_it_was(autojump_clock: MockClock) -> None:
    for silently in (False, True):
        async with a_world() as world:
            await world.start("b", store=await filled(BLOB))
            wires = {"b": cut(1_000_000, silently=silently)}
            a = await world.start("a", ["b"], interval=HOUR, wires=wires)
            stats = await sync(a)
            assert (stats.error, stats.fetched, stats.fetched_bytes) == (None, 1, len(BLOB))
            assert a.has(NAME)
            assert starts(a, "b") == list(range(0, len(BLOB), 1_000_000))
            # The wire's own chunks of 64 KiB are counted before they are cut.
            assert a.traffic("b").down < len(BLOB) + 13 * 65_536 + 1000


@trio_test
async def test_a_peer_that_brings_too_little_is_left_alone_until_its_next_round(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(BLOB))
        a = await world.start("a", ["b"], interval=HOUR, wires={"b": cut(PROGRESS - 1)})
        stats = await sync(a)
        assert "connection reset" in (stats.error or "")
        assert starts(a, "b") == [number * (PROGRESS - 1) for number in range(FRUITLESS)]
        a.wire("b").broken = False
        assert (await sync(a)).error is None
        assert starts(a, "b")[-1] == FRUITLESS * (PROGRESS - 1)
        assert a.traffic("b").down < len(BLOB) + 2000


@trio_test
async def test_a_blob_is_gone_on_with_from_another_peer_and_after_a_restart(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(BLOB))
        await world.start("c", store=await filled(BLOB))
        wires = {"b": lambda wire: Slow(wire, 1_000_000)}
        a = await world.start("a", ["b"], interval=HOUR, wires=wires)
        await until(lambda: a.traffic("b").down > 2 * LARGE_BLOB, 60.0)
        await a.stop()
        (kept,) = await a.store.partials()
        assert (kept.digest, kept.busy, kept.guarded) == (NAME, False, True)
        assert kept.size > LARGE_BLOB
        again = world.add("again", ["c"], store=a.store, interval=HOUR)
        await again.start()
        await until(lambda: again.has(NAME), 60.0)
        assert starts(again, "c") == [kept.size]
        assert again.traffic("c").down < len(BLOB) - kept.size + 1000
        assert await again.store.partials() == []


@trio_test
async def test_a_blob_whose_only_source_lies_is_fetched_from_others(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(BLOB))
        await world.start("c", store=await filled(BLOB))
        wires = {"b": lambda wire: Corrupting(wire, BLOB[:20], "blob")}
        a = await world.start("a", ["b", "c"], interval=HOUR, wires=wires)
        assert "what came as blob" in ((await sync(a)).error or "")
        await until(lambda: a.has(NAME), PENALTY / 2)
        assert "what came as blob" in (a.peer("b").last_error or "")
        assert a.peer("c").last_error is None


@trio_test
async def test_one_of_two_sources_lies_and_the_other_convicts_it(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(BLOB))
        await world.start("c", store=await filled(BLOB))

        store = MemoryStore()
        async with store.resume(NAME, bringer(Configured(url_of("b")))) as arriving:
            assert arriving is not None
            await arriving.write(b"x" + BLOB[1:LARGE_BLOB])
        honest = world.add("honest", ["c", "b"], store=store, interval=HOUR)
        await honest.start()
        await until(lambda: honest.has(NAME), 30.0)
        await until(lambda: honest.peer("b").last_error is not None, 10.0)
        assert f"wrong bytes of blob {NAME.hex()}" in (honest.peer("b").last_error or "")
        assert honest.peer("c").last_error is None


class CutUploads(Faulty):
    """What we send of a large blob is cut after so many bytes."""

    async def sent(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        left, cuts = 5_000_000, path.count("/") > 1 and self.hits(path)
        async for chunk in chunks:
            yield chunk
            left -= len(chunk)
            if cuts and left <= 0:
                raise Unreachable("connection reset")


@trio_test
async def test_a_push_that_is_cut_goes_on_where_it_was(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b")
        wires = {"b": lambda wire: CutUploads(wire, "push")}
        a = await world.start("a", ["b"], store=await filled(BLOB), wires=wires)
        await world.level(60.0)
        assert b.has(NAME)
        assert a.wire("b").met == 3
        pushes = [path for path in a.traffic("b").requests if path.count("/") > 1]
        begun = [int(path.split("/")[4]) for path in pushes if path.count("/") == 4]
        assert len(begun) == 2
        assert begun == sorted(begun)
        assert begun[0] >= 5_000_000
        assert a.traffic("b").up < len(BLOB) + 2000
        assert await b.store.partials() == []


@trio_test
async def test_a_push_that_begins_behind_what_is_here_is_refused(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = await world.start("b")
        node, size = "ab" * 16, len(BLOB)

        async def push(start: int, data: bytes) -> bytes:
            path = f"push/{node}/{NAME.hex()}/{size}/{start}"
            async with aclosing(one(data)) as chunks:
                return await b.node.service.upload(path, chunks)

        with pytest.raises(Refused, match="goes on at 0 here"):
            await push(1, BLOB[1:])
        with pytest.raises(InputError, match="ends at 5000000"):
            await push(0, BLOB[:5_000_000])
        with pytest.raises(InputError, match="longer"):
            await push(4_000_000, BLOB[4_000_000:] + b"more")
        with pytest.raises(InputError, match="ends at"):
            await push(0, BLOB[:5_000_000])
        # What is here already is passed over.
        assert decode(PushReply, await push(4_000_000, BLOB[4_000_000:])).stored == 1
        assert await b.store.size(NAME) == size


async def one(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


@trio_test
async def test_a_lie_about_the_size_ends_in_the_right_blob(autojump_clock: MockClock) -> None:
    short = BLOB[: 2 * LARGE_BLOB]
    async with a_world() as world:
        await world.start("b", store=await filled(BLOB))
        store = MemoryStore()
        async with store.resume(NAME, b"somebody") as arriving:
            assert arriving is not None
            await arriving.write(BLOB + b"and more")
        a = await world.start("a", ["b"], store=store, interval=HOUR)
        await until(lambda: a.has(NAME), 30.0)
        assert digest_of(short) != NAME
        assert await a.store.partials() == []


@trio_test
async def test_a_peer_that_declines_keeps_what_others_brought(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(BLOB, *blobs(10, 20)))
        store = MemoryStore()
        async with store.resume(NAME, b"somebody") as arriving:
            assert arriving is not None
            await arriving.write(BLOB[:LARGE_BLOB])
        wires = {"b": lambda wire: Refusing(wire, "blob", None)}
        a = await world.start("a", ["b"], store=store, interval=30.0, wires=wires)
        await trio.sleep(20.0)
        (kept,) = await a.store.partials()
        assert kept.size == LARGE_BLOB
        a.wire("b").broken = False
        await world.level(3 * PENALTY)
        assert starts(a, "b")[-1] == LARGE_BLOB


@trio_test
async def test_a_blob_that_is_being_verified_comes_later_and_nobody_is_blamed(
    autojump_clock: MockClock,
) -> None:
    """Hashing it takes longer than any peer would wait for a byte."""
    async with a_world() as world:
        store = await filled(BLOB)
        verified = store.unverify(NAME)
        await world.start("b", store=store)
        a = await world.start("a", ["b"], interval=HOUR)
        for _ in range(3):
            stats = await sync(a)
            assert (stats.error, stats.fetched, stats.failed) == (None, 0, 0)
        await trio.sleep(600.0)
        assert not a.has(NAME)
        assert "being verified" in (a.peer("b").last_error or "")
        assert a.peer("b").failures == 0
        verified()
        await until(lambda: a.has(NAME), 60.0)
        assert a.traffic("b").down < len(BLOB) + 100_000


@trio_test
async def test_a_push_that_waits_for_a_verification_comes_soon_after_it(
    autojump_clock: MockClock,
) -> None:
    """The next round by the interval would be an hour later."""
    async with a_world() as world:
        store = await filled(BLOB)
        verified = store.unverify(NAME)
        b = await world.start("b", interval=HOUR)
        a = await world.start("a", ["b"], store=store, interval=HOUR)
        await trio.sleep(60.0)
        assert "being verified" in (a.peer("b").last_error or "")
        verified()
        await until(lambda: b.has(NAME), 30.0)
        await until(lambda: a.peer("b").last_error is None, 30.0)
