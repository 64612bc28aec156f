"""Checking a data directory without changing it: the log, the index, and how they fit.

For a store that nobody has open. What a start would put right by itself is not a problem.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

from mesh.core.digest import DIGEST_SIZE
from mesh.errors import StoreError
from mesh.store.base import Totals
from mesh.store.care.discard import ASIDE_BYTES
from mesh.store.faults import IndexDamaged, translated, unusable
from mesh.store.files import Files
from mesh.store.large.pieces import PIECE
from mesh.store.log.index import Index, Row
from mesh.store.log.recovery import NEWER, segments, stands, unfit
from mesh.store.log.segments import (
    LOST,
    RECORD_HEADER,
    SEGMENT_HEADER,
    Bad,
    Record,
    scan,
    segment_name,
)
from mesh.store.reading import Hashing, LargeFile, Records, Rotten

# Rows looked at between two reports of how far it is.
_ROWS = 1024

# Bytes that are read from one of them to the next: some milliseconds.
_TELL = 1024 * 1024

# More wanted blobs than anybody reads one by one.
_WANTED = 1000


class Finding(NamedTuple):
    """Something that a check came upon; `problem`: what is wrong and a start does not cure."""

    text: str
    problem: bool


class Step(StrEnum):
    """What a check does, in this order; READ only where the data is read, RECORDS elsewhere."""

    INDEX = "checking the index"
    RECORDS = "checking records"
    READ = "reading blobs"
    LOG = "reading the log"


class Looked(NamedTuple):
    """How far a step is: blobs (not in LOG) and bytes (not in INDEX), and of how many.

    In RECORDS the bytes are those of the blobs whose records were checked; they were not read.
    """

    step: Step
    blobs: int | None = None
    total: int | None = None
    bytes: int | None = None
    total_bytes: int | None = None


Told: TypeAlias = Callable[[Looked], None]


def check(files: Files, path: Path, told: Told, *, read_data: bool) -> Iterator[Finding]:
    """Look at every blob of the index: its record, and with `read_data` all its bytes.

    With `read_data` the log is read as well, for records that the index does not have. `told` hears
    how far it is, some hundred times a second and at the end of each step.
    """
    index, why = _opened(path)
    if index is None:
        yield Finding(f"the index {why}; a start, or `mesh store rebuild`, makes it anew", True)
        return
    try:
        with translated("cannot check the store"):
            yield from _check(files, index, told, read_data=read_data)
    finally:
        index.close()


def _check(files: Files, index: Index, told: Told, *, read_data: bool) -> Iterator[Finding]:
    try:
        seen = 0
        total = index.state().blobs
        for digests in index.digests():
            seen += len(digests) // DIGEST_SIZE
            told(Looked(Step.INDEX, seen, total))
    except IndexDamaged as error:
        yield Finding(f"the index is damaged: {error}; `mesh store rebuild` makes it anew", True)
        return
    if what := unfit(files, index):
        more = "knows more than the log holds" if what == NEWER else f"is {what}"
        yield Finding(f"the index {more}; a start makes it anew", True)
        return
    yield from _rows(files, index, told, read_data=read_data)
    if read_data:
        yield from _log(files, index, told)
    total, wanted = index.wanted(_WANTED)
    for each in wanted:
        yield Finding(f"blob {each.digest.hex()} is wanted: {each.reason}", True)
    if total > len(wanted):
        yield Finding(f"{total - len(wanted)} more blobs are wanted", True)


def _opened(path: Path) -> tuple[Index | None, str]:
    """The index for reading, or why there is none."""
    if not path.exists():
        return None, "is missing"
    try:
        index = Index(str(path), write=False)
        try:
            index.state()
        except BaseException:
            index.close()
            raise
    except IndexDamaged as error:
        return None, f"is damaged: {error}"
    except sqlite3.DatabaseError as error:
        if unusable(error):
            return None, f"is damaged: {error}"
        raise StoreError(f"cannot read the index {path}: {error}") from error
    return index, ""


class _Count:
    """Counts the blobs that are looked at, and tells."""

    def __init__(self, told: Told, index: Index, *, read_data: bool) -> None:
        self._told = told
        _, self.total, self._total_bytes, _ = index.state()
        self._step = Step.READ if read_data else Step.RECORDS
        self.blobs = 0
        self._bytes = 0
        # Where the blob that is being looked at began, and when to tell again.
        self._before = 0
        self._due = _TELL

    def read(self, size: int) -> None:
        """So many more bytes of the blob were read."""
        self._bytes += size
        if self._bytes >= self._due:
            self.tell()

    def blob(self, size: int) -> None:
        """The blob was looked at, whatever could be read of it."""
        self.blobs += 1
        self._before += size
        self._bytes = self._before
        self.read(0)

    def tell(self) -> None:
        """How far it is."""
        self._due = self._bytes + _TELL
        self._told(Looked(self._step, self.blobs, self.total, self._bytes, self._total_bytes))


def _rows(files: Files, index: Index, told: Told, *, read_data: bool) -> Iterator[Finding]:
    records = Records(files)
    count = _Count(told, index, read_data=read_data)
    segment = offset = 0
    while rows := index.placed(segment, offset, _ROWS):
        for row in rows:
            wrong = _wrong(files, records, row, count, read_data=read_data)
            if wrong is not None:
                yield Finding(f"blob {row.digest.hex()}: {wrong}", True)
            count.blob(row.size)
        segment, offset = rows[-1].segment, rows[-1].offset + 1
        count.tell()
    if count.blobs != count.total:
        yield Finding("the index is damaged: its places are not those of its blobs", True)


def _wrong(
    files: Files, records: Records, row: Row, count: _Count, *, read_data: bool
) -> str | None:
    """What is wrong with one blob. Without its data: with its record, and its file's size."""
    damage = records.damage(row, body=read_data)
    if damage is not None:
        return damage.reason
    if row.large:
        try:
            file = LargeFile(files, row)
            if read_data:
                _read(file, count)
        except Rotten as rotten:
            return rotten.damage.reason
    return None


def _read(file: LargeFile, count: _Count) -> None:
    """All pieces against their sums, or the whole against its name. Raises Rotten."""
    if file.sums is None:
        hashing = Hashing(file, keep=False)
        done = False
        while not done:
            before = hashing.at
            done = hashing.step()
            count.read(hashing.at - before)
        return
    for at in range(0, file.row.size, PIECE):
        file.piece(at)
        count.read(min(PIECE, file.row.size - at))


def _log(files: Files, index: Index, told: Told) -> Iterator[Finding]:
    """What stands in the log and is not in the index."""
    mark = index.state().mark
    sizes = segments(files)
    total, before = sum(sizes.values()), 0
    for number in sorted(sizes):
        behind = (number, sizes[number]) > (mark.segment, mark.offset)
        segment = files.open(segment_name(number))
        for piece in scan(segment, SEGMENT_HEADER, partial(stands, files)):
            if isinstance(piece, Bad):
                yield Finding(_bad(number, piece), False)
            elif not behind and _is_missing(index, piece):
                where = f"{segment_name(number)} at {piece.offset}"
                what = f"blob {piece.digest.hex()} in {where} is not in the index"
                yield Finding(f"{what}; `mesh store rebuild` adopts it", True)
            told(Looked(Step.LOG, bytes=before + piece.end, total_bytes=total))
        before += sizes[number]
        if behind:
            yield Finding(f"{segment_name(number)}: its end is indexed by the next start", False)


def _is_missing(index: Index, record: Record) -> bool:
    """A large blob's record may outlive its file, and any record its blob's loss."""
    known = next(index.find([record.digest]), None) is not None
    return record.kind != LOST and not known and not index.is_wanted(record.digest)


def _bad(number: int, piece: Bad) -> str:
    return f"{segment_name(number)}: damaged from {piece.offset} to {piece.end}; left as it is"


# --- numbers -----------------------------------------------------------------------------------


class StoreStats(NamedTuple):
    """What a data directory holds; sizes in bytes. `dead`: in the log and of no blob any more."""

    blobs: int
    bytes: int
    segments: int
    segment_bytes: int
    dead: int
    large: int
    large_bytes: int
    aside: int
    aside_bytes: int
    aside_most: int
    wanted: int
    index_bytes: int


def stats(files: Files, path: Path) -> StoreStats:
    """Count; StoreError when the index has to be rebuilt first."""
    index, why = _opened(path)
    if index is None:
        raise StoreError(f"the index {why}; run `mesh store rebuild` first")
    try:
        with translated("cannot count"):
            return _stats(files, index, path)
    finally:
        index.close()


def _stats(files: Files, index: Index, path: Path) -> StoreStats:
    totals = Totals(*index.state()[1:3])
    large, large_bytes = index.large()
    sizes = segments(files)
    aside: list[int] = []
    with suppress(FileNotFoundError):  # no node has run on it since there is such a directory
        aside = [entry.size for entry in files.list("damaged") if entry.regular]
    small = totals.bytes - large_bytes
    alive = small + totals.blobs * RECORD_HEADER + len(sizes) * SEGMENT_HEADER
    return StoreStats(
        blobs=totals.blobs,
        bytes=totals.bytes,
        segments=len(sizes),
        segment_bytes=sum(sizes.values()),
        dead=max(0, sum(sizes.values()) - alive),
        large=large,
        large_bytes=large_bytes,
        aside=len(aside),
        aside_bytes=sum(aside),
        aside_most=ASIDE_BYTES,
        wanted=index.wanted(0)[0],
        index_bytes=path.stat().st_size,
    )
