"""The writer's side of the store on disk: all that is done on its lane, one call at a time."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from mesh.core.digest import Digest
from mesh.core.snapshot import may_be_snapshot
from mesh.errors import Full, ReadOnly, StoreError, one_line
from mesh.store.base import Blob, Damage, Item, Totals, Wanted, Wants
from mesh.store.care.discard import reexamine_all
from mesh.store.care.readonly import Lenient, index_in_memory, tried
from mesh.store.care.rebuild import check_index_files, is_good, note, remove_index, unfinished
from mesh.store.care.salvage import losses, salvage
from mesh.store.care.strangers import strangers
from mesh.store.care.upgrade import upgrade
from mesh.store.faults import IndexDamaged, translated, unusable
from mesh.store.files import Files
from mesh.store.large.partial import tidy
from mesh.store.large.staged import StagedFile, publish, sweep, withdraw
from mesh.store.layout import DIRECTORIES
from mesh.store.log.index import Index, Mark, Row
from mesh.store.log.recovery import NOWHERE, is_of_this_log, recover, segments, stands, unfit
from mesh.store.log.segments import BLOB, LARGE, LOST, SEGMENT_MAX, Record, SegmentWriter
from mesh.store.log.times import Since

log = logging.getLogger("mesh")

# Wanted blobs that a status names; beyond that their number says enough.
_NAMED = 100


class Writer:
    """All that is done on the writer's lane."""

    def __init__(
        self,
        files: Files,
        index: Path | None,
        now: Callable[[], float],
        segment_bytes: int = SEGMENT_MAX,
    ) -> None:
        self._files = files
        self._most = segment_bytes
        self._path = index
        self._now = now
        self.index: Index | None = None
        self.totals = Totals(0, 0)
        self.wants = Wants(0, ())
        self._segment: SegmentWriter | None = None
        self._settled: set[str] = set()
        self._last = 0
        self._acknowledged = NOWHERE
        self.in_memory = index is None

    def open(self) -> str:
        try:
            return self._open_on_disk()
        except StoreError as error:
            if not self._unwritable(error):
                raise
            log.error("%s; reading goes on with an index in memory", one_line(error))
        self.close()
        self.in_memory = True
        with translated("cannot open the store", self._path):
            return f"the disk takes no writes; {self._open_in_memory()}"

    def _open_on_disk(self) -> str:
        """The index may look well, and a page of it may turn out to be none as it is used."""
        with translated("cannot open the store", self._path):
            try:
                # SQLite's own words for a broken page become IndexDamaged here, too.
                with translated("cannot open the store", self._path):
                    return self._recovered(self._files, self._open_index)
            except IndexDamaged as error:
                if self._path is None:
                    raise
                log.error("%s; making it anew from the log", error)
                self.close()
                self._give_up(self._path)
                return self._recovered(self._files, self._open_index)

    def _open_in_memory(self) -> str:
        files = Lenient(self._files)
        try:
            return self._recovered(files, self._load)
        except IndexDamaged as error:
            log.error("%s; making one in memory from the log", error)
            self.close()
            return self._recovered(files, self._load_nothing)

    def _unwritable(self, error: StoreError) -> bool:
        """Whether a start failed because the disk takes no writes; SQLite does not always say."""
        if isinstance(error, Full | ReadOnly):
            return True
        try:
            tried(self._files)
        except StoreError as met:
            return isinstance(met, Full | ReadOnly)
        return False

    def _recovered(self, files: Files, open_index: Callable[[], str]) -> str:
        for directory in DIRECTORIES:
            files.make_directory(directory)
        swept = sweep(files)
        why = open_index()
        if self._opened.outdated:
            upgrade(files, self._opened)
        found = recover(files, self._opened, acknowledged=self._acknowledged)
        self._acknowledged = self._opened.state().mark
        tidy(files, self._opened)
        self._last = max(self._last, found.last)
        if foreign := strangers(files):
            log.warning("%s", foreign)
        self._count()
        return note(why, found, swept, self.totals.blobs)

    def rebuild(self, error: IndexDamaged) -> None:
        """The index, from the log, while the store is open."""
        log.error("%s; rebuilding it from the log", error)
        with translated("cannot rebuild the index", self._path):
            self.close()
            if self._path is not None and not self.in_memory:
                self._give_up(self._path)
            index = Index(":memory:" if self.in_memory else self._name, write=True)
            try:
                files = Lenient(self._files) if self.in_memory else self._files
                found = recover(files, index, acknowledged=self._acknowledged)
            except BaseException:
                index.close()
                raise
            self.index = index
        self._last = max(self._last, found.last)
        self._count()
        log.warning("index: %s", note("rebuilt; ", found, 0, self.totals.blobs))

    def _give_up(self, path: Path) -> None:
        """Remove a damaged index, after what it alone knows was kept, as far as it can be read.

        What cannot be read of it is in the tree of a running node, whose owner compares (Keeper).
        """
        broken = suppress(sqlite3.DatabaseError, IndexDamaged)
        with broken, closing(Index(str(path), write=False)) as old:
            salvage(self._files, old, trusted=False)
        remove_index(path)

    def _load_nothing(self) -> str:
        self.index = index_in_memory(None)
        return ""

    def _load(self) -> str:
        self.index = index_in_memory(self._path)
        files = Lenient(self._files)
        if unfit(files, self.index):
            lost: list[Wanted] = []
            if is_of_this_log(files, self.index):
                lost = losses(files, self.index)
            self.index.close()
            self.index = index_in_memory(None)
            self.index.change((), (), lost, NOWHERE)
        return ""

    @property
    def _opened(self) -> Index:
        if self.index is None:
            raise IndexDamaged("there is no index: rebuilding it has failed")
        return self.index

    @property
    def _name(self) -> str:
        return ":memory:" if self._path is None else str(self._path)

    def _open_index(self) -> str:
        """Open the index; throw it away when it is damaged, or not one of this log."""
        if self._path is None:
            self.index = Index(self._name, write=True)
            return ""
        check_index_files(self._path)
        with suppress(OSError):  # what a rebuild left that was killed; a directory is nobody's
            remove_index(unfinished(self._path))
        missing = not self._path.exists()
        try:
            self.index = Index(self._name, write=True)
            what = unfit(self._files, self.index)
            if not what:
                return "index was missing, rebuilt; " if missing and segments(self._files) else ""
            why = f"index was {what}, rebuilt; "
            if is_of_this_log(self._files, self.index):
                self._keep_what_is_known(self.index)
            self._close_index()
            remove_index(self._path)
        except sqlite3.DatabaseError as error:
            if not unusable(error):
                raise  # locked, or no room: nothing that a new index would cure
            why = self._unusable(self._path, error)
        except IndexDamaged as error:
            why = self._unusable(self._path, error)
        self.index = Index(self._name, write=True)
        return why

    def _unusable(self, path: Path, error: Exception) -> str:
        self._close_index()
        self._give_up(path)
        return f"index was damaged ({error}), rebuilt; "

    def _keep_what_is_known(self, index: Index) -> None:
        """An index knows of what the log does not tell: all of that was acknowledged."""
        self._acknowledged = index.state().mark
        salvage(self._files, index, trusted=is_good(index))

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None
        self._close_index()

    def _close_index(self) -> None:
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
            if len(chosen) < len(items):
                # What is here already is acknowledged again: only while its directory is there.
                self._files.check()
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
            found = reexamine_all(self._files, rows, told, self._now())
            records = [each.record for each in found if each.record is not None]
            mark = index.state().mark
            written: list[Record] = []
            if records:
                segment, written = self._log(records)
                mark = _mark(segment)
            new = [Row(r.digest, mark.segment, r.offset, r.size) for r in written if r.kind != LOST]
            new += [each.moved for each in found if each.moved is not None]
            gone = [each.gone for each in found if each.gone is not None]
            wanted = [each.wanted for each in found if each.wanted is not None]
            since = Since(mark.segment, written[0].offset, None) if written else None
            index.change(new, gone, wanted, mark, since=since)
            known = {row.digest for row in index.find([each.digest for each in damages])}
        self._count()
        return [each.digest for each in damages if each.digest not in known]

    def _append(self, items: list[Item]) -> None:
        staged = [item for item in items if isinstance(item, StagedFile)]
        # A file that is there without a row may be of a blob that was acknowledged, and that the
        # index has lost: whatever becomes of this commit, that file stays.
        fresh = [item for item in staged if not stands(self._files, item.digest)]
        try:
            publish(self._files, staged, self._settled)
            segment, records = self._log([_record(item) for item in items])
        except OSError:
            withdraw(self._files, fresh)
            raise
        rows = [Row(each.digest, segment.number, each.offset, each.size) for each in records]
        small = [item for item in items if isinstance(item, Blob)]
        snapshots = [(each.digest, each.data) for each in small if may_be_snapshot(each.data)]
        since = Since(segment.number, records[0].offset, self._now())
        self._opened.add(rows, _mark(segment), snapshots, since)

    def _log(
        self, records: Sequence[tuple[int, Digest, int, bytes]]
    ) -> tuple[SegmentWriter, list[Record]]:
        """Append and sync; the segment that has them, which may be full now, and where they are."""
        segment = self._current()
        # Sealed until it has proved itself: neither the tail of a failed append nor a second
        # fsync of the same file can be trusted.
        self._segment = None
        written = segment.append(records)
        self._segment = segment
        self._acknowledged = _mark(segment)
        return segment, written

    def _current(self) -> SegmentWriter:
        if self._segment is not None and self._segment.size >= self._most:
            full, self._segment = self._segment, None
            full.close()
        while self._segment is None:
            # A number is used once, also when making the segment failed half-way, or when
            # somebody else has put something there.
            self._last += 1
            with suppress(FileExistsError):
                self._segment = SegmentWriter(self._files, self._last)
        return self._segment


def _mark(segment: SegmentWriter) -> Mark:
    """Everything in the log up to here."""
    return Mark(segment.number, segment.size, segment.salt)


def _record(item: Item) -> tuple[int, Digest, int, bytes]:
    if isinstance(item, Blob):
        return BLOB, item.digest, item.size, item.data
    return LARGE, item.digest, item.size, b""
