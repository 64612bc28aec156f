"""From the log to the index: adopt what the index does not know, cut what a crash left behind.

Used at every start for the tail behind the mark, and for everything when the index is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from mesh.core.digest import Digest, digest_of
from mesh.decoding import json_of
from mesh.errors import Undecodable
from mesh.store.base import Wanted
from mesh.store.faults import means_damage
from mesh.store.files import Files, Reader
from mesh.store.log.index import Index, Row
from mesh.store.log.segments import (
    LOST,
    RECORD_HEADER,
    SEGMENT_HEADER,
    Bad,
    Record,
    read_salt,
    scan,
    segment_name,
    segment_number,
)

log = logging.getLogger("mesh")

# Rows of one transaction while adopting: a rebuild of millions makes progress that stays.
_ADOPT = 4096


class Loss(msgspec.Struct, frozen=True):
    """What follows the header of a LOST record, as JSON."""

    reason: str
    since: float


class Found(NamedTuple):
    """What recovery did: records adopted, bytes cut off the end, bytes set aside as damaged."""

    adopted: int
    cut: int
    damaged: int
    last: int  # the highest segment number there is


def large_name(digest: Digest) -> str:
    """The file of a large blob."""
    text = digest.hex()
    return f"large/{text[:2]}/{text}"


def segments(files: Files) -> dict[int, int]:
    """The segment files by number, with their sizes; other entries are left alone."""
    numbered = ((segment_number(entry.name), entry) for entry in files.list("segments"))
    return {number: entry.size for number, entry in numbered if number and entry.regular}


def mark_is_beyond(files: Files, index: Index) -> bool:
    """Whether the index knows more than the log holds, so that it cannot be trusted."""
    state = index.state()
    return state.segment > 0 and segments(files).get(state.segment, -1) < state.offset


def no_progress(_done: int, _total: int) -> None:
    """Nobody wants to know."""


def recover(
    files: Files, index: Index, progress: Callable[[int, int], None] = no_progress
) -> Found:
    """Bring `index` up to the log. Only what follows the last good record is ever cut.

    `progress` is told after each segment how many bytes of the log were looked at, and of how many.
    """
    state = index.state()
    adopted = cut = damaged = done = 0
    sizes = segments(files)
    total = sum(sizes.values())
    for number in sorted(sizes):
        progress(done, total)
        done += sizes[number]
        if number < state.segment:
            continue
        start = state.offset if number == state.segment else SEGMENT_HEADER
        if sizes[number] <= start and number == state.segment:
            continue
        tail = _Tail(files, index, number, files.open(segment_name(number)), start)
        tail.run()
        adopted += tail.adopted
        cut += tail.cut
        damaged += tail.damaged
    progress(total, total)
    return Found(adopted, cut, damaged, max(sizes, default=0))


class _Tail:
    """One segment from some offset on."""

    def __init__(
        self, files: Files, index: Index, number: int, segment: Reader, start: int
    ) -> None:
        self.adopted = self.cut = self.damaged = 0
        self._files = files
        self._index = index
        self._number = number
        self._segment = segment
        self._start = start

    def run(self) -> None:
        end = self._segment.size
        if end < SEGMENT_HEADER:
            # The crash came before the header was whole: no record was ever acknowledged here.
            self._files.remove(segment_name(self._number))
            self.cut += end
            return
        self._make_durable()
        rows: list[Row] = []
        mark = self._start
        for piece in self._pieces(end):
            if isinstance(piece, Bad):
                self._adopt(rows, mark)
                rows = []
                self._damaged(piece, mark)
                continue
            mark = piece.end
            if piece.kind == LOST:
                self._adopt(rows, mark)
                rows = []
                self._lost(self._wanted(piece), mark)
                continue
            rows.append(Row(piece.digest, self._number, piece.offset, piece.size))
            if len(rows) >= _ADOPT:
                self._adopt(rows, mark)
                rows = []
        self._adopt(rows, mark)

    def _make_durable(self) -> None:
        """What is adopted counts as stored: it must not be in the system's memory alone."""
        log = self._files.append_to(segment_name(self._number), create=False)
        try:
            log.sync()
        finally:
            log.close()
        self._files.sync_directory("segments")

    def _pieces(self, end: int) -> Iterator[Record | Bad]:
        """The pieces of the segment; a bad last one is cut off instead."""
        for piece in scan(self._segment, self._start):
            # A segment whose salt is lost is never cut: more of it may be good than can be told.
            if isinstance(piece, Bad) and piece.end == end and read_salt(self._segment):
                self._files.truncate(segment_name(self._number), piece.offset)
                self.cut += piece.end - piece.offset
            else:
                yield piece

    def _damaged(self, piece: Bad, mark: int) -> None:
        self.damaged += piece.end - piece.offset
        where = f"{segment_name(self._number)}: damaged from {piece.offset} to {piece.end}"
        log.warning("%s; left where it is", where)
        for digest in piece.lost:
            self._lost(Wanted(digest, where, 0.0), mark)

    def _wanted(self, record: Record) -> Wanted:
        """What a LOST record says."""
        body = self._segment.read_at(record.offset + RECORD_HEADER, record.size)
        try:
            loss = json_of(Loss).read(body)
        except Undecodable:
            loss = Loss("not known any more", 0.0)
        return Wanted(record.digest, loss.reason, loss.since)

    def _lost(self, wanted: Wanted, mark: int) -> None:
        """A blob was lost at this place of the log; unless it is good where the index has it."""
        row = next(self._index.find([wanted.digest]), None)
        if row is None:
            self._index.change((), (), [wanted], self._number, mark)
        elif not (self._whole(row) if row.large else self._good(row)):
            self._index.change((), [row], [wanted], self._number, mark)

    def _good(self, row: Row) -> bool:
        """Whether the bytes of a small blob are what they were."""
        try:
            segment = self._files.open(segment_name(row.segment))
            return digest_of(segment.read_at(row.offset + RECORD_HEADER, row.size)) == row.digest
        except OSError as error:
            if means_damage(error):
                return False
            raise

    def _adopt(self, rows: list[Row], mark: int) -> None:
        new = self._index.unknown([row.digest for row in rows])
        new -= {row.digest for row in rows if row.large and not self._whole(row)}
        fresh = {row.digest: row for row in rows if row.digest in new}
        self._index.add(list(fresh.values()), self._number, mark)
        self.adopted += len(fresh)

    def _whole(self, row: Row) -> bool:
        """Whether the file of a large blob is there in its full size."""
        try:
            return self._files.open(large_name(row.digest)).size == row.size
        except OSError as error:
            if means_damage(error):
                return False
            raise
