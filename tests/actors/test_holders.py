"""On how many peers blobs are: all are asked at once, and nobody waits for one that is silent."""

from __future__ import annotations

import pytest
import trio

from mesh.core.digest import Digest, digest_of
from mesh.status import HoldersAnswer
from tests.actors.world import HOUR, Hanging, Member, Through, a_world, blob, blobs, filled, until

pytestmark = pytest.mark.trio


async def asked(member: Member, *digests: Digest) -> tuple[HoldersAnswer, float]:
    """What it says of these blobs, and how many seconds that took."""
    began = trio.current_time()
    answer = await member.node.holders.of(digests)
    return answer, trio.current_time() - began


async def test_each_blob_is_counted_where_it_is() -> None:
    """The peers' sets are large, small and empty; the node only fetches, so they stay so."""
    here, common, elsewhere, nowhere = blob(1), blob(2), blob(3), blob(4)
    async with a_world() as world:
        for name, data in (
            ("full", [common, elsewhere, *blobs(1000, 3000)]),
            ("small", [elsewhere]),
            ("empty", []),
            ("other", [here, common]),
        ):
            await world.start(name, store=await filled(*data))
        peers = ["full", "small", "empty", "other"]
        member = world.add("a", peers, interval=HOUR, direction="pull", store=await filled(here))
        node = await member.start()
        await until(lambda: member.has(digest_of(common), digest_of(elsewhere)), 60.0)
        before = node.keeper.ready_tree().root
        asked_for = [digest_of(data) for data in (nowhere, elsewhere, here, common, elsewhere)]
        answer, _ = await asked(member, *asked_for)
        assert [blob.digest for blob in answer.blobs] == [digest.hex() for digest in asked_for]
        said = [(blob.here, blob.peers) for blob in answer.blobs]
        assert said == [(False, 0), (True, 2), (True, 1), (True, 2), (True, 2)]
        assert (answer.peers, answer.silent) == (4, [])
        assert node.keeper.ready_tree().root == before, "asking moves nothing"


async def test_a_peer_with_the_same_set_has_all_of_it() -> None:
    async with a_world() as world:
        everything = blobs(0, 500)
        await world.start("b", store=await filled(*everything))
        member = await world.start("a", ["b"], interval=HOUR, store=await filled(*everything))
        answer, _ = await asked(member, digest_of(everything[3]), digest_of(blob(500)))
        assert [(each.here, each.peers) for each in answer.blobs] == [(True, 1), (False, 0)]


async def test_a_silent_peer_is_waited_for_once_and_named() -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(blob(1)))
        await world.start("c", store=await filled(blob(1)))
        member = await world.start(
            "a", ["b", "c", "gone"], interval=HOUR, wires={"c": lambda wire: Hanging(wire, "find")}
        )
        answer, took = await asked(member, *[digest_of(blob(number)) for number in range(50)])
        assert answer.peers == 3
        assert [each.peer for each in answer.silent] == ["c:7280", "gone:7280"]
        assert all(each.reason for each in answer.silent)
        assert answer.blobs[1].peers == 1
        assert took < 5.1


class Raving(Through):
    """`find` is answered with something else."""

    async def call(self, path: str, body: bytes) -> bytes:
        reply = await super().call(path, body)
        return b"\xc0" if path == "find" else reply


async def test_a_peer_that_answers_nonsense_is_named_and_counts_for_nothing() -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(blob(1)))
        member = await world.start("a", ["b"], interval=HOUR, wires={"b": Raving})
        answer, _ = await asked(member, digest_of(blob(1)))
        assert [each.peer for each in answer.silent] == ["b:7280"]
        assert answer.blobs[0].peers == 0
