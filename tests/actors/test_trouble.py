"""What keeps failing is told, ends by itself, and is tried again when somebody says so."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from mesh.core.digest import digest_of
from mesh.errors import TooMuch
from mesh.status import ErrorRow
from tests.actors.world import (
    Corrupting,
    Failing,
    Faulty,
    Member,
    a_world,
    blobs,
    filled,
    large,
    until,
)

pytestmark = pytest.mark.trio

MIB = 1024 * 1024


class Narrow(Faulty):
    """A proxy that refuses bodies of more than `limit` bytes."""

    limit = MIB

    async def upload(self, path: str, chunks: AsyncIterator[bytes]) -> bytes:
        body = [chunk async for chunk in chunks]
        if sum(map(len, body)) > self.limit and self.hits(path):
            raise TooMuch("b declined: HTTP status 413")

        async def again() -> AsyncIterator[bytes]:
            for chunk in body:
                yield chunk

        return await super().upload(path, again())


def told(member: Member) -> list[ErrorRow]:
    return member.node.errors().errors


async def test_a_blob_that_comes_wrong_is_told_with_its_tries(autojump_clock: MockClock) -> None:
    good, bad = b"good", b"bad needle"
    async with a_world() as world:
        await world.start("b", store=await filled(good, bad))
        a = await world.start(
            "a", ["b"], wires={"b": lambda wire: Corrupting(wire, b"needle", "batch")}
        )
        await until(lambda: told(a), 10.0)
        (row,) = told(a)
        assert (row.digest, row.peer, row.missing) == (digest_of(bad).hex(), "b", "here")
        assert "were another blob" in row.reason
        assert row.tries == 1
        await until(lambda: told(a)[0].tries == 3, 600.0)
        (row,) = told(a)
        assert 100.0 < (row.first_seconds_ago or 0.0) < 600.0
        assert (row.last_seconds_ago or 0.0) < 5.0
        # Within a minute it is not asked of that peer again, unless somebody says so.
        errors = await a.node.retry()
        assert [each.tries for each in errors.errors] == [4]
        a.wire("b").broken = False
        errors = await a.node.retry()
        assert (errors.errors, errors.more) == ([], 0)
        assert a.has(digest_of(bad))


async def test_a_blob_that_is_too_large_for_this_node_is_told(autojump_clock: MockClock) -> None:
    one = large(1, 5 * MIB)
    async with a_world() as world:
        await world.start("b", store=await filled(one, *blobs(0, 3)))
        a = await world.start("a", ["b"], max_replica_bytes=4 * MIB)
        await until(lambda: told(a), 10.0)
        (row,) = told(a)
        assert (row.digest, row.missing) == (digest_of(one).hex(), "here")
        assert f"it has {5 * MIB} bytes; that is more than max_replica_bytes" in row.reason
        await a.put(one)  # it came another way
        assert told(a) == []


async def test_a_blob_that_a_proxy_refuses_is_told_until_it_goes_through(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = await world.start("b")
        a = await world.start("a", ["b"], interval=60.0, wires={"b": Narrow})
        await until(lambda: a.peer("b").in_sync, 10.0)
        name, small = await a.put(b"x" * 2 * MIB, b"y")
        await until(lambda: b.has(small) and told(a), 200.0)
        (row,) = told(a)
        assert (row.digest, row.peer, row.missing) == (name.hex(), "b", "there")
        assert "takes in one request" in row.reason
        await trio.sleep(1000.0)
        assert told(a)[0].tries > 5
        a.wire("b").broken = False
        # So much would be sent at once again after ten minutes only, unless somebody says so.
        assert (await a.node.retry()).errors == []
        assert b.has(name)


async def test_a_blob_that_goes_through_is_told_no_more_and_the_other_one_is(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = await world.start("b")
        a = await world.start("a", ["b"], interval=60.0, wires={"b": Narrow})
        two, three = await a.put(b"x" * 2 * MIB, b"y" * 3 * MIB)
        await until(lambda: len(told(a)) == 2, 200.0)
        await trio.sleep(20.0)  # b waits for what it was promised
        a.wire("b").limit = MIB * 5 // 2
        (row,) = (await a.node.retry()).errors
        assert (b.has(two), row.digest) == (True, three.hex())


async def test_what_the_peer_has_not_any_more_is_told_no_more(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b", store=await filled(b"good", b"bad needle"))
        a = await world.start(
            "a", ["b"], wires={"b": lambda wire: Corrupting(wire, b"needle", "batch")}
        )
        await until(lambda: told(a), 10.0)
        await b.stop()
        b.store = await filled(b"good")
        await b.start()
        await until(lambda: a.peer("b").in_sync, 600.0)
        assert told(a) == []


async def test_a_peer_with_which_rounds_fail_is_told_as_one_row(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("b")
        a = await world.start("a", ["b"], interval=10.0, wires={"b": Failing})
        await until(lambda: a.peer("b").failures == 3, 100.0)
        (row,) = told(a)
        assert (row.digest, row.peer, row.missing, row.tries) == (None, "b:7280", None, 3)
        assert "connection reset" in row.reason
        assert (row.first_seconds_ago or 0.0) > (row.last_seconds_ago or 0.0)
        await a.node.peers[0].pause()
        assert told(a) == []
        a.node.peers[0].resume()
        a.wire("b").broken = False
        assert (await a.node.retry()).errors == []
