"""The store on disk: segments and large files for the bytes, SQLite for where they are.

Theory of operation. The log (store/log) is the truth: segment files of records, only ever appended
to. A large blob has a record there and a file of its own (store/large). The index, in SQLite, says
where each blob stands; it is derived, and made anew from the log whenever it is not one of it.

- A put: `incoming` or `resume` gather the bytes, `commit` renames large files to their names,
  appends the records, syncs, and changes the index. All that happens on the writer's lane, one
  thread, one call at a time (store/writing.py).
- A read: on one of a few reader's lanes, each with an index connection of its own, or, for a large
  blob, on any thread. No byte leaves before it was checked (store/reading.py).
- Damage: whoever meets it calls `watch`ers; the keeper calls `discard`, which looks again on the
  writer's lane, sets the bytes aside, logs that they are lost, and drops the row.
- A broken index: any call meets IndexDamaged; all readers stop, the writer rebuilds it from the
  log, and the call is made once more.
- A large blob without sums: a job that `run` drives (store/care/verifying.py).

This module puts these parts together, and holds no bytes itself.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import anyio

from mesh.core.digest import Digest
from mesh.core.partial import Bringer, Kept
from mesh.core.tree import Tree, prefix_range
from mesh.errors import Corrupt, StoreError
from mesh.offload import Offload
from mesh.store.base import (
    Cursor,
    Damage,
    Entry,
    Item,
    ListedSnapshot,
    Place,
    Room,
    Scrubbed,
    SnapshotFilter,
    Totals,
    Verifying,
    Wants,
)
from mesh.store.care.readonly import room_of, tried
from mesh.store.care.scrubbing import Scrubbing
from mesh.store.care.verifying import Verifications
from mesh.store.faults import IndexDamaged
from mesh.store.files import Files
from mesh.store.large.partial import PartialFile, Partials
from mesh.store.large.pieces import PIECE
from mesh.store.large.staged import LargeIncoming
from mesh.store.log.segments import SEGMENT_MAX
from mesh.store.reading import ReadSide, Rotten
from mesh.store.writing import Writer

log = logging.getLogger("mesh")

P = ParamSpec("P")
T = TypeVar("T")

# Index connections and threads for reading: one that a bulk transfer keeps busy, one that
# answers meanwhile. The machine's other work needs its cores too.
READERS = 2

# Entries of a batch that are read at a time, so that many tiny blobs do not hold a reader for long.
_ENTRIES = 256


class DiskStore:
    """Blobs in a directory, through a file port and injected threads."""

    def __init__(
        self,
        files: Files,
        index: Path | None,
        lane: Callable[[str], Offload],
        work: Offload,
        now: Callable[[], float] = time.time,
        segment_bytes: int = SEGMENT_MAX,
    ) -> None:
        """`index`: SQLite's file, None to keep it in memory (then there is one lane for all).

        `lane` makes a thread by name; `work` runs hashing and large blobs; `now` is the wall
        clock, which dates what is wanted and what came, and decides nothing. `segment_bytes`: a
        segment that has so many is followed by another one.
        """
        self._files = files
        self._index = index
        self._work = work
        self._writer = writer = Writer(files, index, now, segment_bytes)
        self._write_lane = lane("store-write")

        def side() -> ReadSide:
            return ReadSide(files, index, lambda: writer.index)

        self._lanes: list[tuple[Offload, ReadSide]] = []
        if index is None:
            self._lanes.append((self._write_lane, side()))
        else:
            for number in range(READERS):
                self._lanes.append((lane(f"store-read-{number}"), side()))
        self._free: list[tuple[Offload, ReadSide]] = []
        self._waiting: anyio.Semaphore | None = None
        self._repairing = anyio.Lock()
        self._rebuilds = 0
        self._totals = Totals(0, 0)
        self._wants = Wants(0, ())
        self._reads = 0
        self._temporary = itertools.count(1)
        self._scrubbing = Scrubbing(files, work)
        self._on_damage: Callable[[Damage], None] = _nobody
        self._on_rebuilt: Callable[[], None] = _nothing
        self._partials = Partials(files, work)
        self._verifications = Verifications(files, work, self._was_read)

    @property
    def totals(self) -> Totals:
        """How much there is; known once the store is open."""
        return self._totals

    @property
    def wants(self) -> Wants:
        """What was discarded and has not come back; known once the store is open."""
        return self._wants

    @property
    def reads(self) -> int:
        """How many reads of blobs there were, scrubs aside."""
        return self._reads

    def watch(self, on_damage: Callable[[Damage], None], on_rebuilt: Callable[[], None]) -> None:
        """See BlobStore.watch."""
        self._on_damage, self._on_rebuilt = on_damage, on_rebuilt

    async def open(self) -> str:
        """Recover, and say in a line what was found and done; until then nothing can be read."""
        note = await self._write_lane(self._writer.open)
        self._now_is()
        if self._writer.in_memory and self._index is not None:
            # The index on the disk cannot be used: all go to the one that the writer has.
            for lane, _ in self._lanes:
                lane.close()
            writer = self._writer
            self._lanes = [(self._write_lane, ReadSide(self._files, None, lambda: writer.index))]
        for lane, side in self._lanes:
            await lane(side.open)
        self._free, self._waiting = list(self._lanes), anyio.Semaphore(len(self._lanes))
        return note

    def _now_is(self) -> None:
        self._totals, self._wants = self._writer.totals, self._writer.wants

    async def close(self) -> None:
        """Close every connection on its own thread, then the threads."""
        self._waiting = None
        for lane, side in self._lanes:
            await lane(side.close)
        await self._write_lane(self._writer.close)
        for lane in {self._write_lane, *(lane for lane, _ in self._lanes)}:
            lane.close()

    async def commit(self, items: Sequence[Item]) -> list[bool]:
        """Append, sync, index: see BlobStore.commit."""
        return await self._writing(self._writer.commit, list(items))

    async def discard(self, damages: Sequence[Damage]) -> list[Digest]:
        """Look again, set aside, log, and drop from the index: see BlobStore.discard."""
        return await self._writing(self._writer.discard, list(damages))

    async def size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes; None when it is not here."""
        row = await self._on_index(ReadSide.row, digest)
        return row.size if row is not None else None

    async def read(self, digest: Digest) -> bytes | None:
        """A small blob, checked against its name; None when it is not here."""
        self._reads += 1
        try:
            return await self._on_index(ReadSide.blob, digest)
        except Rotten as rotten:
            self._on_damage(rotten.damage)
            raise

    async def stream(self, digest: Digest, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes [start, stop) of a blob."""
        row = await self._on_index(ReadSide.row, digest)
        if row is None:
            raise Corrupt(f"blob {digest.hex()} is not here")
        if not row.large:
            data = await self.read(digest)
            if data is None:  # discarded since it was looked up
                raise Corrupt(f"blob {digest.hex()} is not here")
            yield data[start:stop]
            return
        try:
            async with aclosing(self._verifications.file(row)) as waiting:
                async for found in waiting:
                    if found is None:
                        yield b""
                    else:
                        file = found
            for at in range(start - start % PIECE, stop, PIECE):
                self._reads += 1
                piece = await self._work(file.piece, at)
                yield piece[max(start - at, 0) : stop - at]
        except Rotten as rotten:
            self._on_damage(rotten.damage)
            raise

    async def verified(self, digest: Digest, seconds: float) -> bool:
        """See BlobStore.verified."""
        row = await self._on_index(ReadSide.row, digest)
        if row is None or not row.large:
            return True
        try:
            return await self._verifications.verified(row, seconds)
        except Rotten as rotten:
            self._on_damage(rotten.damage)
            raise

    @property
    def verifying(self) -> list[Verifying]:
        """The large blobs that are being verified."""
        return self._verifications.under_way

    async def run(self) -> None:
        """Drive verifications, until cancelled."""
        await self._verifications.run()

    def _was_read(self) -> None:
        self._reads += 1

    async def batch(self, digests: Sequence[Digest], most: int) -> list[Entry]:
        """Entries for the first of `digests`, until there are `most` bytes."""
        self._reads += 1
        entries, damages = await self._on_index(ReadSide.batch, digests[:_ENTRIES], most)
        for damage in damages:
            self._on_damage(damage)
        return entries

    async def listing(self, prefix: str, after: bytes, limit: int) -> list[tuple[Digest, int]]:
        """Digests and sizes below a prefix, ascending."""
        low, high = prefix_range(prefix)
        rows = await self._on_index(ReadSide.range, low, high, after, limit)
        return [(row.digest, row.size) for row in rows]

    async def snapshots(
        self, wanted: SnapshotFilter, before: tuple[str, Digest] | None, limit: int
    ) -> list[ListedSnapshot]:
        """The blobs that are snapshots, the newest first."""
        return await self._on_index(ReadSide.snapshots, wanted, before, limit)

    async def place(self, digest: Digest) -> Place | None:
        """Where a blob is stored."""
        return await self._on_index(ReadSide.place, digest)

    async def tree(self) -> Tree:
        """One ordered scan, which checks the index; it is rebuilt when it is not as written."""
        return await self._on_index(ReadSide.tree)

    async def scrub(self, cursor: Cursor, most: int) -> Scrubbed:
        """Check the next blobs in the order of the log, and before the first of them the index."""
        if cursor == Cursor():
            await self._on_index(ReadSide.check)
        rows = await self._on_index(
            ReadSide.placed, cursor.segment, cursor.offset, self._scrubbing.ROWS
        )
        scrubbed, damages = await self._scrubbing.step(rows, cursor, most)
        for damage in damages:
            self._on_damage(damage)
        return scrubbed

    async def note(self, name: str, value: bytes) -> None:
        """Keep a small value over restarts."""
        await self._writing(self._writer.note, name, value)

    async def noted(self, name: str) -> bytes | None:
        """What was kept under a name."""
        return await self._on_index(ReadSide.noted, name)

    @asynccontextmanager
    async def incoming(self) -> AsyncIterator[LargeIncoming]:
        """Take in a blob of unknown size."""
        arriving = LargeIncoming(self._files, f"tmp/{next(self._temporary)}", self._work)
        try:
            yield arriving
        finally:
            with anyio.CancelScope(shield=True):
                await arriving.drop()

    def resume(
        self, digest: Digest, bringer: Bringer
    ) -> AbstractAsyncContextManager[PartialFile | None]:
        """Go on with a large blob."""
        return self._partials.resume(digest, bringer)

    async def room(self, *, trial: bool) -> Room:
        """What the file system says, maybe after a small write."""
        return await self._work(tried if trial else room_of, self._files)

    async def partials(self) -> list[Kept]:
        """The blobs of which a part has come."""
        return await self._partials.kept()

    async def drop_partial(self, digest: Digest) -> None:
        """Forget what has come of a blob."""
        await self._partials.drop(digest)

    # --- lanes -------------------------------------------------------------------------------

    async def _on_index(
        self, method: Callable[Concatenate[ReadSide, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """A method of a ReadSide on its lane; once more if the index had to be rebuilt for it."""
        rebuilds = self._rebuilds
        try:
            async with self._reading() as (lane, side):
                return await lane(method, side, *args, **kwargs)
        except IndexDamaged as error:
            await self._rebuild(rebuilds, error)
        async with self._reading() as (lane, side):
            return await lane(method, side, *args, **kwargs)

    async def _writing(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A method of the writer on its lane; once more if the index had to be rebuilt for it."""
        if self._waiting is None:
            raise _not_open()
        rebuilds = self._rebuilds
        try:
            return await self._write_lane(method, *args, **kwargs)
        except IndexDamaged as error:
            await self._rebuild(rebuilds, error)
            return await self._write_lane(method, *args, **kwargs)
        finally:
            self._now_is()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[tuple[Offload, ReadSide]]:
        """A lane that nobody else uses meanwhile."""
        if self._waiting is None:
            raise _not_open()
        async with self._waiting:
            reader = self._free.pop()
            try:
                yield reader
            finally:
                self._free.append(reader)

    async def _rebuild(self, seen: int, error: IndexDamaged) -> None:
        """Make the index anew from the log, unless that was done since `seen`.

        Readers have connections to the old one: all of them stop meanwhile. When it fails, for
        want of room say, there is no index, and whoever asks next tries again.
        """
        with anyio.CancelScope(shield=True):
            async with self._repairing, AsyncExitStack() as stack:
                if self._rebuilds != seen:
                    return
                sides = [await stack.enter_async_context(self._reading()) for _ in self._lanes]
                for lane, side in sides:
                    await lane(side.close)
                await self._write_lane(self._writer.rebuild, error)
                for lane, side in sides:
                    await lane(side.open)
                self._rebuilds += 1
                self._now_is()
        self._on_rebuilt()


def _nobody(_damage: Damage) -> None:
    """Nobody watches."""


def _nothing() -> None:
    """Nobody watches."""


def _not_open() -> StoreError:
    return StoreError(
        "the store is not open: the node is starting or stopping; try again in a second"
    )
