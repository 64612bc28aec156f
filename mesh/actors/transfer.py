"""Moving blobs between the store and a peer: many small ones a stream, large ones alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

import anyio

from mesh.actors.keeper import Keeper
from mesh.core.digest import Digest, digest_of
from mesh.core.failing import Side
from mesh.core.holder import Anonymous, Configured, Holder
from mesh.errors import Misbehaved, Refused, Stalled, TooMuch, Unreachable, one_line
from mesh.offload import Offload
from mesh.store.base import Blob, Entry
from mesh.transport.base import Offered, Replica
from mesh.wire.frames import Frame, Kind, end, frame
from mesh.wire.messages import Hello

# A group of arriving blobs is hashed, and committed, when it has so many or so much. A thousand
# make a commit's sync cheap beside them; 2 MiB bound what a stream holds in memory.
_GROUP_BLOBS = 1000
GROUP_BYTES = 2 * 1024 * 1024

# Bytes read from the store at a time for a peer, which is also a chunk on the wire: Hypercorn
# and httpx cost about 0.2 ms an event, whatever its size.
CHUNK = 512 * 1024

# Before a large blob is pushed, its verification, if it needs one, is waited for this many seconds:
# enough for a blob of some hundred MB. What takes longer is sent by a later round.
_MOMENT = 1.0

# An answer to one batch request ends here with LATER for the rest, so that a batch of big blobs
# does not hold its claims for minutes. At 4 KiB a blob a full batch of 4,096 fits four times.
ANSWER_BYTES = 64 * 1024 * 1024

# A push of so much that breaks off may have broken for its size; one of less has another reason.
_PLAIN = 256 * 1024


# Seconds after which a large blob that is being verified here is offered again, as for one that a
# peer verifies: it is cheap to ask, and the verification of a TB takes an hour.
_VERIFYING_SECONDS = 10.0


class Landing(Protocol):
    """Who is told what became of arriving blobs: a Tally, or the Batch that asked for them."""

    def landed(self, fresh: int, size: int, wrong: Sequence[Digest]) -> None:
        """`fresh` blobs of `size` bytes are new here; those of `wrong` were other bytes."""


class Leaving(Protocol):
    """Who is told what became of blobs that were to be sent: a round's ledger, or an announcer."""

    def stored(self, fresh: int, size: int, rejected: int = 0, *, exact: bool = True) -> None:
        """`size` bytes went there: `fresh` blobs are new there, others were rejected.

        `exact`: these are the bytes of the `fresh` ones and of nothing else.
        """

    def untaken(self, why: str) -> None:
        """One blob was not moved, for a reason that concerns it alone."""

    def put_off(self, why: str, seconds: float) -> None:
        """One blob cannot be sent yet, but in so many seconds."""


class Intake:
    """Arriving frames of one holder: grouped, verified off the loop, committed."""

    def __init__(
        self,
        keeper: Keeper,
        holder: Holder,
        work: Offload,
        tally: Landing,
        most: Callable[[], int] = lambda: GROUP_BYTES,
    ) -> None:
        """`most`: how many bytes a group may have at this moment before it is committed."""
        self._keeper = keeper
        self._holder = holder
        self._work = work
        self._tally = tally
        self._most = most
        self._blobs: list[Blob] = []
        self._size = 0

    async def add(self, frames: Sequence[Frame]) -> None:
        """Take BLOB frames; may commit."""
        for item in frames:
            self._blobs.append(Blob(item.digest, item.data))
            self._size += item.length
            if len(self._blobs) >= _GROUP_BLOBS or self._size >= self._most():
                await self.flush()

    async def flush(self) -> None:
        """Verify and commit what is held."""
        blobs, self._blobs, self._size = self._blobs, [], 0
        if not blobs:
            return
        good = await self._work(_verified, blobs)
        if len(good) < len(blobs):
            kept = {blob.digest for blob in good}
            wrong = [blob.digest for blob in blobs if blob.digest not in kept]
            self._keeper.failed(self._holder, wrong, "the bytes that came were another blob")
            # Told before the commit, which may fail: that they were wrong is so all the same.
            self._tally.landed(0, 0, wrong)
        fresh = await self._keeper.put(good, self._holder)
        size = sum(blob.size for blob, is_new in zip(good, fresh, strict=True) if is_new)
        self._tally.landed(sum(fresh), size, [])


def _verified(blobs: list[Blob]) -> list[Blob]:
    return [blob for blob in blobs if digest_of(blob.data) == blob.digest]


def progressed(keeper: Keeper, holder: Holder, digest: Digest) -> None:
    """Bytes of one blob have come from `holder`: its claim lasts on.

    Refused when a stranger pushes what a configured peer brings, or waits to bring.
    """
    if isinstance(holder, Configured):
        keeper.renew(holder, [digest])
    elif isinstance(holder, Anonymous) and not keeper.pushing(digest):
        raise Refused(f"blob {digest.hex()} is on its way from another peer")


async def take_large(
    keeper: Keeper,
    holder: Holder,
    digest: Digest,
    chunks: AsyncIterator[bytes],
    limit: int,
    *,
    exact: bool = False,
) -> tuple[bool, int]:
    """Store one large blob that streams in; whether it was new, and its size.

    Raises Misbehaved when the bytes are another blob, or more than `limit`, or with `exact` fewer;
    Refused when a configured peer brings the blob that a stranger pushes.
    """
    began = renewed = anyio.current_time()
    async with keeper.door.incoming(digest) as incoming:
        async for chunk in chunks:
            await incoming.write(chunk)
            if incoming.size > limit:
                raise Misbehaved(f"blob {digest.hex()} is longer than the {limit} bytes announced")
            if anyio.current_time() - renewed > 1.0:
                renewed = anyio.current_time()
                progressed(keeper, holder, digest)
        if exact and incoming.size < limit:
            raise Misbehaved(
                f"blob {digest.hex()} ends at {incoming.size} of the {limit} bytes announced"
            )
        item = await incoming.finish()
        if item.digest != digest:
            raise Misbehaved(f"what came as blob {digest.hex()} is {item.digest.hex()}")
        (fresh,) = await keeper.put([item], holder, began)
    return fresh, item.size


async def frames_of(
    read: Callable[[Sequence[Digest], int], Awaitable[list[Entry]]], digests: Sequence[Digest]
) -> AsyncGenerator[bytes, None]:
    """A batch as a stream of chunks: a frame for each digest, then the end mark.

    `read` gives the entries, as Door.batch does.
    """
    left = list(digests)
    unspent = ANSWER_BYTES
    while left and unspent > 0:
        entries = await read(left, CHUNK)
        left = left[len(entries) :]
        pieces: list[bytes] = []
        for entry in entries:
            pieces += _framed(entry)
            unspent -= len(entry.data or b"")
        yield b"".join(pieces)
    if left:
        yield b"".join(frame(Kind.LATER, digest) for digest in left)
    yield end(len(digests))


def _framed(entry: Entry) -> tuple[bytes, ...]:
    if entry.size is None:
        return (frame(Kind.ABSENT, entry.digest),)
    if entry.data is None:
        return (frame(Kind.LARGE, entry.digest, entry.size),)
    return frame(Kind.BLOB, entry.digest, entry.size), entry.data


async def push(
    keeper: Keeper, replica: Replica, holder: Configured, offered: Offered, leaving: Leaving
) -> Hello | None:
    """Send what the peer, `holder`, wants, large blobs last, one by one; how it stands afterwards.

    What is sent at once becomes smaller when something on the way refuses it for its size. A
    single blob that is refused is told to `leaving`, and delays no other.
    """
    pushing = _Pushing(keeper, replica, holder, offered, leaving)
    await pushing.small()
    await pushing.large()
    return pushing.hello


class _Pushing:
    """One push: what is left to send, and what is sent at this moment."""

    def __init__(
        self,
        keeper: Keeper,
        replica: Replica,
        holder: Configured,
        offered: Offered,
        leaving: Leaving,
    ) -> None:
        self.hello = offered.hello
        self._holder = holder
        self._keeper = keeper
        self._replica = replica
        self._starts = offered.starts
        self._leaving = leaving
        self._left = list(offered.wants)
        self._large: list[tuple[Digest, int]] = []
        self._sizes: list[int] = []
        self._last: Digest | None = None  # of the part that is being sent
        self._kept: set[Digest] = set()  # what was not sent
        self._taken = 0  # digests off `_left` that this part has dealt with

    async def small(self) -> None:
        """Parts of what is wanted, each as large as is let through."""
        while self._left:
            self._sizes, self._taken = [], 0
            began = anyio.current_time()
            known = len(self._large)
            try:
                async with aclosing(self._part()) as frames:
                    result = await self._replica.push(frames)
            except TooMuch as error:
                del self._large[known:]  # the next part meets them again
                self._refused(error)
                continue
            except Stalled:
                raise
            except Unreachable:
                # A proxy may close while we send, and its refusal is lost with the connection.
                if len(self._sizes) > 1 and sum(self._sizes) > _PLAIN:
                    self._replica.load.refused(sum(self._sizes), anyio.current_time())
                raise
            if not result.rejected:
                self._keeper.failing.sent(self._holder, self._went())
            del self._left[: self._taken]
            self._keeper.journal.sent(self._holder, result.stored, sum(self._sizes), began)
            exact = result.stored == len(self._sizes)
            self._leaving.stored(result.stored, sum(self._sizes), result.rejected, exact=exact)
            self.hello = result.hello

    def _went(self) -> list[Digest]:
        """What this part has sent."""
        large = {digest for digest, _ in self._large}
        return [d for d in self._left[: self._taken] if d not in large and d not in self._kept]

    def _refused(self, error: TooMuch) -> None:
        """This part was too large: halve it, or leave out the one blob that it had."""
        now = anyio.current_time()
        if len(self._sizes) > 1:
            self._replica.load.refused(sum(self._sizes), now)
            return
        if not self._sizes or self._last is None:
            raise error
        self._replica.load.refused_alone(self._sizes[0], now)
        self._untaken(self._last, self._sizes[0])
        self._left.remove(self._last)

    async def _part(self) -> AsyncGenerator[bytes, None]:
        """Frames of as many blobs as may go at once, at least one, then the end mark."""
        now = anyio.current_time()
        most = self._replica.load.most(now)
        full = False
        while self._taken < len(self._left) and not full:
            ahead = self._left[self._taken :]
            entries = await self._keeper.door.batch(ahead, min(CHUNK, most or CHUNK))
            pieces: list[bytes] = []
            for entry in entries:
                if entry.data is not None:
                    size = len(entry.data)
                    if self._replica.load.hopeless(size, now):
                        self._untaken(entry.digest, size)
                        self._taken += 1
                        continue
                    full = most is not None and bool(self._sizes) and sum(self._sizes) + size > most
                    if full:
                        break
                    pieces += _framed(entry)
                    self._sizes.append(size)
                    self._last = entry.digest
                elif entry.size is not None:
                    self._large.append((entry.digest, entry.size))
                self._taken += 1
            if pieces:
                yield b"".join(pieces)
        yield end(len(self._sizes))

    def _untaken(self, digest: Digest, size: int) -> None:
        self._stuck(
            digest,
            f"blob {digest.hex()} of {size} bytes is more than the peer, or a proxy before it, "
            "takes in one request; raise that limit there (nginx: client_max_body_size)",
        )

    def _stuck(self, digest: Digest, why: str) -> None:
        """One blob is not taken, for a reason that concerns it alone."""
        self._kept.add(digest)
        self._leaving.untaken(why)
        self._keeper.stuck(Side.THERE, self._holder, [digest], why)

    async def large(self) -> None:
        """Each alone."""
        for digest, size in self._large:
            start = min(self._starts.get(digest, 0), size)
            now = anyio.current_time()
            if self._replica.load.hopeless(size - start, now):
                self._untaken(digest, size - start)
                continue
            if not await self._keeper.door.verified(digest, _MOMENT):
                # The peer would see nothing come, and end the push.
                why = f"blob {digest.hex()} is being verified on this node; it is sent after that"
                self._leaving.put_off(why, _VERIFYING_SECONDS)
                continue
            try:
                # Where an earlier push was cut, or somebody else's.
                async with aclosing(self._keeper.door.whole(digest, size, start)) as data:
                    result = await self._replica.push_large(digest, size, data, start)
            except TooMuch:
                self._replica.load.refused_alone(size - start, now)
                self._untaken(digest, size - start)
                continue
            except Refused as error:
                # One blob that the peer will not have (over its limit, say) delays no other.
                self._stuck(digest, one_line(error))
                continue
            self._keeper.failing.sent(self._holder, [digest])
            self._keeper.journal.sent(self._holder, result.stored, size - start, now, digest)
            self._leaving.stored(
                result.stored, (size - start) * result.stored, exact=not (start and result.stored)
            )
            self.hello = result.hello
