"""What every Wire has to do, shown against a real node's Service.

A test class derives from WireContract and says how a node is served and how a wire reaches it.
Nothing here knows the backend: it runs on asyncio and on trio, in real time, without a sleep.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from anyio import create_task_group

from mesh.config import Config
from mesh.core.digest import Digest, digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.core.reconcile import Ask
from mesh.core.shortcut import Found
from mesh.errors import PeerError, Refused, StoreError, Unreachable
from mesh.node import Identity, Node
from mesh.offload import Inline
from mesh.store.base import Blob, Entry, Item
from mesh.store.memory import MemoryStore
from mesh.transport.base import Wire
from mesh.wire.frames import Frame, FrameReader, Kind, end, frame
from mesh.wire.messages import (
    MAX_BATCH,
    BatchRequest,
    CellsReply,
    CellsRequest,
    FindReply,
    FindRequest,
    Hello,
    Offer,
    OfferReply,
    PushReply,
    RootReply,
    TreeReply,
    TreeRequest,
    decode,
    encode,
)

PUSH = f"push/{(b'p' * 16).hex()}"
STRANGER = Hello(node=b"p" * 16, instance=b"i" * 8, name="stranger", root=None, count=0)


class Store(MemoryStore):
    """A store that fails, or waits, where the test wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.fails_after: int | None = None  # pieces of a stream, or batches
        self.fails_to_commit = False
        self.commit_gate = anyio.Event()
        self.commit_gate.set()
        self.waits_after: int | None = None
        self.go_on = anyio.Event()
        self.reached = anyio.Event()

    async def commit(self, items: Sequence[Item]) -> list[bool]:
        if self.fails_to_commit:
            raise StoreError("the disk is gone")
        if not self.commit_gate.is_set():
            self.reached.set()
            await self.commit_gate.wait()
        return await super().commit(items)

    async def batch(self, digests: Sequence[Digest], room: int) -> list[Entry]:
        await self._step()
        return await super().batch(digests, room)

    async def stream(self, digest: Digest, start: int, stop: int) -> AsyncIterator[bytes]:
        async with aclosing(super().stream(digest, start, stop)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                await self._step()
                yield piece

    async def _step(self) -> None:
        if self.fails_after is not None:
            self.fails_after -= 1
            if self.fails_after < 0:
                raise StoreError("the disk is gone")
        if self.waits_after is not None:
            self.waits_after -= 1
            if self.waits_after < 0:
                self.reached.set()
                await self.go_on.wait()


def blobs(first: int, end: int, size: int = 0) -> list[bytes]:
    return [b"blob %d." % number + bytes(size) for number in range(first, end)]


def names(data: Sequence[bytes]) -> list[Digest]:
    return [digest_of(piece) for piece in data]


async def put(node: Node, *data: bytes) -> list[Digest]:
    """What a client does."""
    for piece in data:
        if len(piece) < LARGE_BLOB:
            await node.keeper.put([Blob(digest_of(piece), piece)])
            continue
        async with node.store.incoming() as incoming:
            await incoming.write(piece)
            await node.keeper.put([await incoming.finish()])
    return names(data)


async def upload(wire: Wire, path: str, source: AsyncGenerator[bytes, None]) -> bytes:
    """An upload whose source is closed by the one who made it."""
    async with aclosing(source) as chunks:
        return await wire.upload(path, chunks)


async def pieces(*data: bytes) -> AsyncGenerator[bytes, None]:
    for piece in data:
        yield piece


def framed(*data: bytes) -> bytes:
    """A batch of these blobs."""
    some = [frame(Kind.BLOB, digest_of(piece), len(piece)) + piece for piece in data]
    return b"".join(some) + end(len(data))


async def batch(wire: Wire, digests: Sequence[Digest]) -> list[Frame]:
    """A whole batch; raises what the wire raises, and Unreachable when the end is missing."""
    reader, frames = FrameReader(), []
    async with wire.download("batch", encode(BatchRequest(digests=b"".join(digests)))) as chunks:
        async for chunk in chunks:
            frames += reader.feed(chunk)
    reader.finish()
    return frames


async def content(wire: Wire, path: str, got: list[bytes] | None = None) -> bytes:
    """All that a download brings; `got` has what came also when it breaks."""
    got = [] if got is None else got
    async with wire.download(path, b"") as chunks:
        async for chunk in chunks:
            got.append(chunk)
    return b"".join(got)


@pytest.mark.anyio
class WireContract:
    """The tests. `anyio_backend_name` is the plugin's: asyncio, then trio."""

    def reach(self, node: Node, backend: str) -> AbstractAsyncContextManager[Wire]:
        """Serve a node that runs, and a wire to it."""
        raise NotImplementedError

    def nowhere(self) -> AbstractAsyncContextManager[Wire]:
        """A wire to where nobody listens."""
        raise NotImplementedError

    @asynccontextmanager
    async def meeting(
        self, backend: str, *data: bytes, store: Store | None = None
    ) -> AsyncIterator[tuple[Node, Wire]]:
        """A node that holds `data`, and a wire to it."""
        identity = Identity(b"n" * 16, b"i" * 8, "node")
        node = Node(Config(), identity, store or Store(), _no_peers, Inline(), Random(0))
        # Nothing here takes a second; a test that hangs says so itself.
        with anyio.fail_after(30):
            async with create_task_group() as group:
                group.start_soon(node.run)
                await node.keeper.built()
                await put(node, *data)
                async with self.reach(node, backend) as wire:
                    yield node, wire
                    await wire.close()
                group.cancel_scope.cancel()

    # --- call ----------------------------------------------------------------------------------

    async def test_a_call_brings_the_answer(self, anyio_backend_name: str) -> None:
        async with self.meeting(anyio_backend_name, *blobs(0, 20)) as (node, wire):
            reply = decode(RootReply, await wire.call("root", encode(STRANGER)))
            assert reply.hello == node.hello()

    async def test_large_messages_are_carried_whole(self, anyio_backend_name: str) -> None:
        some = blobs(0, 8000)
        async with self.meeting(anyio_backend_name) as (node, wire):
            items = [Blob(name, data) for name, data in zip(names(some), some, strict=True)]
            await node.keeper.put(items)
            root = node.keeper.ready_tree().root
            asks = [Ask(f"{number:03x}") for number in range(4096)]
            request = TreeRequest(root=root, asks=asks, width=32)
            reply = decode(TreeReply, await wire.call("tree", encode(request)))
            assert len(reply.answers) > 500
            offer = Offer(hello=STRANGER, digests=b"".join(names(blobs(9000, 9000 + MAX_BATCH))))
            wants = decode(OfferReply, await wire.call("offer", encode(offer))).wants
            assert wants == offer.digests

    async def test_calls_do_not_wait_for_each_other(self, anyio_backend_name: str) -> None:
        async with self.meeting(anyio_backend_name) as (_, wire):
            answers: list[bytes] = []

            async def call() -> None:
                answers.append(await wire.call("root", encode(STRANGER)))

            async with create_task_group() as group:
                for _ in range(20):
                    group.start_soon(call)
            assert len(answers) == 20

    # --- download ------------------------------------------------------------------------------

    async def test_a_download_brings_every_byte(self, anyio_backend_name: str) -> None:
        some = [b"", b"x", *blobs(2, 400), bytes(range(256)) * 8000, bytes(LARGE_BLOB - 1)]
        async with self.meeting(anyio_backend_name, *some, bytes(LARGE_BLOB)) as (_, wire):
            frames = await batch(wire, names([*some, b"not there", bytes(LARGE_BLOB)]))
            assert [item.data for item in frames[:-2]] == some
            assert [item.kind for item in frames[-2:]] == [Kind.ABSENT, Kind.LARGE]
            assert frames[-1].length == LARGE_BLOB

    async def test_a_large_blob_comes_from_any_offset_on(self, anyio_backend_name: str) -> None:
        data = bytes(range(251)) * 20_000
        async with self.meeting(anyio_backend_name, data) as (_, wire):
            path = f"blob/{digest_of(data).hex()}"
            for start in (0, 1, 65_536, len(data) - 1, len(data)):
                assert await content(wire, f"{path}/{start}") == data[start:]

    async def test_downloads_do_not_wait_for_each_other(self, anyio_backend_name: str) -> None:
        store = Store()
        data = bytes(LARGE_BLOB)
        async with self.meeting(anyio_backend_name, data, b"small", store=store) as (_, wire):
            store.waits_after = 1
            path = f"blob/{digest_of(data).hex()}/0"
            async with wire.download(path, b"") as chunks:
                await anext(chunks)
                store.waits_after = None
                assert len(await batch(wire, names([b"small"]))) == 1
                assert len(await wire.call("root", encode(STRANGER))) > 50
                store.go_on.set()

    async def test_a_download_that_is_left_early_is_let_go_of(
        self, anyio_backend_name: str
    ) -> None:
        data = bytes(LARGE_BLOB)
        async with self.meeting(anyio_backend_name, data) as (_, wire):
            for _ in range(30):
                async with wire.download(f"blob/{digest_of(data).hex()}/0", b"") as chunks:
                    await anext(chunks)
            await self._served_again(wire)

    async def test_a_download_that_is_cancelled_ends_at_once(self, anyio_backend_name: str) -> None:
        store = Store()
        data = bytes(LARGE_BLOB)
        async with self.meeting(anyio_backend_name, data, store=store) as (_, wire):
            for _ in range(30):
                store.waits_after, store.reached = 1, anyio.Event()
                async with create_task_group() as group:
                    group.start_soon(content, wire, f"blob/{digest_of(data).hex()}/0")
                    await store.reached.wait()
                    group.cancel_scope.cancel()
            store.waits_after = None
            await self._served_again(wire)

    async def _served_again(self, wire: Wire) -> None:
        """A node may take a moment to notice that somebody has gone."""
        while True:
            try:
                assert await batch(wire, []) == []
                return
            except Refused:
                await anyio.lowlevel.checkpoint()

    # --- upload --------------------------------------------------------------------------------

    async def test_digests_are_found_by_their_first_bytes(self, anyio_backend_name: str) -> None:
        some = blobs(0, 50)
        async with self.meeting(anyio_backend_name, *some) as (node, wire):
            root = node.keeper.ready_tree().root
            wanted = sorted(names(some))[10:20]
            prefixes = b"".join(digest[:6] for digest in wanted)
            request = FindRequest(root=root, prefixes=prefixes, width=6)
            reply = decode(FindReply, await wire.call("find", encode(request)))
            assert reply.found == Found(b"".join(digest[7:] for digest in wanted), [])
            cells = CellsRequest(root=bytes(32), key=bytes(4), start=0, stop=5)
            assert decode(CellsReply, await wire.call("cells", encode(cells))).cells is None

    async def test_an_upload_is_answered_when_everything_is_stored(
        self, anyio_backend_name: str
    ) -> None:
        some = [b"", *blobs(0, 300), bytes(100_000)]
        async with self.meeting(anyio_backend_name) as (node, wire):
            reply = decode(PushReply, await upload(wire, PUSH, pieces(framed(*some))))
            assert (reply.stored, reply.known, reply.rejected) == (302, 0, 0)
            assert all(name in node.keeper.ready_tree() for name in names(some))
            assert reply.hello == msgspec.structs.replace(node.hello(), name=None)

    async def test_an_upload_may_come_in_chunks_of_any_size(self, anyio_backend_name: str) -> None:
        body = framed(*blobs(0, 20), bytes(2000))
        for size in (7, 100, 65_536):
            cut = [body[at : at + size] for at in range(0, len(body), size)]
            async with self.meeting(anyio_backend_name) as (_, wire):
                reply = decode(PushReply, await upload(wire, PUSH, pieces(*cut)))
                assert reply.stored == 21

    async def test_a_large_blob_is_uploaded_alone(self, anyio_backend_name: str) -> None:
        data = bytes(range(251)) * 20_000
        cut = [data[at : at + 300_000] for at in range(0, len(data), 300_000)]
        async with self.meeting(anyio_backend_name) as (node, wire):
            path = f"{PUSH}/{digest_of(data).hex()}/{len(data)}"
            assert decode(PushReply, await upload(wire, path, pieces(*cut))).stored == 1
            assert await node.store.size(digest_of(data)) == len(data)

    async def test_an_upload_takes_chunks_no_faster_than_they_are_stored(
        self, anyio_backend_name: str
    ) -> None:
        """What is sent lies in the sockets and some MiB of memory, not all of it in the node."""
        taken = 0

        async def source() -> AsyncGenerator[bytes, None]:
            nonlocal taken
            for number in range(1000):
                data = b"%d" % number + bytes(1_000_000)
                taken += 1
                yield frame(Kind.BLOB, digest_of(data), len(data)) + data

        store = Store()
        async with self.meeting(anyio_backend_name, store=store) as (_, wire):
            store.commit_gate = anyio.Event()
            async with create_task_group() as group:
                group.start_soon(upload, wire, PUSH, source())
                await store.reached.wait()
                # Until nothing moves any more: the node waits for its disk.
                before = -1
                while before < taken:
                    before = taken
                    for _ in range(2000):
                        await anyio.lowlevel.checkpoint()
                assert taken < 50
                group.cancel_scope.cancel()
                store.commit_gate.set()

    async def test_an_error_of_our_own_source_is_raised_as_it_is(
        self, anyio_backend_name: str
    ) -> None:
        async def source() -> AsyncGenerator[bytes, None]:
            yield framed(b"one")[:20]
            raise StoreError("our own disk")

        async with self.meeting(anyio_backend_name) as (_, wire):
            with pytest.raises(StoreError, match="our own disk"):
                await upload(wire, PUSH, source())
            assert len(await wire.call("root", encode(STRANGER))) > 50

    async def test_an_upload_that_is_cancelled_ends_at_once(self, anyio_backend_name: str) -> None:
        sent = anyio.Event()

        async def source() -> AsyncGenerator[bytes, None]:
            yield framed(b"one")[:20]
            sent.set()
            await anyio.sleep_forever()

        async with self.meeting(anyio_backend_name) as (_, wire):
            async with create_task_group() as group:
                group.start_soon(upload, wire, PUSH, source())
                await sent.wait()
                group.cancel_scope.cancel()
            reply = decode(PushReply, await upload(wire, PUSH, pieces(framed(b"one"))))
            assert reply.stored == 1

    # --- errors --------------------------------------------------------------------------------

    async def test_nobody_there_is_unreachable(self, anyio_backend_name: str) -> None:
        async with self.nowhere() as wire:
            with pytest.raises(Unreachable):
                await wire.call("root", encode(STRANGER))
            with pytest.raises(Unreachable):
                await content(wire, "batch")
            with pytest.raises(Unreachable):
                await upload(wire, PUSH, pieces(framed(b"one")))

    @pytest.mark.parametrize("path", ["nonsense", "root/more", "push", "tree"])
    async def test_a_bad_call_is_refused(self, anyio_backend_name: str, path: str) -> None:
        async with self.meeting(anyio_backend_name) as (_, wire):
            with pytest.raises(Refused) as raised:
                await wire.call(path, b"\xc1 is not MessagePack")
            assert raised.value.retry_after is None

    @pytest.mark.parametrize("path", ["nonsense", f"blob/{'0' * 64}/0", "blob/xyz/0", "batch"])
    async def test_a_bad_download_is_refused(self, anyio_backend_name: str, path: str) -> None:
        async with self.meeting(anyio_backend_name) as (_, wire):
            with pytest.raises(Refused):
                await content(wire, path)

    @pytest.mark.parametrize("path", ["nonsense", "push/xyz", f"{PUSH}/{'0' * 64}/x", PUSH])
    async def test_a_bad_upload_is_refused(self, anyio_backend_name: str, path: str) -> None:
        async with self.meeting(anyio_backend_name) as (_, wire):
            with pytest.raises(Refused):
                await upload(wire, path, pieces(b"\xff" * 5000))

    async def test_a_refusal_is_heard_in_the_middle_of_an_upload(
        self, anyio_backend_name: str
    ) -> None:
        async with self.meeting(anyio_backend_name) as (_, wire):
            with pytest.raises(Refused, match="not a node id"):
                await upload(wire, "push/xyz", pieces(*[bytes(1_000_000)] * 10))

    async def test_an_upload_that_nobody_wants_ends(self, anyio_backend_name: str) -> None:
        """After some MiB a node may close the connection without having been heard."""
        sent = 0

        async def source() -> AsyncGenerator[bytes, None]:
            nonlocal sent
            while True:
                sent += 1
                yield bytes(1_000_000)

        async with self.meeting(anyio_backend_name) as (_, wire):
            with pytest.raises(PeerError):
                await upload(wire, "push/xyz", source())
            assert sent < 50
            assert len(await wire.call("root", encode(STRANGER))) > 50

    async def test_a_refusal_carries_words_and_when_to_come_back(
        self, anyio_backend_name: str
    ) -> None:
        store, refused = Store(), anyio.Event()
        errors: list[Refused] = []
        done: list[int] = []

        async def one(wire: Wire) -> None:
            try:
                done.append(len(await batch(wire, names([b"one"]))))
            except Refused as error:
                errors.append(error)
                refused.set()

        async with self.meeting(anyio_backend_name, b"one", store=store) as (_, wire):
            store.waits_after = 0
            async with create_task_group() as group:
                for _ in range(40):
                    group.start_soon(one, wire)
                await refused.wait()
                store.waits_after = None
                store.go_on.set()
        assert done == [1] * (40 - len(errors))
        assert {error.retry_after for error in errors} == {1.0}
        assert "busy" in str(errors[0])

    async def test_a_disk_that_fails_at_once_is_a_refusal(self, anyio_backend_name: str) -> None:
        store = Store()
        async with self.meeting(anyio_backend_name, b"one", store=store) as (_, wire):
            store.fails_after, store.fails_to_commit = 0, True
            with pytest.raises(Refused, match="the disk is gone"):
                await batch(wire, names([b"one"]))
            with pytest.raises(Refused, match="the disk is gone"):
                await upload(wire, PUSH, pieces(framed(b"two")))
            store.fails_after, store.fails_to_commit = None, False
            assert len(await batch(wire, names([b"one"]))) == 1

    async def test_a_stream_that_breaks_in_the_middle_shows(self, anyio_backend_name: str) -> None:
        store = Store()
        data = bytes(range(256)) * 40_000
        some = blobs(0, 40, 100_000)
        async with self.meeting(anyio_backend_name, data, *some, store=store) as (_, wire):
            got: list[bytes] = []
            store.fails_after = 3
            with pytest.raises(PeerError):
                await content(wire, f"blob/{digest_of(data).hex()}/0", got)
            assert data.startswith(b"".join(got))
            assert len(b"".join(got)) < len(data)
            store.fails_after = 3
            with pytest.raises(PeerError):
                await batch(wire, names(some))

    async def test_after_any_error_the_wire_goes_on(self, anyio_backend_name: str) -> None:
        store = Store()
        data = bytes(LARGE_BLOB)
        async with self.meeting(anyio_backend_name, data, b"one", store=store) as (_, wire):
            for _ in range(30):
                store.fails_after = 1
                with pytest.raises(PeerError):
                    await content(wire, f"blob/{digest_of(data).hex()}/0")
                store.fails_after = None
                with pytest.raises(PeerError):
                    await wire.call("tree", b"")
            await self._served_again(wire)
            assert await content(wire, f"blob/{digest_of(data).hex()}/0") == data


def _no_peers(*_: Any) -> Any:
    raise AssertionError("it has no peers")
