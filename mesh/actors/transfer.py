"""Moving blobs between the store and a peer: many small ones a stream, large ones alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing

import anyio
import msgspec

from mesh.actors.keeper import Keeper
from mesh.core.digest import Digest, digest_of
from mesh.core.holder import Anonymous, Configured, Holder
from mesh.errors import Misbehaved, Refused, one_line
from mesh.offload import Offload
from mesh.store.base import Blob, Entry
from mesh.transport.base import Offered, Replica
from mesh.wire.frames import Frame, Kind, end, frame
from mesh.wire.messages import Hello

# A group of arriving blobs is hashed, and committed, when it has so many or so much. A thousand
# make a commit's sync cheap beside them; 2 MiB bound what a stream holds in memory.
_GROUP_BLOBS = 1000
_GROUP_BYTES = 2 * 1024 * 1024

# Bytes read from the store at a time for a peer, which is also a chunk on the wire: Hypercorn
# and httpx cost about 0.2 ms an event, whatever its size.
CHUNK = 512 * 1024

# An answer to one batch request ends here with LATER for the rest, so that a batch of big blobs
# does not hold its claims for minutes. At 4 KiB a blob a full batch of 4,096 fits four times.
ANSWER_BYTES = 64 * 1024 * 1024


class Tally(msgspec.Struct):
    """What a transfer moved: blobs and bytes here and there, and what could not be had."""

    fetched: int = 0
    fetched_bytes: int = 0
    sent: int = 0
    sent_bytes: int = 0
    failed: int = 0
    over_limit: int = 0
    refusal: str = ""  # why the peer would not take a blob, in its own words


class Intake:
    """Arriving frames of one holder: grouped, verified off the loop, committed."""

    def __init__(self, keeper: Keeper, holder: Holder, work: Offload, tally: Tally) -> None:
        self._keeper = keeper
        self._holder = holder
        self._work = work
        self._tally = tally
        self._blobs: list[Blob] = []
        self._size = 0

    async def add(self, frames: Sequence[Frame]) -> None:
        """Take BLOB frames; may commit."""
        for item in frames:
            self._blobs.append(Blob(item.digest, item.data))
            self._size += item.length
            if len(self._blobs) >= _GROUP_BLOBS or self._size >= _GROUP_BYTES:
                await self.flush()

    async def flush(self) -> None:
        """Verify and commit what is held."""
        blobs, self._blobs, self._size = self._blobs, [], 0
        if not blobs:
            return
        good = await self._work(_verified, blobs)
        if len(good) < len(blobs):
            kept = {blob.digest for blob in good}
            bad = [blob.digest for blob in blobs if blob.digest not in kept]
            self._tally.failed += len(bad)
            self._keeper.failed(self._holder, bad)
        fresh = await self._keeper.put(good, self._holder)
        self._tally.fetched += sum(fresh)
        self._tally.fetched_bytes += sum(
            blob.size for blob, is_new in zip(good, fresh, strict=True) if is_new
        )


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
    renewed = anyio.current_time()
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
        (fresh,) = await keeper.put([item], holder)
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


async def push(keeper: Keeper, replica: Replica, offered: Offered, tally: Tally) -> Hello | None:
    """Send blobs that the peer wants, large ones last, one by one; how it stands afterwards."""
    large: list[tuple[Digest, int]] = []
    sizes: list[int] = []

    async def small() -> AsyncGenerator[bytes, None]:
        left = list(offered.wants)
        while left:
            entries = await keeper.door.batch(left, CHUNK)
            left = left[len(entries) :]
            pieces: list[bytes] = []
            for entry in entries:
                if entry.data is not None:
                    pieces += _framed(entry)
                    sizes.append(len(entry.data))
                elif entry.size is not None:
                    large.append((entry.digest, entry.size))
            if pieces:
                yield b"".join(pieces)
        yield end(len(sizes))

    async with aclosing(small()) as frames:
        result = await replica.push(frames)
    tally.sent += result.stored
    tally.sent_bytes += sum(sizes)
    tally.failed += result.rejected
    hello = result.hello
    for digest, size in large:
        try:
            # Where an earlier push was cut, or somebody else's.
            start = min(offered.starts.get(digest, 0), size)
            async with aclosing(keeper.door.whole(digest, size, start)) as data:
                result = await replica.push_large(digest, size, data, start)
        except Refused as error:
            # One blob that the peer will not have (over its limit, say) delays no other.
            tally.refusal = one_line(error)
            tally.failed += 1
            continue
        tally.sent += result.stored
        tally.sent_bytes += (size - start) * result.stored
        hello = result.hello
    return hello
