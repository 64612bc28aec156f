"""A BlobStash server as a peer: driven by the same actor, scheduler and backoff as any other."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from anyio import BrokenResourceError, create_memory_object_stream, create_task_group

from mesh.blobstash.client import OneWayConflict
from mesh.blobstash.compare import differences, diverging
from mesh.blobstash.remote import Remote
from mesh.blobstash.tree import State, StateTree
from mesh.core.digest import Digest
from mesh.core.limits import LARGE_BLOB
from mesh.core.load import Load
from mesh.core.reconcile import Difference, OnlyHere, Surplus
from mesh.core.tree import Tree
from mesh.errors import MeshError, Misbehaved, PeerError, Refused, one_line
from mesh.offload import Offload
from mesh.transport.base import Comparison, Meeting, Offered, Pushed
from mesh.wire.frames import Frame, FrameReader, Kind
from mesh.wire.messages import Hello, PartsReply, PartsRequest, StandingReply, StandingRequest

log = logging.getLogger("mesh")

# Requests at a time for one batch: the protocol has a request a blob. A round has three batches.
_AT_A_TIME = 4

# Blobs remembered as sent since the last comparison began, so that an announcement and a round
# do not send the same one. Forgetting costs one upload that changes nothing.
_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class BlobstashMeeting(Meeting):
    """What the server holds, and our own state to compare it with."""

    state: State
    ours: StateTree


class BlobstashPeer:
    """See transport.base.Replica."""

    def __init__(
        self, remote: Remote, ours: Callable[[], Tree], work: Offload, *, one_way: bool = False
    ) -> None:
        """`ours` is the present tree. `one_way`: take everything; fail if anything is only here."""
        self.load = Load()
        self._remote = remote
        self._ours = ours
        self._work = work
        self._one_way = one_way
        self._states = StateTree()
        self._sent: OrderedDict[Digest, None] = OrderedDict()
        self._lacking: set[Digest] = set()

    async def meet(self, hello: Hello) -> Meeting:
        """One request: the server's state, compared with ours."""
        del hello
        self._sent.clear()
        self._lacking.clear()
        state = await self._remote.state()
        tree = self._ours()
        states = self._states.following(tree)
        equal = await self._work(states.root) == state.root
        self._states = states
        return BlobstashMeeting(
            hello=None,
            root=tree.root if equal else None,
            count=state.count,
            pulled=None,
            equal=equal,
            ready=True,
            state=state,
            ours=states,
        )

    def compare(self, ours: Callable[[], Tree], meeting: Meeting) -> Comparison:
        """Leaves of diverging buckets."""
        del ours  # the meeting was with one tree, and leaves are compared with the same
        if not isinstance(meeting, BlobstashMeeting):
            raise TypeError("a meeting with another kind of peer")
        lacking = set() if self._one_way else self._lacking
        return _BlobstashComparison(self._remote, meeting, self._work, lacking, self._one_way)

    @asynccontextmanager
    async def fetch(self, digests: Sequence[Digest]) -> AsyncIterator[AsyncIterator[list[Frame]]]:
        """A request a blob, some at a time."""
        arrived, frames = create_memory_object_stream[list[Frame]](_AT_A_TIME)
        failures: list[PeerError] = []

        async def one(digest: Digest) -> None:
            frame = await self._one(digest)
            with suppress(BrokenResourceError):  # whoever asked has left, and takes no more
                await arrived.send([frame])

        async def all_of_them() -> None:
            async with arrived:
                failures.extend(await _spread(digests, one))

        # What the caller raises in the block must leave it as it is, not in the nursery's group.
        error: MeshError | None = None
        async with create_task_group() as group:
            group.start_soon(all_of_them)
            try:
                async with frames, aclosing(_until_failed(frames, failures)) as groups:
                    yield groups
            except MeshError as raised:
                error = raised
            group.cancel_scope.cancel()
        if error is not None:
            raise error

    async def _one(self, digest: Digest) -> Frame:
        """One small blob as a frame; only the mark for one that is large or absent."""
        try:
            async with self._remote.get(digest) as found:
                if found is None:
                    return Frame(Kind.ABSENT, digest, 0)
                size, chunks = found
                if size is not None and size >= LARGE_BLOB:
                    return Frame(Kind.LARGE, digest, size)
                data = await _small(digest, chunks)
        except Refused as error:
            # One blob that the server cannot give is not the others' trouble.
            log.warning("blob %s: %s", digest.hex(), one_line(error))
            return Frame(Kind.ABSENT, digest, 0)
        return Frame(Kind.BLOB, digest, len(data), data)

    @asynccontextmanager
    async def fetch_large(self, digest: Digest, start: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """One large blob; BlobStash knows no offsets, so what is before `start` is dropped."""
        async with self._remote.get(digest) as found:
            if found is None:
                raise Refused(f"the server listed blob {digest.hex()} and does not have it")
            yield _from(found[1], start)

    async def offer(self, hello: Hello, digests: Sequence[Digest], *, more: bool) -> Offered:
        """Those that the server has not and was not sent since the last comparison."""
        del hello, more
        wanted: list[Digest] = []

        async def one(digest: Digest) -> None:
            # What a comparison has just shown to be missing there need not be asked for.
            if digest in self._lacking or not await self._remote.has(digest):
                self._lacking.discard(digest)
                wanted.append(digest)

        fresh = [digest for digest in digests if digest not in self._sent]
        if failures := await _spread(fresh, one):
            raise failures[0]
        return Offered(wanted, None, pulls=False)

    async def push(self, frames: AsyncIterator[bytes]) -> Pushed:
        """A request a blob, some at a time, as fast as the frames come out of the store."""
        reader = FrameReader()
        stored = 0

        async def one(frame: Frame) -> None:
            nonlocal stored
            sent = await self._send(frame.digest, frame.length, _whole(frame.data))
            stored += sent

        async for chunk in frames:
            if failures := await _spread(reader.feed(chunk), one):
                raise failures[0]
        return Pushed(stored, 0, None)

    async def push_large(
        self, digest: Digest, size: int, data: AsyncIterator[bytes], start: int
    ) -> Pushed:
        """One large blob, streamed, and always from its beginning: nothing else was said."""
        del start
        return Pushed(await self._send(digest, size, data), 0, None)

    async def standing(self, request: StandingRequest) -> StandingReply | None:
        """A BlobStash server does not tell whether it has peers."""
        del request
        return None

    async def holding(self, hello: Hello, digests: Sequence[Digest]) -> set[Digest] | None:
        """A BlobStash server is asked blob by blob, which takes too long for somebody who waits."""
        del hello, digests
        return None

    async def parts(self, request: PartsRequest) -> PartsReply | None:
        """A BlobStash server gives whole blobs only."""
        del request
        return None

    def brought(self, digest: Digest, size: int | None) -> None:
        """Nothing to do: nobody looks here how far a blob is."""

    def fetch_part(
        self, digest: Digest, start: int, stop: int
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Not of a BlobStash server, which says so in `parts`."""
        del start, stop
        raise Refused(f"a BlobStash server gives no part of blob {digest.hex()}")

    async def close(self) -> None:
        """Let go of connections."""
        await self._remote.close()

    async def _send(self, digest: Digest, size: int, data: AsyncIterator[bytes]) -> int:
        """Send one blob unless it was, or is being, sent; how many were sent."""
        if digest in self._sent:
            return 0
        self._sent[digest] = None
        while len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)
        try:
            await self._remote.post(digest, size, data)
        except BaseException:
            self._sent.pop(digest, None)
            raise
        return 1


class _BlobstashComparison:
    """Proven when the differences found explain the root that the server named."""

    def __init__(
        self,
        remote: Remote,
        meeting: BlobstashMeeting,
        work: Offload,
        lacking: set[Digest],
        one_way: bool,
    ) -> None:
        self._remote = remote
        self._meeting = meeting
        self._work = work
        self._lacking = lacking
        self._one_way = one_way
        self.proven = False
        self.root: Digest | None = None
        self.count = meeting.count
        self.own_count = len(meeting.ours.tree)
        self.restarts = 0

    async def __aiter__(self) -> AsyncGenerator[Difference, None]:
        state, states = self._meeting.state, self._meeting.ours
        tree = overlay = states.tree
        held: list[Difference] = []
        only_here = 0
        prefixes = await self._work(diverging, states, state)
        async for leaf in differences(self._remote, tree, state, prefixes):
            overlay = overlay.remove(leaf.missing_there).add(leaf.missing_here)
            only_here += len(leaf.missing_there)
            piece = Difference(leaf.missing_here, _surplus(tree, leaf.prefix, leaf.missing_there))
            if self._one_way:
                held.append(piece)
            else:
                self._lacking.update(leaf.missing_there)
                yield piece
        if self._one_way and only_here:
            raise OneWayConflict(only_here)
        for piece in held:
            yield piece
        self.proven = await self._work(states.following(overlay).root) == state.root
        self.root = overlay.root if self.proven else None


def _surplus(tree: Tree, prefix: str, only_here: list[Digest]) -> list[OnlyHere]:
    if not only_here:
        return []
    gone = set(only_here)
    held = frozenset(digest for digest in tree.digests(prefix) if digest not in gone)
    return [Surplus(tree, prefix, held)]


T = TypeVar("T")


async def _spread(items: Iterable[T], one: Callable[[T], Awaitable[None]]) -> list[PeerError]:
    """Do `one` for all items, some at a time, until one fails; the failures."""
    waiting = iter(items)
    failures: list[PeerError] = []

    async def worker() -> None:
        for item in waiting:
            try:
                await one(item)
            except PeerError as error:
                failures.append(error)
            if failures:
                return

    async with create_task_group() as group:
        for _ in range(_AT_A_TIME):
            group.start_soon(worker)
    return failures


async def _until_failed(
    frames: AsyncIterator[list[Frame]], failures: list[PeerError]
) -> AsyncGenerator[list[Frame], None]:
    async for group in frames:
        yield group
    if failures:
        raise failures[0]


async def _small(digest: Digest, chunks: AsyncIterator[bytes]) -> bytes:
    """The bytes of a blob that said it was small, or did not say."""
    pieces: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size >= LARGE_BLOB:
            raise Misbehaved(f"blob {digest.hex()} is larger than the server said")
        pieces.append(chunk)
    return b"".join(pieces)


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data


async def _from(chunks: AsyncIterator[bytes], start: int) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if start < len(chunk):
            yield chunk[start:]
        start = max(0, start - len(chunk))
