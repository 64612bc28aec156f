"""The store on disk: segments and large files for the bytes, SQLite for where they are.

docs/design.md, "The store", says why. This module puts the parts together: the writer's side
runs on one lane (one thread), reads on a few others, each with an index connection of its own.
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import anyio

from mesh.core.digest import Digest
from mesh.core.tree import Tree, prefix_range
from mesh.errors import StoreError
from mesh.store.base import (
    Blob,
    Cursor,
    Damage,
    Entry,
    Item,
    Scrubbed,
    Totals,
    Wants,
)
from mesh.store.discard import judged
from mesh.store.faults import IndexDamaged, translated, unusable
from mesh.store.files import Files
from mesh.store.index import Index, Row
from mesh.store.large import LargeIncoming, StagedFile, publish, sweep, withdraw
from mesh.store.offload import Offload
from mesh.store.pieces import PIECE
from mesh.store.reading import Hashing, LargeFile, ReadSide, Rotten
from mesh.store.rebuild import DIRECTORIES, note, remove_index
from mesh.store.recovery import mark_is_beyond, recover, segments
from mesh.store.scrubbing import Scrubbing
from mesh.store.segments import BLOB, LARGE, LOST, SEGMENT_MAX, Record, SegmentWriter

log = logging.getLogger("mesh")

P = ParamSpec("P")
T = TypeVar("T")

# Index connections and threads for reading: one that a bulk transfer keeps busy, one that
# answers meanwhile. The machine's other work needs its cores too.
READERS = 2

# Digests looked up in the index at a time for a batch.
_LOOKUP = 256

# Wanted blobs that a status names; beyond that their number says enough.
_NAMED = 100


class DiskStore:
    """Blobs in a directory, through a file port and injected threads."""

    def __init__(
        self,
        files: Files,
        index: Path | None,
        lane: Callable[[str], Offload],
        work: Offload,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`index`: SQLite's file, None to keep it in memory (then there is one lane for all).

        `lane` makes a thread by name; `work` runs hashing and large blobs; `now` is the wall
        clock, which dates what is wanted and decides nothing.
        """
        self._files = files
        self._work = work
        self._writer = writer = _Writer(files, index, now)
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
        """Recover, and say in a line what was found and done."""
        self._free = list(self._lanes)
        self._waiting = anyio.Semaphore(len(self._lanes))
        note = await self._write_lane(self._writer.open)
        self._now_is()
        for lane, side in self._lanes:
            await lane(side.open)
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
            raise StoreError(f"blob {digest.hex()} is not here")
        if not row.large:
            data = await self.read(digest)
            if data is not None:
                yield data[start:stop]
            return
        try:
            file = await self._large(row)
            for at in range(start - start % PIECE, stop, PIECE):
                self._reads += 1
                piece = await self._work(file.piece, at)
                yield piece[max(start - at, 0) : stop - at]
        except Rotten as rotten:
            self._on_damage(rotten.damage)
            raise

    async def _large(self, row: Row) -> LargeFile:
        """A large blob's file with its sums; hashes the whole when they are not there."""
        file = await self._work(LargeFile, self._files, row)
        if file.sums is None:
            hashing = Hashing(file)
            while not await self._work(hashing.step):
                self._reads += 1
        return file

    async def batch(self, digests: Sequence[Digest], room: int) -> list[Entry]:
        """Entries for the first of `digests`, until `room` bytes are full."""
        self._reads += 1
        entries, damages = await self._on_index(ReadSide.batch, digests[:_LOOKUP], room)
        for damage in damages:
            self._on_damage(damage)
        return entries

    async def listing(self, prefix: str, after: bytes, limit: int) -> list[tuple[Digest, int]]:
        """Digests and sizes below a prefix, ascending."""
        low, high = prefix_range(prefix)
        rows = await self._on_index(ReadSide.range, low, high, after, limit)
        return [(row.digest, row.size) for row in rows]

    async def tree(self) -> Tree:
        """One ordered scan, which checks the index; it is rebuilt when it is not as written."""
        return await self._on_index(ReadSide.tree)

    async def scrub(self, cursor: Cursor, room: int) -> Scrubbed:
        """Check the next blobs in the order of the log, and before the first of them the index."""
        if cursor == Cursor():
            await self._on_index(ReadSide.check)
        rows = await self._on_index(
            ReadSide.placed, cursor.segment, cursor.offset, self._scrubbing.ROWS
        )
        scrubbed, damages = await self._scrubbing.step(rows, cursor, room)
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
            raise StoreError("the store is not open")
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


class _Writer:
    """All that is done on the writer's lane."""

    def __init__(self, files: Files, index: Path | None, now: Callable[[], float]) -> None:
        self._files = files
        self._path = index
        self._now = now
        self.index: Index | None = None
        self.totals = Totals(0, 0)
        self.wants = Wants(0, ())
        self._segment: SegmentWriter | None = None
        self._last = 0

    def open(self) -> str:
        with translated("cannot open the store"):
            for directory in DIRECTORIES:
                self._files.make_directory(directory)
            swept = sweep(self._files)
            why = self._open_index()
            found = recover(self._files, self._opened)
        self._last = max(self._last, found.last)
        self._count()
        return note(why, found, swept, self.totals.blobs)

    def rebuild(self, error: IndexDamaged) -> None:
        """The index, from the log, while the store is open."""
        log.error("%s; rebuilding it from the log", error)
        with translated("cannot rebuild the index"):
            self.close()
            if self._path is not None:
                remove_index(self._path)
            index = Index(self._name, write=True)
            try:
                found = recover(self._files, index)
            except BaseException:
                index.close()
                raise
            self.index = index
        self._last = max(self._last, found.last)
        self._count()
        log.warning("index: %s", note("rebuilt; ", found, 0, self.totals.blobs))

    @property
    def _opened(self) -> Index:
        if self.index is None:
            raise IndexDamaged("there is no index: rebuilding it has failed")
        return self.index

    @property
    def _name(self) -> str:
        return ":memory:" if self._path is None else str(self._path)

    def _open_index(self) -> str:
        """Open the index; throw it away when it is damaged or knows more than the log."""
        if self._path is None:
            self.index = Index(self._name, write=True)
            return ""
        missing = not self._path.exists()
        try:
            self.index = Index(self._name, write=True)
            if not mark_is_beyond(self._files, self.index):
                return "index was missing, rebuilt; " if missing and segments(self._files) else ""
            why = "index was newer than the log, rebuilt; "
            self.index.close()
        except sqlite3.DatabaseError as error:
            if not unusable(error):
                raise  # locked, or no room: nothing that a new index would cure
            why = f"index was damaged ({error}), rebuilt; "
        except IndexDamaged as error:
            why = f"index was damaged ({error}), rebuilt; "
        remove_index(self._path)
        self.index = Index(self._name, write=True)
        return why

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None
        if self.index is not None:
            self.index.close()
            self.index = None

    def _count(self) -> None:
        """Totals and wants as they are now."""
        with translated("cannot read the index"):
            state = self._opened.state()
            wants = Wants(*self._opened.wanted(_NAMED))
        self.totals, self.wants = Totals(state.blobs, state.bytes), wants

    def note(self, name: str, value: bytes) -> None:
        with translated("cannot keep a note"):
            self._opened.note(name, value)

    def commit(self, items: list[Item]) -> list[bool]:
        fresh: list[bool] = []
        with translated("cannot store"):
            new = self._opened.unknown([item.digest for item in items])
            for item in items:
                fresh.append(item.digest in new)
                new.discard(item.digest)
            chosen = [item for item, is_new in zip(items, fresh, strict=True) if is_new]
            if chosen:
                self._append(chosen)
        self._count()
        return fresh

    def discard(self, damages: list[Damage]) -> list[Digest]:
        """Those of the damaged that are not here any more."""
        with translated("cannot set aside what is damaged"):
            index = self._opened
            rows = {row.digest: row for row in index.find([each.digest for each in damages])}
            told = [d for d in damages if d.digest in rows or not index.is_wanted(d.digest)]
            found = judged(self._files, rows, told, self._now())
            records = [each.record for each in found if each.record is not None]
            written = self._log(records) if records else []
            number = self._segment.number if self._segment is not None else 0
            new = [Row(r.digest, number, r.offset, r.size) for r in written if r.kind != LOST]
            new += [each.moved for each in found if each.moved is not None]
            gone = [each.gone for each in found if each.gone is not None]
            wanted = [each.wanted for each in found if each.wanted is not None]
            state = index.state()
            mark = (number, self._segment.size) if written and self._segment else state[:2]
            index.change(new, gone, wanted, *mark)
            known = {row.digest for row in index.find([each.digest for each in damages])}
        self._count()
        return [each.digest for each in damages if each.digest not in known]

    def _append(self, items: list[Item]) -> None:
        staged = [item for item in items if isinstance(item, StagedFile)]
        try:
            publish(self._files, staged)
            records = self._log([_record(item) for item in items])
        except OSError:
            withdraw(self._files, staged)
            raise
        segment = self._current()
        rows = [Row(each.digest, segment.number, each.offset, each.size) for each in records]
        self._opened.add(rows, segment.number, segment.size)

    def _log(self, records: Sequence[tuple[int, Digest, int, bytes]]) -> list[Record]:
        segment = self._current()
        # Sealed until it has proved itself: neither the tail of a failed append nor a second
        # fsync of the same file can be trusted.
        self._segment = None
        written = segment.append(records)
        self._segment = segment
        return written

    def _current(self) -> SegmentWriter:
        if self._segment is not None and self._segment.size >= SEGMENT_MAX:
            full, self._segment = self._segment, None
            full.close()
        while self._segment is None:
            # A number is used once, also when making the segment failed half-way, or when
            # somebody else has put something there.
            self._last += 1
            with suppress(FileExistsError):
                self._segment = SegmentWriter(self._files, self._last)
        return self._segment


def _record(item: Item) -> tuple[int, Digest, int, bytes]:
    if isinstance(item, Blob):
        return BLOB, item.digest, item.size, item.data
    return LARGE, item.digest, item.size, b""


def _nobody(_damage: Damage) -> None:
    """Nobody watches."""


def _nothing() -> None:
    """Nobody watches."""
