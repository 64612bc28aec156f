"""Rounds by sketches between whole nodes: where they help, and where the trees take over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from mesh.core.digest import Digest, digest_of
from mesh.core.shortcut import MAX_PREFIXES, Found, Several
from mesh.core.sketch import Key, Sketch
from mesh.errors import InputError
from mesh.transport.base import Wire
from mesh.wire.messages import (
    CellsReply,
    CellsRequest,
    FindReply,
    FindRequest,
    Greeting,
    RootReply,
    decode,
    encode,
)
from tests.actors.world import (
    HOUR,
    Member,
    Refusing,
    Through,
    World,
    a_world,
    blobs,
    filled,
)

pytestmark = pytest.mark.trio

HERE, THERE = blobs(0, 1000), blobs(20, 1020)


async def pair(
    world: World,
    ours: dict[str, Any] | None = None,
    theirs: dict[str, Any] | None = None,
    wire: Callable[[Wire], Wire] | None = None,
) -> tuple[Member, Member]:
    """Two nodes whose sets differ by 20 blobs on each side; only the first calls the other."""
    b = await world.start("b", interval=HOUR, store=await filled(*THERE), **(theirs or {}))
    wires = {"b": wire} if wire is not None else None
    a = await world.start(
        "a", ["b"], interval=HOUR, store=await filled(*HERE), wires=wires, **(ours or {})
    )
    return a, b


async def leveled(a: Member, b: Member) -> Counter[str]:
    """The requests of a round that levels the two."""
    stats = await a.node.peers[0].sync()
    assert stats.error is None
    assert stats.proven
    assert (stats.fetched, stats.sent) == (20, 20)
    assert a.root == b.root
    return Counter(path.partition("/")[0] for path in a.traffic("b").requests)


async def test_a_round_takes_two_requests_to_compare(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a, b = await pair(world)
        requests = await leveled(a, b)
        assert requests == {"root": 1, "find": 1, "batch": 1, "offer": 1, "push": 1}


@pytest.mark.parametrize("cells", [2048, 4096, 2**20])
async def test_how_many_cells_each_side_keeps_does_not_matter(
    autojump_clock: MockClock, cells: int
) -> None:
    async with a_world() as world:
        a, b = await pair(world, {"sketch_cells": cells})
        assert "tree" not in await leveled(a, b)


@pytest.mark.parametrize("off", ["a", "b"])
async def test_a_peer_without_a_sketch_is_compared_with_by_the_tree(
    autojump_clock: MockClock, off: str
) -> None:
    async with a_world() as world:
        none = {"sketch_cells": 0}
        a, b = await pair(world, none if off == "a" else None, none if off == "b" else None)
        requests = await leveled(a, b)
        assert requests["tree"] >= 2
        assert "find" not in requests


async def test_nodes_of_different_secrets_compare_by_the_tree(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).write_text(f"the-key-of-{name}\n")
    async with a_world() as world:
        a, b = await pair(
            world,
            {"peer_key_file": str(tmp_path / "one")},
            {"key_file": str(tmp_path / "other")},
        )
        requests = await leveled(a, b)
        assert requests["tree"] >= 2
        assert "find" not in requests


async def test_nodes_that_share_a_secret_have_sketches_of_one_key(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("a-secret\n")
    async with a_world() as world:
        key = str(tmp_path / "keys")
        a, b = await pair(world, {"peer_key_file": key}, {"key_file": key})
        assert "tree" not in await leveled(a, b)


async def test_sets_that_have_little_in_common_are_listed(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b", interval=HOUR, store=await filled(*blobs(0, 1000)))
        a = await world.start("a", ["b"], interval=HOUR, store=await filled(*blobs(900, 1000)))
        stats = await a.node.peers[0].sync()
        assert stats.proven
        assert stats.fetched == 900
        assert "find" not in a.traffic("b").requests


async def test_the_sketch_keeps_step_with_what_comes(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a, b = await pair(world)
        await leveled(a, b)
        for number in range(5):
            # By turns few, which are caught up with at once, and many, on a thread.
            count = 3 if number % 2 else 300
            first = 10_000 * (number + 1)
            await b.put(*blobs(first, first + count))
            await a.put(*blobs(first + 5000, first + 5000 + count))
            before = len(a.traffic("b").requests)
            stats = await a.node.peers[0].sync()
            assert (stats.proven, stats.fetched) == (True, count)
            assert "tree" not in a.traffic("b").requests[before:]
        assert a.root == b.root


async def test_more_than_anybody_waits_for_is_left_to_the_tree_once(
    autojump_clock: MockClock,
) -> None:
    many = blobs(50_000, 70_000)
    async with a_world() as world:
        a, b = await pair(world)
        await leveled(a, b)
        for member in (a, b):
            await member.put(*many)
        await a.put(b"one more")
        await a.node.peers[0].sync()
        assert a.root == b.root
        # By now the sketches have caught up, with nobody waiting for them.
        await b.put(b"and another")
        before = len(a.traffic("b").requests)
        stats = await a.node.peers[0].sync()
        assert stats.fetched == 1
        assert "tree" not in a.traffic("b").requests[before:]


# --- what the other side makes of it ---------------------------------------------------------


class Tampering(Through):
    """Changes the answers to some requests."""

    def __init__(self, wire: Wire, path: str, change: Callable[[Any], Any]) -> None:
        super().__init__(wire)
        self.path = path
        self.change = change
        self.met = 0

    async def call(self, path: str, body: bytes) -> bytes:
        answer = await super().call(path, body)
        if path != self.path:
            return answer
        self.met += 1
        kind = {"root": RootReply, "cells": CellsReply, "find": FindReply}[path]
        return encode(self.change(decode(kind, answer)))


def fewer(reply: RootReply) -> RootReply:
    assert reply.cells is not None
    count = len(reply.cells) // 11
    kept = count // 4
    return msgspec.structs.replace(
        reply, cells=reply.cells[: 7 * kept] + reply.cells[7 * count : 7 * count + 4 * kept]
    )


LIES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "cells of nothing": (
        "root",
        lambda reply: msgspec.structs.replace(reply, cells=bytes(len(reply.cells))),
    ),
    "cells inside out": (
        "root",
        lambda reply: msgspec.structs.replace(reply, cells=reply.cells[::-1]),
    ),
    "no cells and no top": ("root", lambda reply: msgspec.structs.replace(reply, cells=None)),
    "a few cells": ("root", fewer),
    "nothing found": (
        "find",
        lambda reply: FindReply(found=Found(b"", [Several(at, b"") for at in range(20)])),
    ),
    "the set is gone": ("find", lambda reply: FindReply(found=None)),
    "one left out": (
        "find",
        lambda reply: FindReply(found=Found(reply.found.tails[25:], [Several(0, b"")])),
    ),
    "another order": (
        "find",
        lambda reply: FindReply(found=Found(reply.found.tails[25:] + reply.found.tails[:25], [])),
    ),
}


@pytest.mark.parametrize("lie", LIES)
async def test_what_is_not_proven_is_left_to_the_tree(autojump_clock: MockClock, lie: str) -> None:
    async with a_world() as world:
        a, b = await pair(world, wire=lambda wire: Tampering(wire, *LIES[lie]))
        requests = await leveled(a, b)
        assert a.wire("b").met == 1
        assert requests["tree"] >= 1 or lie == "a few cells"
        assert requests["cells"] <= 2


NONSENSE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "digests that nobody asked for": (
        "find",
        lambda reply: FindReply(
            found=Found(reply.found.tails[25:], [Several(0, digest_of(b"unasked"))])
        ),
    ),
    "pieces of digests": ("find", lambda reply: FindReply(found=Found(reply.found.tails[1:], []))),
    "pieces of cells": (
        "root",
        lambda reply: msgspec.structs.replace(reply, cells=reply.cells[:-1]),
    ),
    "more cells than are kept": (
        "root",
        lambda reply: msgspec.structs.replace(reply, cells=bytes(11 * 2049)),
    ),
    "equal to a root that it was not told": (
        "root",
        lambda reply: msgspec.structs.replace(
            reply, hello=msgspec.structs.replace(reply.hello, root=b"short")
        ),
    ),
}


@pytest.mark.parametrize("what", NONSENSE)
async def test_nonsense_ends_the_round_and_nothing_else(
    autojump_clock: MockClock, what: str
) -> None:
    async with a_world() as world:
        a, b = await pair(
            world, {"sketch_cells": 2048}, wire=lambda wire: Tampering(wire, *NONSENSE[what])
        )
        stats = await a.node.peers[0].sync()
        assert stats.error is not None
        assert "peer sent" in stats.error or "nonsense" in stats.error
        assert a.peer("b").state == "failing"
        # What b can do for itself it does; and a goes on when b has come to its senses.
        a.wire("b").change = lambda reply: reply
        await leveled(a, b)


class Moving(Through):
    """The peer's set changes between two requests."""

    def __init__(self, wire: Wire, before: str, change: Callable[[], Any]) -> None:
        super().__init__(wire)
        self._path, self._change = before, change

    async def before(self, path: str) -> None:
        if path == self._path:
            self._path = ""
            await self._change()


async def test_a_comparison_is_finished_on_the_set_where_it_began(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        change: list[Callable[[], Any]] = []
        a, b = await pair(world, wire=lambda wire: Moving(wire, "find", lambda: change[0]()))
        root = b.root
        change.append(lambda: b.put(b"new in between"))
        stats = await a.node.peers[0].sync()
        assert stats.proven
        assert "tree" not in a.traffic("b").requests
        assert root != b.root


# --- what a node answers ---------------------------------------------------------------------


async def greeted(b: Member, **fields: Any) -> RootReply:
    hello: dict[str, Any] = {"node": b"n" * 16, "instance": b"i" * 8, "root": bytes(32)}
    greeting = Greeting(**{**hello, "count": 1000, **fields})
    return decode(RootReply, await b.node.service.call("root", encode(greeting)))


async def test_a_name_is_told_to_whoever_tells_one(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        assert (await greeted(b, name="n")).hello.name == "b"
        assert (await greeted(b)).hello.name is None


async def test_a_peer_that_was_restarted_is_asked_for_its_name_again(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        a = await world.start("a", ["b"], interval=HOUR)
        up = []
        for restarts in (False, False, True, False, False):
            if restarts:
                await b.restart()
            before = a.traffic("b").up
            await a.node.peers[0].sync()
            up.append(a.traffic("b").up - before)
        # The first time it learns the name; then that b is another run; then the name again.
        assert [size - min(up) for size in up] == [1, 0, 0, 1, 0]
        assert a.node.peers[0].name == "b"


async def test_equal_roots_are_not_repeated(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b", interval=HOUR, store=await filled(*THERE))
        root = b.node.keeper.ready_tree().root
        reply = await greeted(b, root=root)
        assert (reply.equal, reply.hello.root, reply.hello.count) == (True, None, 0)
        reply = await greeted(b)
        assert (reply.equal, reply.hello.root, reply.hello.count) == (False, root, 1000)
        assert reply.top is not None


async def test_cells_are_those_of_the_set_that_is_named(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b", interval=HOUR, store=await filled(*THERE))
        await trio.sleep(1.0)  # in virtual time: the sketch is made after the tree
        root, key = b.node.keeper.ready_tree().root, Key.of(b"")
        sketch = Sketch.of(key, 2048, [b"".join(map(digest_of, THERE))])

        async def asked(**fields: Any) -> bytes | None:
            request = {"root": root, "key": key.id, "start": 10, "stop": 20, **fields}
            answer = await b.node.service.call("cells", encode(CellsRequest(**request)))
            return decode(CellsReply, answer).cells

        assert await asked() == sketch.cells(10, 20)
        assert await asked(key=b"what") is None
        assert await asked(root=bytes(32)) is None
        assert await asked(start=2**40, stop=2**50) == b""
        assert await asked(start=20, stop=10) == b""
        with pytest.raises(InputError):
            await b.node.service.call("cells", b"\x90")


async def test_prefixes_are_answered_in_order_or_not_at_all(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b", interval=HOUR, store=await filled(*THERE))
        root = b.node.keeper.ready_tree().root

        async def asked(prefixes: list[bytes], width: int, of: Digest = root) -> Found | None:
            request = FindRequest(root=of, prefixes=b"".join(prefixes), width=width)
            answer = await b.node.service.call("find", encode(request))
            return decode(FindReply, answer).found

        some = sorted(map(digest_of, THERE))
        tails = b"".join(digest[7:] for digest in some)
        assert await asked([d[:5] for d in some], 5) == Found(tails, [])
        absent = [Several(1000, b"")]
        assert await asked([d[:7] for d in [*some, b"\xff" * 32]], 7) == Found(tails, absent)
        assert await asked([], 3) == Found(b"", [])
        assert await asked([some[0][:5]], 5, Digest(bytes(32))) is None
        for bad in ([some[1][:5], some[0][:5]], [some[0][:5]] * 2, [some[0][:4]]):
            with pytest.raises(InputError):
                await asked(bad, 5)
        with pytest.raises(InputError):
            await asked([number.to_bytes(3, "big") for number in range(MAX_PREFIXES + 1)], 3)


async def test_a_refused_question_about_sketches_is_answered_by_trees(
    autojump_clock: MockClock,
) -> None:
    """In the same round, and the next ones do not ask it again for a while."""
    async with a_world() as world:
        a, b = await pair(world, wire=lambda wire: Refusing(wire, "find", None))
        requests = await leveled(a, b)
        assert a.wire("b").met == 1
        assert requests["tree"]
        await a.put(*blobs(2000, 2010))
        await b.put(*blobs(3000, 3010))
        assert (await a.node.peers[0].sync()).error is None
        assert a.root == b.root
        assert a.wire("b").met == 1
