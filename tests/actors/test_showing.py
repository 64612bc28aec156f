"""What status says of a peer: since when, how many bytes, how fast, how long yet."""

from __future__ import annotations

import msgspec
import pytest
import trio
from trio.testing import MockClock

from mesh.core.digest import digest_of
from mesh.wire.messages import RootReply, decode, encode
from tests.actors.world import (
    HOUR,
    Failing,
    Slow,
    Through,
    a_world,
    blobs,
    filled,
    large,
    until,
)

MIB = 1024 * 1024

pytestmark = pytest.mark.trio


async def test_a_peer_is_dated_by_what_happened_and_not_by_who_asks(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("b", ["a"])
        a = await world.start("a", ["b"], wires={"b": Failing})
        a.wire("b").broken = False
        await world.level(5.0)
        await until(lambda: a.peer("b").standing == "in sync", 5.0)
        await trio.sleep(600.0)
        seen = a.peer("b")
        assert seen.standing == "in sync"
        assert 590.0 < (seen.standing_seconds or 0.0) < 610.0
        assert (seen.last_error, seen.last_error_at) == (None, None)
        a.wire("b").broken = True
        world.cut("a", "b")
        await trio.sleep(100.0)
        seen = a.peer("b")
        assert (seen.standing, seen.missing_here_bytes) == ("unreachable", None)
        assert 60.0 < (seen.standing_seconds or 0.0) <= 100.0
        assert 60.0 < (seen.last_error_seconds_ago or 0.0) <= 100.0
        a.wire("b").broken = False
        world.heal("a", "b")
        await until(lambda: a.peer("b").standing == "in sync", 600.0)
        assert (a.peer("b").standing_seconds or 0.0) < 10.0
        assert a.peer("b").last_error is None


async def test_a_blob_that_comes_makes_a_peer_not_level_until_it_is_there(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("b", ["a"])
        a = await world.start("a", ["b"])
        await until(lambda: a.peer("b").standing == "in sync", 60.0)
        await trio.sleep(100.0)
        await a.put(b"new")
        assert a.peer("b").standing == "not level"
        assert (a.peer("b").standing_seconds or 0.0) < 0.001
        await until(lambda: a.peer("b").standing == "in sync", 5.0)
        assert (a.peer("b").standing_seconds or 0.0) < 5.0


async def test_not_level_is_dated_by_the_put_also_when_nobody_is_told(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("b")
        a = await world.start("a", ["b"], interval=HOUR, direction="pull")
        await until(lambda: a.peer("b").standing == "in sync", 60.0)
        await a.put(b"new")
        await trio.sleep(100.0)
        assert a.peer("b").standing == "not level"
        assert a.peer("b").standing_seconds == pytest.approx(100.0, abs=0.1)


async def test_the_bytes_of_a_set_are_told_of_the_present_one_alone(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a = await world.start("a", store=await filled(b"one", b"two", b"three"))
        sizes = [a.node.keeper.door.size_of(count) for count in (2, 3, 4)]
        assert sizes == [None, 11, None]


@pytest.mark.parametrize("own", [0, 3, 150])
async def test_the_bytes_that_are_missing_here_are_true_at_every_moment(
    autojump_clock: MockClock, own: int
) -> None:
    """A slow link; `own`: so many blobs are here alone. With many of them nothing is known."""
    some = blobs(0, 400, 10_000)
    here = blobs(1000, 1000 + own, 777)
    async with a_world() as world:
        b = await world.start("b", store=await filled(*some))
        a = await world.start(
            "a",
            ["b"],
            interval=HOUR,
            direction="pull",
            store=await filled(*here),
            wires={"b": lambda wire: Slow(wire, 100_000)},
        )
        seen = []
        sizes = {digest_of(data): len(data) for data in some}
        while a.count < len(some) + own:
            status = a.peer("b")
            if status.missing_here_bytes is not None:
                left = sum(size for digest, size in sizes.items() if not a.has(digest))
                # What is verified is being committed: it is counted a moment later.
                assert abs(status.missing_here_bytes - left) <= 2 * MIB
                seen.append(status)
            await trio.sleep(0.5)
        assert b.count == len(some)
        if own > 100:
            assert all(not status.missing_here_bytes for status in seen)
            return
        assert len(seen) > 20
        middle = seen[len(seen) // 2]
        assert middle.fetch_bytes_per_second == pytest.approx(100_000, rel=0.1)
        assert middle.missing_there_bytes == 777 * own
        left_seconds = (middle.missing_here_bytes or 0) / middle.fetch_bytes_per_second
        assert middle.fetch_seconds_left == pytest.approx(left_seconds)
        await trio.sleep(30.0)
        end = a.peer("b")
        assert (end.missing_here, end.missing_here_bytes) == (0, 0)
        assert (end.missing_there, end.missing_there_bytes) == (own, 777 * own)
        assert (end.standing, end.fetch_bytes_per_second) == ("level" if own else "in sync", 0.0)


class Older(Through):
    """A peer of a version that does not tell how many bytes it has."""

    async def call(self, path: str, body: bytes) -> bytes:
        answer = await super().call(path, body)
        if path != "root":
            return answer
        reply = msgspec.structs.replace(decode(RootReply, answer), size=None)
        return msgspec.msgpack.encode(msgspec.msgpack.decode(encode(reply))[:-1])


async def test_of_an_older_peer_bytes_are_not_known_unless_nothing_is_missing(
    autojump_clock: MockClock,
) -> None:
    some, own = blobs(0, 200, 10_000), blobs(1000, 1003, 100)
    async with a_world() as world:
        await world.start("b", store=await filled(*some))
        a = await world.start(
            "a",
            ["b"],
            interval=HOUR,
            direction="pull",
            store=await filled(*own),
            wires={"b": lambda wire: Slow(Older(wire), 100_000)},
        )
        await until(lambda: a.peer("b").missing_there == 3, 20.0)
        seen = a.peer("b")
        assert seen.missing_here
        assert (seen.missing_here_bytes, seen.fetch_seconds_left) == (None, None)
        assert seen.missing_there_bytes == 300
        await until(lambda: a.peer("b").standing == "level", 60.0)
        assert a.peer("b").missing_here_bytes == 0


async def test_a_large_blob_counts_as_it_comes(autojump_clock: MockClock) -> None:
    one = large(1, 8 * MIB)
    async with a_world() as world:
        await world.start("b", store=await filled(one))
        a = await world.start("a", ["b"], wires={"b": lambda wire: Slow(wire, MIB)})
        await until(lambda: 0 < (a.peer("b").missing_here_bytes or 0) < len(one) - MIB, 10.0)
        before = a.peer("b").missing_here_bytes
        await trio.sleep(3.0)
        seen = a.peer("b")
        assert (seen.missing_here, before) == (1, pytest.approx(7 * MIB, rel=0.1))
        assert seen.missing_here_bytes == pytest.approx(4 * MIB, rel=0.1)
        assert seen.fetch_seconds_left == pytest.approx(4.0, rel=0.3)
        await world.level(60.0)
