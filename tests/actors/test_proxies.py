"""A proxy on the way that takes less than the peer would: what is sent at once becomes smaller."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from trio.testing import MockClock

from mesh.errors import TooMuch
from mesh.transport.base import Wire
from tests.actors.world import Through, a_world, blobs, filled, large

trio_test = pytest.mark.trio

MIB = 1024 * 1024


class Narrow(Through):
    """A proxy that refuses bodies of more than `limit` bytes, of which it tells nobody."""

    def __init__(self, wire: Wire, limit: int) -> None:
        super().__init__(wire)
        self.limit = limit
        self.refused = 0

    async def upload(self, path: str, chunks: AsyncIterator[bytes]) -> bytes:
        body = [chunk async for chunk in chunks]
        if sum(map(len, body)) > self.limit:
            self.refused += 1
            raise TooMuch("b declined: HTTP status 413")

        async def again() -> AsyncIterator[bytes]:
            for chunk in body:
                yield chunk

        return await super().upload(path, again())

    async def call(self, path: str, body: bytes) -> bytes:
        if len(body) > self.limit:
            self.refused += 1
            raise TooMuch("b declined: HTTP status 413")
        return await super().call(path, body)


def sized(count: int, size: int) -> list[bytes]:
    return [bytes([number]) * size for number in range(count)]


@trio_test
async def test_pushes_fit_through_a_narrow_proxy(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b")
        wires = {"b": lambda wire: Narrow(wire, MIB)}
        a = await world.start("a", ["b"], wires=wires, store=await filled(*sized(7, 400_000)))
        stats = await a.node.peers[0].sync()
        assert stats.level, stats
        assert stats.sent == 7
        assert b.count == 7


@trio_test
async def test_what_is_too_large_alone_is_named_and_delays_no_other(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = await world.start("b")
        wires = {"b": lambda wire: Narrow(wire, MIB)}
        store = await filled(large(1), *sized(3, 2 * MIB), *blobs(0, 20))
        a = await world.start("a", ["b"], wires=wires, store=store)
        stats = await a.node.peers[0].sync()
        assert b.count == 20
        assert stats.error is None
        assert not stats.level
        assert "takes in one request" in " ".join(stats.reasons)
        assert "takes in one request" in (a.peer("b").last_error or "")
        # What was refused is remembered: the next round sends no such blob again.
        again = await a.node.peers[0].sync()
        assert not again.level
        assert not again.sent
        assert a.wire("b").refused < 8


@trio_test
async def test_offers_of_many_blobs_fit_through_it_too(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b")
        wires = {"b": lambda wire: Narrow(wire, 8 * 1024)}
        a = await world.start("a", ["b"], wires=wires, store=await filled(*blobs(0, 600)))
        stats = await a.node.peers[0].sync()
        assert stats.level, stats
        assert b.count == 600


@trio_test
async def test_questions_about_many_buckets_fit_through_it_too(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b", store=await filled(*blobs(0, 3000)), sketch_cells=0)
        wires = {"b": lambda wire: Narrow(wire, 1024)}
        store = await filled(*blobs(1000, 3500))
        a = await world.start("a", ["b"], wires=wires, store=store, sketch_cells=0)
        stats = await a.node.peers[0].sync()
        assert a.wire("b").refused
        assert stats.proven, stats
        assert stats.missing_here == stats.missing_there == 0
        assert a.root == b.root
