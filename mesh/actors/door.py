"""The one door to the store, for everybody but the keeper itself.

The keeper owns the store: it alone commits, discards, and reads the tree. All others reach the
store through the keeper's door, and only for what is safe beside the keeper's own work: to read
what is here, to take in what arrives, and to scrub. A test keeps any other way shut.

What is read through the door comes from this node's disk, and never from a peer. Answers to peers
use the door directly: if they asked other peers in turn, one question could travel through the
whole mesh. Clients read through the `Reader`, which stands in front of the door, and which heals
what is damaged or fetches what is not here.

A blob that the tree has and the store has not is damage. The door tells the keeper of it, so no
reader has to think of that.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import NamedTuple

import anyio

from mesh.core.digest import Digest, new_hasher
from mesh.core.limits import LARGE_BLOB
from mesh.core.partial import Bringer, Kept
from mesh.errors import StoreError
from mesh.store.base import (
    BlobStore,
    Cursor,
    Entry,
    Incoming,
    Item,
    ListedSnapshot,
    Place,
    Resumed,
    Scrubbed,
    SnapshotFilter,
    Totals,
    Verifying,
)


class Known(NamedTuple):
    """A blob that came although it is here already: its name and size, and no bytes."""

    digest: Digest
    size: int


class Door:
    """See the module. All methods raise StoreError as the store's do."""

    def __init__(
        self,
        store: BlobStore,
        has: Callable[[Digest], bool],
        missing: Callable[[Digest], None],
        admit: Callable[[int], None],
    ) -> None:
        """`has`: whether the tree has a blob; `missing` is told of what the store does not have.

        `admit` raises Full or ReadOnly unless there is room for so many bytes.
        """
        self._store = store
        self._has = has
        self._missing = missing
        self._admit = admit

    # --- what is here ------------------------------------------------------------------------

    async def size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes; None when it is not here."""
        size = await self._store.size(digest)
        if size is None:
            self._missing(digest)
        return size

    async def whole(
        self, digest: Digest, size: int, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes [start, stop) of a blob of `size` bytes, in pieces that are checked.

        A piece is empty while the blob is being verified.

        Raises Corrupt at the first piece that is damaged, StoreError when the blob is gone.
        """
        stop = size if stop is None else stop
        if size < LARGE_BLOB:
            data = await self._store.read(digest)
            if data is None:
                raise self._gone(digest)
            yield data[start:stop]
            return
        at = start
        async with aclosing(self._store.stream(digest, start, stop)) as pieces:
            async for piece in pieces:
                at += len(piece)
                yield piece
        if at < stop:
            raise self._gone(digest)

    async def verified(self, digest: Digest, seconds: float) -> bool:
        """Whether `whole` would give bytes at once, after up to so many seconds.

        When it would not, the blob is being verified: see `verifying`. Raises Corrupt when that
        finds other bytes.
        """
        return await self._store.verified(digest, seconds)

    @property
    def verifying(self) -> Sequence[Verifying]:
        """The large blobs that are being verified."""
        return self._store.verifying

    async def batch(self, digests: Sequence[Digest], most: int) -> list[Entry]:
        """Entries for the first of `digests`, at least one, until there are `most` bytes."""
        entries = await self._store.batch(digests, most)
        for entry in entries:
            if entry.size is None:
                self._missing(entry.digest)
        return entries

    async def listing(self, prefix: str, after: bytes, limit: int) -> list[tuple[Digest, int]]:
        """Digests below `prefix` and greater than `after`, with sizes in bytes, ascending."""
        return await self._store.listing(prefix, after, limit)

    async def snapshots(
        self, wanted: SnapshotFilter, before: tuple[str, Digest] | None, limit: int
    ) -> list[ListedSnapshot]:
        """The blobs that are snapshots, the newest first; see BlobStore.snapshots."""
        return await self._store.snapshots(wanted, before, limit)

    async def place(self, digest: Digest) -> Place | None:
        """Where a blob is stored; None when it is not here."""
        place = await self._store.place(digest)
        if place is None:
            self._missing(digest)
        return place

    @property
    def totals(self) -> Totals:
        """How many blobs there are, and their bytes."""
        return self._store.totals

    async def size_of_all(self, digests: Iterable[Digest]) -> int | None:
        """The bytes of these few blobs together; None when one is not here, or cannot be read."""
        total = 0
        for digest in digests:
            try:
                size = await self.size(digest)
            except StoreError:
                return None
            if size is None:
                return None
            total += size
        return total

    def size_of(self, blobs: int) -> int | None:
        """The bytes of all blobs of a set of ours that has so many.

        None when the store has more or fewer: a commit is under way, or the set is an older one.
        """
        totals = self._store.totals
        return totals.bytes if totals.blobs == blobs else None

    def _gone(self, digest: Digest) -> StoreError:
        self._missing(digest)
        return StoreError(f"blob {digest.hex()} is not here")

    # --- what arrives ------------------------------------------------------------------------

    @asynccontextmanager
    async def incoming(self, name: Digest | None = None) -> AsyncIterator[Incoming]:
        """Take in a blob, of which `name` is the expected name; `Keeper.put` stores it.

        Of a blob that is here already no byte is written: its bytes are hashed, so that the caller
        still learns when they are not what they are called.
        """
        if name is not None and self._has(name):
            yield _Hashed()
            return
        async with self._store.incoming() as incoming:
            yield _Admitted(incoming, self._admit)

    def resume(
        self, digest: Digest, bringer: Bringer
    ) -> AbstractAsyncContextManager[Resumed | None]:
        """Go on with a large blob that `bringer` brings; see BlobStore.resume."""
        return self._store.resume(digest, bringer)

    async def partials(self) -> list[Kept]:
        """The large blobs of which a part has come."""
        return await self._store.partials()

    # --- the scrubber ------------------------------------------------------------------------

    @property
    def reads(self) -> int:
        """How many reads of blobs there were, scrubs aside."""
        return self._store.reads

    async def scrub(self, cursor: Cursor, most: int) -> Scrubbed:
        """Check about `most` bytes from `cursor` on against their names."""
        return await self._store.scrub(cursor, most)

    async def note(self, name: str, value: bytes) -> None:
        """Keep a small value over restarts; it may be lost, as an index may."""
        await self._store.note(name, value)

    async def noted(self, name: str) -> bytes | None:
        """What was kept under a name; None when nothing was."""
        return await self._store.noted(name)


class _Admitted:
    """A blob that arrives, for as long as the disk takes blobs. See store.base.Incoming.

    A blob may be larger than what is left above the reserve, and need not say so before: what it
    has brought is given up when the disk fills up meanwhile.
    """

    def __init__(self, incoming: Incoming, admit: Callable[[int], None]) -> None:
        self._incoming = incoming
        self._admit = admit

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._incoming.size

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes; Full or ReadOnly when the disk takes no more."""
        self._admit(0)
        await self._incoming.write(chunk)

    async def finish(self) -> Item:
        """All bytes are there."""
        return await self._incoming.finish()


class _Hashed:
    """A blob that arrives and is here already: hashed, and dropped. See store.base.Incoming."""

    def __init__(self) -> None:
        self.size = 0
        self._hasher = new_hasher()

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes. A chunk of 512 KiB, the largest that comes, is hashed in 0.8 ms."""
        await anyio.lowlevel.checkpoint()
        self._hasher.update(chunk)
        self.size += len(chunk)

    async def finish(self) -> Item:
        """The name that the bytes have."""
        return Known(Digest(self._hasher.digest()), self.size)
