"""What differs is told right, proven or not, and nothing moves for it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from mesh.core.digest import Digest, digest_of
from mesh.errors import PeerError, Refused, StoreError
from tests.actors.world import (
    HOUR,
    Failing,
    Member,
    Watching,
    a_world,
    blobs,
    filled,
    until,
    url_of,
)

pytestmark = pytest.mark.trio


async def told(member: Member) -> tuple[list[Digest], list[Digest], bool]:
    """What only the member has, what only its peer has, and whether that is proven."""
    differences = member.node.peers[0].differences()
    await differences.begin()
    here: list[Digest] = []
    there: list[Digest] = []
    async for piece in differences:
        assert len(piece.here) <= 1000
        assert len(piece.there) <= 1000
        here += piece.here
        there += piece.there
    assert (differences.only_here, differences.only_there) == (len(here), len(there))
    assert (differences.reason is None) is differences.proven
    return here, there, differences.proven


@pytest.mark.parametrize("cells", [0, 2**18])
@pytest.mark.parametrize(
    ("both", "ours", "theirs"),
    [(0, 0, 0), (50, 0, 0), (500, 3, 2), (0, 2500, 0), (0, 0, 2500), (3000, 1200, 1500)],
)
async def test_what_is_told_is_what_differs(
    autojump_clock: MockClock, cells: int, both: int, ours: int, theirs: int
) -> None:
    shared = blobs(0, both)
    here, there = blobs(10_000, 10_000 + ours), blobs(20_000, 20_000 + theirs)
    async with a_world() as world:
        b = await world.start("b", store=await filled(*shared, *there), sketch_cells=cells)
        world.cut("a", "b")  # no round of their own begins
        a = await world.start(
            "a", ["b"], store=await filled(*shared, *here), interval=HOUR, sketch_cells=cells
        )
        await until(lambda: a.peer("b").state == "failing", 60.0)
        world.heal("a", "b")
        rounds = a.peer("b").rounds
        found = await told(a)
        assert sorted(found[0]) == sorted(map(digest_of, here))
        assert sorted(found[1]) == sorted(map(digest_of, there))
        assert found[2]
        assert (a.count, b.count) == (both + ours, both + theirs)
        assert a.peer("b").rounds == rounds


async def test_a_set_that_moves_away_is_not_told_twice(autojump_clock: MockClock) -> None:
    """The peer forgets the set that it named: what was told until then proves nothing."""
    asked = 0

    async def watch(path: str) -> None:
        nonlocal asked
        asked += path == "tree"
        if path == "tree" and asked == 3:
            await b.restart()  # it keeps no earlier trees over that
            await b.put(b"new there")

    async with a_world() as world:
        b = await world.start("b", store=await filled(*blobs(0, 3000)), sketch_cells=0)
        world.cut("a", "b")
        a = await world.start(
            "a",
            ["b"],
            store=await filled(*blobs(5000, 8000)),
            interval=HOUR,
            sketch_cells=0,
            wires={"b": lambda wire: Watching(wire, watch)},
        )
        await until(lambda: a.peer("b").state == "failing", 60.0)
        world.heal("a", "b")
        here, there, proven = await told(a)
        assert asked == 3, "it was not begun anew"
        assert not proven
        assert here or there
        assert len({*here, *there}) == len(here) + len(there)


async def test_a_peer_that_fails_is_said_to_fail(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(*blobs(0, 3000)), sketch_cells=0)
        a = await world.start(
            "a", ["b"], interval=HOUR, wires={"b": lambda wire: Failing(wire, "tree")}
        )
        await until(lambda: a.peer("b").state == "failing", 60.0)
        with pytest.raises(PeerError, match="connection reset"):
            await told(a)
        world.cut("a", "b")
        with pytest.raises(PeerError):
            await told(a)


async def test_nothing_is_compared_while_a_tree_is_being_built(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        b = await world.start("b")
        a = await world.start("a", ["b"], interval=HOUR)
        await trio.sleep(5.0)
        b.node.keeper.tree = None
        with pytest.raises(Refused, match="still building its tree"):
            await told(a)
        a.node.keeper.tree = None
        with pytest.raises(StoreError, match="being built"):
            await told(a)


async def test_a_node_is_not_compared_with_itself(autojump_clock: MockClock) -> None:
    """That it is equal to itself would be taken for a copy elsewhere."""
    async with a_world() as world:
        a = world.add("a", ["elsewhere"])
        a.urls = [url_of("a"), url_of("elsewhere")]
        await a.start()
        await until(lambda: a.peer("elsewhere").state == "self", 60.0)
        with pytest.raises(Refused, match="is this node itself"):
            await told(a)
