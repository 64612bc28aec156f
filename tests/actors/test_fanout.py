"""One large blob that several nodes fetch at the same time: they take parts from each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from trio.testing import MockClock

from mesh.core.digest import digest_of
from mesh.core.trade import STRETCH, WINDOW
from mesh.errors import Refused
from mesh.wire.messages import PartsReply, PartsRequest, decode, encode
from tests.actors.world import (
    HOUR,
    Dripping,
    Failing,
    Faulty,
    HangingStream,
    Member,
    Slow,
    World,
    a_world,
    filled,
    until,
)

trio_test = pytest.mark.trio

BLOB = Random(7).randbytes(12 * STRETCH + 12_345)
NAME = digest_of(BLOB)
WORKERS = ("a", "b", "c")
RATE = 10_000_000  # bytes a second of each link: the blob takes 5 s over one of them


class Link(Slow):
    """In larger pieces, as there is much to be moved."""

    PIECE = 128 * 1024


def slow(wire: Any) -> Slow:
    return Link(wire, RATE)


async def started(world: World, **wires: Any) -> list[Member]:
    """A source, and workers that begin together. `wires`: other wraps, as "a_to_b"."""
    await world.start("source", store=await filled(BLOB))
    members = []
    for name in WORKERS:
        others = [other for other in WORKERS if other != name]
        wraps = {other: wires.get(f"{name}_to_{other}", slow) for other in ("source", *others)}
        members.append(world.add(name, ["source", *others], wires=wraps, interval=HOUR))
    for member in members:
        await member.start()
    for member in members:
        world.nursery.start_soon(member.node.peers[0].sync)
    return members


def sent(members: list[Member], name: str = "source") -> int:
    """Bytes that a node has sent to the others."""
    return sum(member.traffic(name).down for member in members if member.name != name)


def parts(member: Member, name: str) -> list[str]:
    """The parts that were asked of a node."""
    return [path for path in member.traffic(name).requests if path.startswith("part/")]


async def all_have_it(members: list[Member], within: float) -> float:
    return await until(lambda: all(member.has(NAME) for member in members), within)


@trio_test
async def test_the_source_sends_a_blob_about_once_to_three(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        members = await started(world)
        took = await all_have_it(members, 60.0)
        assert sent(members) < 1.1 * len(BLOB)
        assert took < len(BLOB) / RATE
        # Each of them has given, and nothing was asked for twice.
        for member in members:
            assert sent(members, member.name) > len(BLOB) / 4
            asked = [path for name in ("source", *WORKERS) if name != member.name
                     for path in parts(member, name)]  # fmt: skip
            assert len(asked) == len(set(asked))


@trio_test
async def test_one_worker_and_one_source_need_one_request(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("source", store=await filled(BLOB))
        a = await world.start("a", ["source"], interval=HOUR)
        await all_have_it([a], 60.0)
        asked = [path for path in a.traffic("source").requests if NAME.hex() in path]
        assert asked == [f"blob/{NAME.hex()}/0"]
        assert "parts" not in a.traffic("source").requests


@trio_test
async def test_a_worker_that_begins_late_takes_from_those_that_are_ahead(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("source", store=await filled(BLOB))
        wires = {"source": slow, "b": slow}
        a = world.add("a", ["source", "b"], wires=wires, interval=HOUR)
        b = world.add("b", ["source", "a"], wires={"source": slow, "a": slow}, interval=HOUR)
        await a.start()
        world.nursery.start_soon(a.node.peers[0].sync)
        await until(lambda: a.traffic("source").down > len(BLOB) / 2, 60.0)
        await b.start()
        world.nursery.start_soon(b.node.peers[0].sync)
        await all_have_it([a, b], 60.0)
        assert sent([a, b]) < 1.25 * len(BLOB)


@trio_test
async def test_a_worker_whose_parts_are_wrong_delays_the_others_and_is_not_blamed(
    autojump_clock: MockClock,
) -> None:
    """It may have been told them. What is wrong as a whole comes again from the source alone."""
    async with a_world() as world:
        # Every part that c gives to a has wrong bytes, wherever it begins.
        wires = {"a_to_c": lambda wire: Spoiling(slow(wire))}
        members = await started(world, **wires)
        a = members[0]
        await all_have_it(members, 120.0)
        assert a.wire("c").met
        assert f"blob/{NAME.hex()}/0" in a.traffic("source").requests[-5:]
        assert [a.peer(name).last_error for name in ("source", "b", "c")] == [None] * 3
        assert all(member.peer("source").last_error is None for member in members)


@trio_test
async def test_a_source_that_lies_to_all_of_them_is_found_out(autojump_clock: MockClock) -> None:
    """Wrong parts are passed on, and those who pass them on are not to blame."""
    spoiled = {f"{name}_to_source": lambda wire: Spoiling(slow(wire)) for name in WORKERS}
    async with a_world() as world:
        members = await started(world, **spoiled)
        said: dict[str, str] = {}

        def all_found_out() -> bool:
            for member in members:
                if (error := member.peer("source").last_error) is not None:
                    said[member.name] = error
                others = [name for name in WORKERS if name != member.name]
                assert [member.peer(name).last_error for name in others] == [None, None]
            return len(said) == len(members)

        await until(all_found_out, 120.0)
        assert all("what came as blob" in error for error in said.values())


@pytest.mark.parametrize("fault", [HangingStream, Dripping, Failing])
@trio_test
async def test_a_worker_that_gives_nothing_costs_the_others_seconds(
    fault: Any, autojump_clock: MockClock
) -> None:
    wires = {f"{name}_to_c": lambda wire: fault(slow(wire), "part") for name in ("a", "b")}
    async with a_world() as world:
        members = await started(world, **wires)
        took = await all_have_it(members, 60.0)
        assert members[0].wire("c").met
        assert took < 4 * len(BLOB) / RATE
        assert [members[0].peer(name).last_error for name in ("source", "b", "c")] == [None] * 3


@trio_test
async def test_a_worker_that_dies_is_done_without_and_goes_on_later(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a, b, c = await started(world)
        came = lambda: sum(c.traffic(name).down for name in ("source", "a", "b"))  # noqa: E731
        # More than it may be ahead of what is written.
        await until(lambda: came() > (WINDOW + 2) * STRETCH, 60.0)
        assert sent([a, b], "c") > STRETCH
        await c.stop()
        (kept,) = await c.store.partials()
        assert kept.size > STRETCH
        took = await all_have_it([a, b], 60.0)
        assert took < 2 * len(BLOB) / RATE
        await c.start()
        await c.node.peers[0].sync()
        await all_have_it([c], 60.0)
        assert sent([c]) < len(BLOB) - kept.size + STRETCH


@trio_test
async def test_a_peer_that_does_not_know_of_parts_is_not_asked_for_any(
    autojump_clock: MockClock,
) -> None:
    def old(wire: Any) -> Failing:
        return Failing(slow(wire), "part", Refused("no such request", None, 404))

    async with a_world() as world:
        wires = {f"{name}_to_c": old for name in ("a", "b")}
        a, b, c = await started(world, **wires)
        await all_have_it([a, b, c], 60.0)
        assert [len(parts(member, "c")) for member in (a, b)] == [0, 0]
        assert a.traffic("c").requests.count("parts") == 0
        assert a.wire("c").met == 1
        assert sent([a, b, c]) < 2 * len(BLOB)


@trio_test
async def test_clients_see_nothing_of_a_blob_that_is_arriving(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a, _, _ = await started(world)
        await until(lambda: a.traffic("source").down > 4 * STRETCH, 60.0)
        request = PartsRequest(digest=NAME)
        reply = decode(PartsReply, await a.node.service.call("parts", encode(request)))
        assert reply.size == len(BLOB)
        assert 0 < reply.front < len(BLOB)
        # The status says how much of it is missing, whoever brings it.
        assert a.peer("source").missing_here_bytes == len(BLOB) - reply.front
        assert await a.node.keeper.door.size(NAME) is None
        chunks = a.node.service.download(f"blob/{NAME.hex()}/0", b"")
        with pytest.raises(Refused, match="not here"):
            await anext(chunks)
        got = a.node.service.download(f"part/{NAME.hex()}/0/{STRETCH}", b"")
        assert b"".join([chunk async for chunk in got]) == BLOB[:STRETCH]


class Spoiling(Faulty):
    """The first byte of every stretch, and of every whole blob, is another one."""

    async def received(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        spoils = path.startswith(("part/", "blob/")) and self.hits(path)
        async for chunk in chunks:
            yield bytes((chunk[0] ^ 1,)) + chunk[1:] if spoils and chunk else chunk
            spoils = spoils and not chunk
