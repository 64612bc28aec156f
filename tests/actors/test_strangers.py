"""Whoever has the key of the mesh can say anything: what liars gain, and what they do not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from mesh.actors.inbound import MOST
from mesh.core.claims import LEASE
from mesh.core.digest import Digest, digest_of
from mesh.core.holder import Configured, bringer
from mesh.core.limits import LARGE_BLOB
from mesh.core.reconcile import Ask
from mesh.core.schedule import CONTACT_SPACING
from mesh.errors import InputError, Refused, StoreError, Unreachable
from mesh.store.base import Item
from mesh.store.memory import MemoryStore
from mesh.wire.frames import Kind, end, frame
from mesh.wire.messages import (
    Greeting,
    Hello,
    Offer,
    OfferReply,
    PushReply,
    TreeReply,
    TreeRequest,
    decode,
    encode,
)
from tests.actors.world import (
    HOUR,
    Failing,
    Member,
    Slow,
    Tap,
    a_world,
    blob,
    blobs,
    filled,
    large,
    until,
    url_of,
)

pytestmark = pytest.mark.trio

BLOB = blob(1)
NAME = digest_of(BLOB)
LARGE = large(1, 3 * LARGE_BLOB)
LARGE_NAME = digest_of(LARGE)


def a_hello(node: bytes, **fields: Any) -> Hello:
    return Hello(node=node, instance=b"12345678", **{"root": None, "count": 0, **fields})


async def offer(to: Member, hello: Hello, *digests: Digest, more: bool = False) -> OfferReply:
    body = encode(Offer(hello=hello, digests=b"".join(digests), more=more))
    return decode(OfferReply, await to.node.service.call("offer", body))


async def greet(to: Member, hello: Hello) -> None:
    await to.node.service.call("root", encode(Greeting(**msgspec.structs.asdict(hello))))


async def push(to: Member, path: str, *pieces: bytes) -> PushReply:
    async with aclosing(stream(*pieces)) as chunks:
        return decode(PushReply, await to.node.service.upload(path, chunks))


async def stream(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


def framed(data: bytes, name: Digest | None = None) -> bytes:
    return frame(Kind.BLOB, name or digest_of(data), len(data)) + data


async def flood(to: Member, name: Digest, *, names: str, every: float) -> None:
    """Offer one blob again and again, and never push it."""
    number = 0
    while True:
        node = number.to_bytes(16, "big") if names == "new" else b"x" * 16
        await offer(to, a_hello(node), name)
        number += 1
        await trio.sleep(every)


# --- promises that are not kept ----------------------------------------------------------------


@pytest.mark.parametrize("names", ["one", "new"])
@pytest.mark.parametrize("every", [0.1, 1.0, LEASE])
async def test_offers_that_are_never_pushed_delay_a_round_by_one_lease(
    autojump_clock: MockClock, names: str, every: float
) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(BLOB))
        a = world.add("a", ["b"], interval=HOUR)
        await a.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: flood(a, NAME, names=names, every=every))
            # The first round comes within 5 s, the second one LEASE later.
            await until(lambda: a.has(NAME), 5.0 + LEASE + 1.0)
            nursery.cancel_scope.cancel()


async def test_offers_that_are_never_pushed_delay_an_honest_push_by_one_lease(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a = await world.start("a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: flood(a, NAME, names="new", every=0.1))
            await trio.sleep(LEASE + 1.0)
            honest = a_hello(b"h" * 16)
            assert (await offer(a, honest, NAME)).wants == NAME
            path = f"push/{honest.node.hex()}"
            assert (await push(a, path, framed(BLOB) + end(1))).stored == 1
            nursery.cancel_scope.cancel()


async def test_a_push_that_drips_does_not_keep_a_blob_from_a_peer(
    autojump_clock: MockClock,
) -> None:
    """It sends what nobody can check before it has ended, fast enough not to be cut."""

    async def drips() -> AsyncGenerator[bytes, None]:
        while True:
            yield bytes(4096)
            await trio.sleep(1.0)

    refused: list[str] = []

    async def liar(a: Member) -> None:
        while True:
            await offer(a, a_hello(b"x" * 16), LARGE_NAME)
            try:
                async with aclosing(drips()) as chunks:
                    path = f"push/{(b'x' * 16).hex()}/{LARGE_NAME.hex()}/{10**9}"
                    await a.node.service.upload(path, chunks)
            except Refused as error:
                refused.append(str(error))
            await trio.sleep(0.5)

    async with a_world() as world:
        await world.start("b", store=await filled(LARGE))
        a = world.add("a", ["b"], interval=HOUR)
        await a.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(liar, a)
            await until(lambda: a.has(LARGE_NAME), 5.0 + 2 * LEASE)
            nursery.cancel_scope.cancel()
        assert any("on its way from another peer" in text for text in refused)


async def test_a_slow_push_is_gone_on_with_by_a_peer_that_has_the_blob_too(
    autojump_clock: MockClock,
) -> None:
    """Nobody lies: c pushes slowly, and a lists b only. No byte comes twice."""
    async with a_world() as world:
        a = world.add("a", ["b"], interval=HOUR, wires={"b": Tap})
        await a.start()
        wires = {"a": lambda wire: Slow(wire, 100_000)}
        c = world.add("c", ["a"], interval=HOUR, wires=wires, store=await filled(LARGE))
        await c.start()
        await until(lambda: bool(a.node.keeper.disk.status().partial_blobs), 60.0)
        await trio.sleep(30.0)
        await world.start("b", ["a"], interval=HOUR, store=await filled(LARGE))
        await until(lambda: a.has(LARGE_NAME), 30.0)
        (begun,) = [p for p in a.wire("b").inner.traffic.requests if p.startswith("blob/")]
        assert int(begun.rpartition("/")[2]) > 3_000_000
        assert a.wire("b").inner.traffic.down < len(LARGE) - 3_000_000


# --- what is done in somebody's name -----------------------------------------------------------


async def test_what_is_pushed_in_a_peers_name_is_not_held_against_it(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a = await world.start("a", ["b"], interval=HOUR)
        b = await world.start("b", interval=HOUR)
        await a.node.peers[0].sync()
        path = f"push/{b.node_id.hex()}"
        assert (await push(a, path, framed(b"junk", NAME) + end(1))).rejected == 1
        with pytest.raises(InputError, match="what came as blob"):
            await push(a, f"{path}/{LARGE_NAME.hex()}/{len(LARGE)}", bytes(len(LARGE)))
        await b.put(BLOB, LARGE)
        stats = await a.node.peers[0].sync()
        assert (stats.error, stats.failed, stats.missing_here) == (None, 0, 0)
        assert a.has(NAME, LARGE_NAME)
        assert a.peer("b").last_error is None


async def test_a_push_in_a_peers_name_does_not_end_what_the_peer_has_claimed(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = await world.start("b", store=await filled(LARGE))
        path = f"push/{b.node_id.hex()}/{LARGE_NAME.hex()}/{len(LARGE)}"
        wires = {"b": lambda wire: Slow(wire, 1_000_000)}
        a = await world.start("a", ["b"], interval=HOUR, wires=wires)
        await until(lambda: a.traffic("b").down > LARGE_BLOB, 60.0)
        with pytest.raises((InputError, Refused)):
            await push(a, path, b"junk")
        assert a.node.keeper.coming(LARGE_NAME)
        assert (await offer(a, a_hello(b.node_id), LARGE_NAME)).wants == b""
        await until(lambda: a.has(LARGE_NAME), 60.0)
        assert a.traffic("b").requests.count(f"blob/{LARGE_NAME.hex()}/0") == 1


@pytest.mark.parametrize("verb", ["root", "offer"])
async def test_a_hello_in_a_peers_name_changes_nothing_that_is_shown_of_it(
    autojump_clock: MockClock, verb: str
) -> None:
    async with a_world() as world:
        a = await world.start("a", ["b"], interval=HOUR, wires={"b": Failing})
        a.wire("b").broken = False
        b = await world.start("b", interval=HOUR)
        await a.node.peers[0].sync()
        await b.put(BLOB)
        await a.put(blob(2))
        a.wire("b").broken = True
        await a.node.peers[0].sync()
        before = a.peer("b")
        hello = a_hello(b.node_id, root=a.node.keeper.ready_tree().root, count=10**9)
        await (greet(a, hello) if verb == "root" else offer(a, hello))
        after = a.peer("b")
        assert (before.state, before.in_sync, before.failures) == ("failing", False, 1)
        seconds = {"last_success_seconds_ago": None}
        assert msgspec.structs.replace(after, **seconds) == msgspec.structs.replace(
            before, **seconds
        )


async def test_hellos_in_the_name_of_a_peer_that_is_down_cost_a_bounded_number_of_tries(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = await world.start("b", interval=HOUR)
        a = await world.start("a", ["b"], interval=HOUR, wires={"b": Failing})
        a.wire("b").broken = False
        await a.node.peers[0].sync()
        a.wire("b").broken = True
        await a.node.peers[0].sync()
        before = a.wire("b").met
        for _ in range(1000):
            await greet(a, a_hello(b.node_id))
            await trio.sleep(0.1)
        # Each contact that counts begins the backoff anew, some tries within CONTACT_SPACING.
        assert 1 <= a.wire("b").met - before <= 8 * 100.0 / CONTACT_SPACING


async def test_a_blob_pushed_in_a_peers_name_reaches_the_peer_all_the_same(
    autojump_clock: MockClock,
) -> None:
    """It is not announced to that peer; its next round finds it."""
    async with a_world() as world:
        a = await world.start("a", ["b"], interval=30.0, wires={"b": Tap})
        b = await world.start("b", ["a"], interval=30.0)
        await world.level(10.0)
        await trio.sleep(10.0)
        await push(a, f"push/{b.node_id.hex()}", framed(BLOB) + end(1))
        await until(lambda: b.has(NAME), 40.0)


# --- what is pushed ----------------------------------------------------------------------------


@pytest.mark.parametrize("data", [BLOB, LARGE], ids=["small", "large"])
async def test_a_push_has_exactly_as_many_bytes_as_it_says(
    autojump_clock: MockClock, data: bytes
) -> None:
    async with a_world() as world:
        a = await world.start("a")
        path = f"push/{bytes(16).hex()}/{digest_of(data).hex()}"
        for size in (len(data) + 1, len(data) - 1):
            with pytest.raises(InputError, match=r"ends at|longer"):
                await push(a, f"{path}/{size}", data)
            assert not a.has(digest_of(data))
        assert (await push(a, f"{path}/{len(data)}", data)).stored == 1


async def test_a_stranger_pushes_the_whole_of_what_a_peer_has_brought_a_part_of(
    autojump_clock: MockClock,
) -> None:
    store = MemoryStore()
    async with store.resume(LARGE_NAME, bringer(Configured(url_of("b")))) as arriving:
        assert arriving is not None
        await arriving.write(LARGE[:LARGE_BLOB])
    async with a_world() as world:
        a = await world.start("a", store=store)
        path = f"push/{bytes(16).hex()}/{LARGE_NAME.hex()}"
        reply = await offer(a, a_hello(bytes(16)), LARGE_NAME)
        assert (reply.wants, reply.starts) == (LARGE_NAME, msgspec.UNSET)
        # Lies about the size, and wrong bytes, cost nothing of what the peer has brought.
        for size, data in ((LARGE_BLOB, b""), (LARGE_BLOB + 1, b"xx"), (len(LARGE), b"x")):
            with pytest.raises(InputError):
                await push(a, f"{path}/{size}", data)
        with pytest.raises(Refused, match="goes on at 0 here"):
            await push(a, f"{path}/{len(LARGE)}/{LARGE_BLOB}", LARGE[LARGE_BLOB:])
        (kept,) = await store.partials()
        assert (kept.size, kept.guarded) == (LARGE_BLOB, True)
        assert (await push(a, f"{path}/{len(LARGE)}", LARGE)).stored == 1


async def test_an_end_mark_that_names_a_blob_is_refused(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a")
        with pytest.raises(InputError, match="the end mark names a blob"):
            await push(a, f"push/{bytes(16).hex()}", framed(BLOB) + frame(Kind.END, NAME, 1))


async def test_a_push_that_breaks_off_is_not_called_malformed_and_what_came_is_kept(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a = await world.start("a")
        with pytest.raises(Unreachable, match="cut after 1 blobs"):
            await push(a, f"push/{bytes(16).hex()}", framed(BLOB) + framed(blob(2))[:-1])
        assert a.has(NAME)


# --- what is kept for those who compare -----------------------------------------------------------


async def test_asking_for_our_root_again_and_again_takes_no_set_from_a_peer_that_compares(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a = await world.start("a", store=await filled(*blobs(0, 100)))
        root = a.node.keeper.ready_tree().root
        ask = encode(TreeRequest(root=root, asks=[Ask("")], width=8))
        await greet(a, a_hello(b"h" * 16, root=bytes(32)))
        for number in range(20):
            reply = decode(TreeReply, await a.node.service.call("tree", ask))
            assert (reply.root, len(reply.answers)) == (root, 1)
            for more in range(10):
                await a.put(blob(1000 + 10 * number + more))
                await greet(a, a_hello(b"x" * 16, root=bytes(32)))


# --- who pulls from us -------------------------------------------------------------------------


async def test_nodes_that_pull_without_being_listed_are_shown(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a", store=await filled(*blobs(0, 10)))
        b = world.add("b", ["a"], interval=HOUR)
        await b.start()
        await until(lambda: bool(a.node.status().inbound), 6.0)
        (seen,) = a.node.status().inbound
        assert (seen.name, seen.node_id) == ("b", b.node_id.hex())
        assert (seen.in_sync, seen.blobs, seen.missing) == (False, 0, 10)
        await world.level(10.0)
        await b.node.find_peer("a").sync()
        await trio.sleep(3.0)
        (seen,) = a.node.status().inbound
        assert (seen.name, seen.in_sync, seen.blobs, seen.missing) == ("b", True, 10, 0)
        assert 2.9 < seen.last_seen_seconds_ago < 3.5
        assert b.node.status().inbound == []


async def test_a_listed_peer_is_not_shown_as_inbound(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a", ["b"], interval=HOUR)
        b = await world.start("b", ["a"], interval=HOUR)
        await greet(a, a_hello(b.node_id))  # it may ask before we have met it
        await trio.sleep(10.0)
        assert a.node.status().inbound == []
        assert b.node.status().inbound == []


async def test_what_an_inbound_node_lacks_is_null_when_it_is_not_known(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a = await world.start("a", store=await filled(*blobs(0, 10)))
        for node, count, root in (
            (b"more" * 4, 11, bytes(32)),
            (b"same" * 4, 10, bytes(32)),
            (b"none" * 4, 5, None),
            (b"less" * 4, 7, bytes(32)),
        ):
            await greet(a, a_hello(node, count=count, root=root))
        shown = {seen.blobs: seen.missing for seen in a.node.status().inbound}
        assert shown == {11: None, 10: None, 5: None, 7: 3}
        assert not any(seen.in_sync for seen in a.node.status().inbound)


async def test_invented_names_are_escaped_and_bounded(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = await world.start("a")
        for number in range(3 * MOST):
            await greet(a, a_hello(number.to_bytes(16, "big"), name="\x1b[2J\r\n"))
        inbound = a.node.status().inbound
        assert len(inbound) == MOST
        assert inbound[0].node_id == (3 * MOST - 1).to_bytes(16, "big").hex()
        assert all(seen.name.isprintable() for seen in inbound)
        # A node tells its name once.
        await greet(a, a_hello((3 * MOST - 2).to_bytes(16, "big")))
        assert "[2J" in a.node.status().inbound[0].name
        await greet(a, a_hello(b"y" * 16))
        assert a.node.status().inbound[0].name == (b"y" * 16).hex()[:8]


class NotTaking(MemoryStore):
    """Takes no blob, and says so."""

    async def commit(self, items: Sequence[Item]) -> list[bool]:
        raise StoreError("no blob is taken")


async def test_whoever_pushes_nonsense_is_told_so_also_by_a_store_that_fails(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        a = await world.start("a", store=NotTaking())
        with pytest.raises(InputError, match="BLOB frames and an end mark"):
            await push(a, f"push/{bytes(16).hex()}", framed(BLOB), frame(Kind.ABSENT, NAME))
        with pytest.raises(StoreError):
            await push(a, f"push/{bytes(16).hex()}", framed(BLOB) + end(1))
