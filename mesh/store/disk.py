"""The store on disk: segments and large files for the bytes, SQLite for where they are.

docs/design.md, "The store", says why. This module puts the parts together: the writer's side
runs on one lane (one thread), reads on a few others, each with an index connection of its own.
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import anyio

from mesh.core.digest import Digest, digest_of
from mesh.core.partial import Kept, Source
from mesh.core.plan import LARGE_BLOB
from mesh.core.tree import Tree, prefix_range
from mesh.errors import Corrupt, Full, ReadOnly, StoreError, one_line
from mesh.store.base import Blob, Entry, Item, Room, Totals
from mesh.store.faults import is_damage, translated
from mesh.store.files import Files, Reader
from mesh.store.index import Index, Row
from mesh.store.large import PARTIAL, LargeIncoming, StagedFile, publish, sweep, withdraw
from mesh.store.offload import Offload
from mesh.store.partial import PartialFile, Partials, tidy
from mesh.store.readonly import Lenient, index_in_memory, room_of, tried
from mesh.store.recovery import Found, large_name, mark_is_beyond, recover, segments
from mesh.store.segments import (
    BLOB,
    LARGE,
    RECORD_HEADER,
    SEGMENT_MAX,
    Record,
    SegmentWriter,
    segment_name,
)
from mesh.store.strangers import strangers

log = logging.getLogger("mesh")

# Index connections and threads for reading: one that a bulk transfer keeps busy, one that
# answers meanwhile. The machine's other work needs its cores too.
READERS = 2

# Segments kept open for reading. A descriptor each; the usual limit is 1,024 a process.
_OPEN_SEGMENTS = 128

# A large blob is read in pieces of this size: big enough that the thread's round trip (some
# 50 µs) vanishes beside it, small enough that fifty slow readers hold 25 MB.
_PIECE = 512 * 1024

# Digests looked up in the index at a time for a batch.
_LOOKUP = 256


class DiskStore:
    """Blobs in a directory, through a file port and injected threads."""

    def __init__(
        self, files: Files, index: Path | None, lane: Callable[[str], Offload], work: Offload
    ) -> None:
        """`index`: SQLite's file, None to keep it in memory (then there is one lane for all).

        `lane` makes a thread by name; `work` runs hashing and writing of large blobs.
        """
        self._files = files
        self._index = index
        self._work = work
        self._writer = _Writer(files, index)
        self._write_lane = lane("store-write")
        self._lanes: list[tuple[Offload, _ReadSide]] = []
        if index is None:
            self._lanes.append((self._write_lane, _ReadSide(files, None, self._writer)))
        else:
            for number in range(READERS):
                self._lanes.append((lane(f"store-read-{number}"), _ReadSide(files, index, None)))
        self._free: list[tuple[Offload, _ReadSide]] = []
        self._waiting: anyio.Semaphore | None = None
        self._totals = Totals(0, 0)
        self._temporary = itertools.count(1)
        self._partials = Partials(files, work)

    @property
    def totals(self) -> Totals:
        """How much there is; known once the store is open."""
        return self._totals

    async def open(self) -> str:
        """Recover, and say in a line what was found and done."""
        self._free = list(self._lanes)
        self._waiting = anyio.Semaphore(len(self._lanes))
        note, self._totals = await self._write_lane(self._writer.open)
        if self._writer.in_memory and self._index is not None:
            # The index on the disk cannot be used: all go to the one that the writer has.
            for lane, _ in self._lanes:
                lane.close()
            self._lanes = [(self._write_lane, _ReadSide(self._files, None, self._writer))]
            self._free, self._waiting = list(self._lanes), anyio.Semaphore(1)
        for lane, side in self._lanes:
            await lane(side.open)
        return note

    async def close(self) -> None:
        """Close every connection on its own thread, then the threads."""
        for lane, side in self._lanes:
            await lane(side.close)
        await self._write_lane(self._writer.close)
        for lane in {self._write_lane, *(lane for lane, _ in self._lanes)}:
            lane.close()

    async def commit(self, items: Sequence[Item]) -> list[bool]:
        """Append, sync, index: see BlobStore.commit."""
        try:
            fresh, self._totals = await self._write_lane(self._writer.commit, list(items))
        finally:
            self._partials.committed(items)
        return fresh

    async def size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes; None when it is not here."""
        async with self._reading() as (lane, side):
            row = await lane(side.row, digest)
        return row.size if row is not None else None

    async def read(self, digest: Digest) -> bytes | None:
        """A small blob, checked against its name; None when it is not here."""
        async with self._reading() as (lane, side):
            return await lane(side.blob, digest)

    async def stream(self, digest: Digest, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes [start, stop) of a blob."""
        async with self._reading() as (lane, side):
            row = await lane(side.row, digest)
        if row is None:
            raise StoreError(f"blob {digest.hex()} is not here")
        if row.segment:
            data = await self.read(digest)
            if data is not None:
                yield data[start:stop]
            return
        file = await self._work(self._open_large, row)
        while start < stop:
            piece = await self._work(_piece, file, digest, start, min(_PIECE, stop - start))
            if not piece:
                raise Corrupt(f"blob {digest.hex()} ends at {start} of {row.size} bytes")
            start += len(piece)
            yield piece

    def _open_large(self, row: Row) -> Reader:
        with translated(f"cannot read blob {row.digest.hex()}"):
            return self._files.open(large_name(row.digest))

    async def batch(self, digests: Sequence[Digest], room: int) -> list[Entry]:
        """Entries for the first of `digests`, until `room` bytes are full."""
        async with self._reading() as (lane, side):
            return await lane(side.batch, digests[:_LOOKUP], room)

    async def listing(self, prefix: str, after: bytes, limit: int) -> list[tuple[Digest, int]]:
        """Digests and sizes below a prefix, ascending."""
        low, high = prefix_range(prefix)
        async with self._reading() as (lane, side):
            rows = await lane(side.range, low, high, after, limit)
        return [(row.digest, row.size) for row in rows]

    async def tree(self) -> Tree:
        """One ordered scan, on a reader's thread; its root is computed there too."""
        async with self._reading() as (lane, side):
            return await lane(side.tree)

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
        self, digest: Digest, source: Source
    ) -> AbstractAsyncContextManager[PartialFile | None]:
        """Go on with a large blob."""
        return self._partials.resume(digest, source)

    async def room(self, *, trial: bool) -> Room:
        """What the file system says, maybe after a small write."""
        return await self._work(tried if trial else room_of, self._files)

    async def partials(self) -> list[Kept]:
        """The blobs of which a part has come."""
        return await self._partials.kept()

    async def drop_partial(self, digest: Digest) -> None:
        """Forget what has come of a blob."""
        await self._partials.drop(digest)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[tuple[Offload, _ReadSide]]:
        """A lane that nobody else uses meanwhile."""
        if self._waiting is None:
            raise StoreError("the store is not open")
        async with self._waiting:
            reader = self._free.pop()
            try:
                yield reader
            finally:
                self._free.append(reader)


class _Writer:
    """All that is done on the writer's lane."""

    def __init__(self, files: Files, index: Path | None) -> None:
        self._files = files
        self._path = index
        self.index: Index | None = None
        self._segment: SegmentWriter | None = None
        self._settled: set[str] = set()
        self._last = 0
        self.in_memory = index is None

    def open(self) -> tuple[str, Totals]:
        try:
            with translated("cannot open the store"):
                return self._recovered(self._files, self._open_index)
        except StoreError as error:
            if not self._unwritable(error):
                raise
            log.error("%s; reading goes on with an index in memory", one_line(error))
        self.close()
        self.in_memory = True
        with translated("cannot open the store"):
            note, totals = self._recovered(Lenient(self._files), self._open_in_memory)
        return f"the disk takes no writes; {note}", totals

    def _unwritable(self, error: StoreError) -> bool:
        """Whether a start failed because the disk takes no writes; SQLite does not always say."""
        if isinstance(error, Full | ReadOnly):
            return True
        try:
            tried(self._files)
        except StoreError as met:
            return isinstance(met, Full | ReadOnly)
        return False

    def _recovered(self, files: Files, open_index: Callable[[], str]) -> tuple[str, Totals]:
        for directory in ("segments", "large", "tmp", PARTIAL):
            files.make_directory(directory)
        swept = sweep(files)
        why = open_index()
        found = recover(files, self._opened)
        tidy(files, self._opened)
        self._last = found.last
        if foreign := strangers(files):
            log.warning("%s", foreign)
        state = self._opened.state()
        return _note(why, found, swept, state.blobs), Totals(state.blobs, state.bytes)

    def _open_in_memory(self) -> str:
        self.index = index_in_memory(self._path)
        if mark_is_beyond(Lenient(self._files), self.index):
            self.index.close()
            self.index = index_in_memory(None)
        return ""

    @property
    def _opened(self) -> Index:
        if self.index is None:
            raise StoreError("the store is not open")
        return self.index

    def _open_index(self) -> str:
        """Open the index; throw it away when it is damaged or knows more than the log."""
        if self._path is None:
            self.index = Index(":memory:", write=True)
            return ""
        missing = not self._path.exists()
        try:
            self.index = Index(str(self._path), write=True)
            if not mark_is_beyond(self._files, self.index):
                return "index was missing, rebuilt; " if missing and segments(self._files) else ""
            why = "index was newer than the log, rebuilt; "
            self.index.close()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise  # locked, or no room: nothing that a new index would cure
            why = f"index was damaged ({error}), rebuilt; "
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        self.index = Index(str(self._path), write=True)
        return why

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None
        if self.index is not None:
            self.index.close()
            self.index = None

    def commit(self, items: list[Item]) -> tuple[list[bool], Totals]:
        fresh: list[bool] = []
        with translated("cannot store"):
            new = self._opened.unknown([item.digest for item in items])
            for item in items:
                fresh.append(item.digest in new)
                new.discard(item.digest)
            chosen = [item for item, is_new in zip(items, fresh, strict=True) if is_new]
            if chosen:
                self._append(chosen)
            state = self._opened.state()
        return fresh, Totals(state.blobs, state.bytes)

    def _append(self, items: list[Item]) -> None:
        staged = [item for item in items if isinstance(item, StagedFile)]
        try:
            publish(self._files, staged, self._settled)
            segment = self._current()
            # Sealed until it has proved itself: neither the tail of a failed append nor a second
            # fsync of the same file can be trusted.
            self._segment = None
            records = segment.append([_record(item) for item in items])
            self._segment = segment
        except OSError:
            withdraw(self._files, staged)
            raise
        rows = [_row(record, segment.number) for record in records]
        self._opened.add(rows, segment.number, segment.size)

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


def _row(record: Record, segment: int) -> Row:
    number = 0 if record.kind == LARGE else segment
    return Row(record.digest, number, record.offset, record.size)


class _ReadSide:
    """All that is done on a reader's lane."""

    def __init__(self, files: Files, path: Path | None, shared: _Writer | None) -> None:
        self._files = files
        self._path = path
        self._shared = shared
        self._own: Index | None = None
        self._segments: dict[int, Reader] = {}

    def open(self) -> None:
        if self._path is not None:
            self._own = Index(str(self._path), write=False)

    def close(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None
        self._segments.clear()

    @property
    def _index(self) -> Index:
        index = self._own if self._shared is None else self._shared.index
        if index is None:
            raise StoreError("the store is not open")
        return index

    def row(self, digest: Digest) -> Row | None:
        with translated("cannot look up a blob"):
            return next(self._index.find([digest]), None)

    def blob(self, digest: Digest) -> bytes | None:
        row = self.row(digest)
        if row is None:
            return None
        with translated(f"cannot read blob {digest.hex()}"):
            data = self._bytes(row)
        if digest_of(data) != digest:
            log.error("%s", _damaged(row))
            raise _damaged(row)
        return data

    def batch(self, digests: Sequence[Digest], room: int) -> list[Entry]:
        with translated("cannot read a batch"):
            rows = {row.digest: row for row in self._index.find(digests)}
            entries: list[Entry] = []
            for digest in digests:
                row = rows.get(digest)
                if row is None or row.size >= LARGE_BLOB:
                    entries.append(Entry(digest, row.size if row else None, None))
                    continue
                if entries and row.size > room:
                    break
                entries.append(self._entry(row))
                room -= row.size
        return entries

    def _entry(self, row: Row) -> Entry:
        """A blob of a batch; one that is damaged is as good as absent, and said."""
        data = self._bytes(row)
        if digest_of(data) == row.digest:
            return Entry(row.digest, row.size, data)
        log.error("%s", _damaged(row))
        return Entry(row.digest, None, None)

    def range(self, low: bytes, high: bytes | None, after: bytes, limit: int) -> list[Row]:
        with translated("cannot list blobs"):
            return self._index.range(low, high, after, limit)

    def tree(self) -> Tree:
        with translated("cannot build the tree"):
            tree = Tree.from_sorted(self._index.digests())
        _ = tree.root  # computed here and kept by the tree, so that the event loop need not
        return tree

    def _bytes(self, row: Row) -> bytes:
        segment = self._segments.get(row.segment)
        if segment is None:
            while len(self._segments) >= _OPEN_SEGMENTS:
                del self._segments[next(iter(self._segments))]
            segment = self._segments[row.segment] = self._files.open(segment_name(row.segment))
        return segment.read_at(row.offset + RECORD_HEADER, row.size)


def _damaged(row: Row) -> Corrupt:
    where = f"{segment_name(row.segment)} at {row.offset}"
    return Corrupt(f"blob {row.digest.hex()} is damaged in {where}")


def _piece(file: Reader, digest: Digest, start: int, length: int) -> bytes:
    with translated(f"cannot read blob {digest.hex()}"):
        return file.read_at(start, length)


def _note(why: str, found: Found, swept: int, blobs: int) -> str:
    """What a start found and did, in a line."""
    parts = [f"{blobs} blobs"]
    if found.adopted:
        parts.append(f"{found.adopted} adopted from the log")
    if found.cut:
        parts.append(f"{found.cut} bytes of an unfinished write cut")
    if found.damaged:
        parts.append(f"{found.damaged} damaged bytes left where they are")
    if swept:
        parts.append(f"{swept} unfinished uploads removed")
    return why + ", ".join(parts)
