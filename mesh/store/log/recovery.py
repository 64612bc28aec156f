"""From the log to the index: adopt what the index does not know, cut what a crash left.

Used at every start for the tail behind the mark, and for everything when the index is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from mesh.core.digest import Digest, digest_of
from mesh.core.snapshot import MAX_BYTES, MIN_BYTES, may_be_snapshot
from mesh.store.base import Wanted
from mesh.store.faults import means_damage
from mesh.store.files import Files
from mesh.store.layout import large_name
from mesh.store.log.index import Index, Mark, Row
from mesh.store.log.losses import decode_loss
from mesh.store.log.segments import (
    BLOB,
    LOST,
    RECORD_HEADER,
    SEGMENT_HEADER,
    Bad,
    Record,
    read_salt,
    record_at,
    scan,
    segment_name,
    segment_number,
)
from mesh.store.log.times import Since

log = logging.getLogger("mesh")

# Rows of one transaction while adopting: a rebuild of millions makes progress that stays.
_ADOPT = 4096

# Bytes from one word about how far it is to the next: some milliseconds.
_TELL = 1024 * 1024


class Found(NamedTuple):
    """What recovery did: records adopted, bytes cut off the end, bytes set aside as damaged."""

    adopted: int
    cut: int
    damaged: int
    last: int  # the highest segment number there is

    def and_then(self, later: Found) -> Found:
        """This, and what was done after it."""
        return Found(
            self.adopted + later.adopted,
            self.cut + later.cut,
            self.damaged + later.damaged,
            later.last,
        )


def segments(files: Files) -> dict[int, int]:
    """The segment files by number, with their sizes; other entries are ignored."""
    numbered = ((segment_number(entry.name), entry) for entry in files.list("segments"))
    return {number: entry.size for number, entry in numbered if number and entry.regular}


NEWER = "newer than the log"

NOWHERE = Mark(0, 0, b"")


def unfit(files: Files, index: Index) -> str:
    """Why an index is not one of this log, or not any more; "" when it is.

    The salt of the segment in which the mark stands tells this log from any other: a log with
    that segment has all that came before it, too.
    """
    mark, blobs, *_ = index.state()
    if mark.segment == 0:
        return "of no log" if blobs else ""
    size = segments(files).get(mark.segment)
    if size is None:
        return NEWER
    salt = read_salt(files.open(segment_name(mark.segment)))
    if salt is not None and salt != mark.salt:
        return "of another log"
    return NEWER if size < mark.offset else ""


def is_of_this_log(files: Files, index: Index) -> bool:
    """Whether an unfit index was made from this log, before it lost something or was disordered.

    The salt of the mark's segment tells, in whatever file it stands now: segments may have been
    exchanged. When it is gone, the first blob of any segment tells, if it is where the index says.
    Where no salt can be read any more, nothing contradicts the index.
    """
    mark = index.state().mark
    if mark.segment == 0:
        return False
    salts = {number: _salt(files, number) for number in segments(files)}
    known = {number: salt for number, salt in salts.items() if salt is not None}
    if mark.salt in known.values() or not known:
        return True
    if mark.segment in known:
        return False
    return any(_begins_as_said(files, index, number, salt) for number, salt in known.items())


def _begins_as_said(files: Files, index: Index, number: int, salt: bytes) -> bool:
    """Whether the first blob of a segment is where the index says."""
    segment = files.open(segment_name(number))
    for row in index.placed(number, 0, 1):
        record = record_at(segment, salt, row.offset)
        found = record is not None and (record.digest, record.size) == (row.digest, row.size)
        return found and row.segment == number
    return False


def _salt(files: Files, number: int) -> bytes | None:
    return read_salt(files.open(segment_name(number)))


def stands(files: Files, digest: Digest) -> bool:
    """Whether there is a file in the place of a large blob, in whatever state. Raises OSError."""
    try:
        files.open(large_name(digest))
    except FileNotFoundError:
        return False
    except OSError as error:
        if not means_damage(error):
            raise
    return True


def is_whole(files: Files, row: Row) -> bool:
    """Whether the file of a large blob is there in its full size. Raises OSError."""
    try:
        return files.open(large_name(row.digest)).size == row.size
    except OSError as error:
        if means_damage(error):
            return False
        raise


def no_progress(_done: int, _total: int) -> None:
    """Nobody wants to know."""


def recover(
    files: Files,
    index: Index,
    progress: Callable[[int, int], None] = no_progress,
    acknowledged: Mark = NOWHERE,
) -> Found:
    """Bring `index` up to the log.

    Only the tail of the newest segment is ever cut, behind its last whole record: nothing else can
    be what a write left that was broken off. All other damage stays where it is, and the blobs that
    it still names are wanted.

    `acknowledged`: a mark of this log that somebody still knows. Nothing before it is cut, also
    when no header there can be read.

    `progress` is told after each MiB how many bytes of the log were looked at, and of how many.
    """
    mark = index.state().mark
    adopted = cut = damaged = done = 0
    sizes = segments(files)
    total = sum(sizes.values())
    for number in sorted(sizes):
        progress(done, total)
        done += sizes[number]
        if number < mark.segment:
            continue
        start = mark.offset if number == mark.segment else SEGMENT_HEADER
        if sizes[number] <= start and number == mark.segment:
            continue
        kept = acknowledged.offset if number == acknowledged.segment else 0
        told = partial(_told, progress, done - sizes[number], total)
        tail = _Tail(files, index, number, start, kept, told, newest=number == max(sizes))
        tail.run()
        adopted += tail.adopted
        cut += tail.cut
        damaged += tail.damaged
    progress(total, total)
    return Found(adopted, cut, damaged, max(sizes, default=0))


def _told(progress: Callable[[int, int], None], before: int, total: int, at: int) -> None:
    """How far it is in the log when it is `at` an offset of the segment that begins at `before`."""
    progress(min(before + at, total), total)


class _Tail:
    """One segment from some offset on."""

    def __init__(
        self,
        files: Files,
        index: Index,
        number: int,
        start: int,
        kept: int,
        told: Callable[[int], None],
        *,
        newest: bool,
    ) -> None:
        """`kept`: nothing before this offset is cut. `told` hears which offset it is at."""
        self._told = told
        self.adopted = self.cut = self.damaged = 0
        self._files = files
        self._index = index
        self._number = number
        self._name = segment_name(number)
        self._segment = files.open(self._name)
        self._salt = read_salt(self._segment)
        self._newest = newest
        self._kept = kept
        self._at = start
        self._rows: list[Row] = []
        self._snapshots: list[tuple[Digest, bytes]] = []

    def run(self) -> None:
        end = self._segment.size
        if end < SEGMENT_HEADER:
            self._headless(end)
            return
        self._make_durable()
        due = self._at + _TELL
        for piece in self._pieces(end):
            if piece.end >= due:
                self._told(piece.end)
                due = piece.end + _TELL
            if isinstance(piece, Bad):
                self._adopt()
                self._damaged(piece)
            elif piece.kind == LOST:
                self._adopt()
                self._lost([self._loss(piece)], piece.end)
            else:
                self._rows.append(Row(piece.digest, self._number, piece.offset, piece.size))
                self._look_at(piece)
                self._at = piece.end
                if len(self._rows) >= _ADOPT:
                    self._adopt()
        self._adopt()

    @property
    def _mark(self) -> Mark:
        return Mark(self._number, self._at, self._salt or b"")

    def _headless(self, end: int) -> None:
        """Not even its own header is whole."""
        if self._newest:
            # The crash came before the header was whole: no record was ever acknowledged here.
            self._files.remove(self._name)
            self.cut += end
        else:
            log.warning("%s has only %d bytes left; left where it is", self._name, end)
            self.damaged += end

    def _make_durable(self) -> None:
        """What is adopted counts as stored: it must not be in the system's memory alone."""
        log = self._files.append_to(self._name, create=False)
        try:
            log.sync()
        finally:
            log.close()
        self._files.sync_directory("segments")

    def _pieces(self, end: int) -> Iterator[Record | Bad]:
        """The pieces of the segment, without the end of it if that may be cut off."""
        for piece in scan(self._segment, self._at, partial(stands, self._files)):
            # A segment whose salt is lost is never cut: more of it may be good than can be told.
            if isinstance(piece, Bad) and piece.end == end and self._newest and self._salt:
                whole = max(piece.whole, min(self._kept, end))
                if whole > piece.offset:
                    yield piece._replace(end=whole, torn=())
                if whole < end:
                    self._files.truncate(self._name, whole)
                    self.cut += end - whole
            else:
                yield piece

    def _damaged(self, piece: Bad) -> None:
        self.damaged += piece.end - piece.offset
        where = f"{self._name}: damaged from {piece.offset} to {piece.end}"
        log.warning("%s; left where it is", where)
        digests = dict.fromkeys((*piece.lost, *piece.torn))
        self._lost([Wanted(digest, where, 0.0) for digest in digests], piece.end)

    def _look_at(self, record: Record) -> None:
        """Keep the bytes of what may be a snapshot."""
        if record.kind == BLOB and MIN_BYTES <= record.size <= MAX_BYTES:
            data = self._segment.read_at(record.offset + RECORD_HEADER, record.size)
            if may_be_snapshot(data):
                self._snapshots.append((record.digest, data))

    def _loss(self, record: Record) -> Wanted:
        """What a LOST record says."""
        body = self._segment.read_at(record.offset + RECORD_HEADER, record.size)
        return decode_loss(record.digest, record.version, body)

    def _lost(self, wanted: Sequence[Wanted], end: int) -> None:
        """These were lost at this place of the log; those are not that the index has elsewhere,
        and good.

        The mark moves in the same transaction: a crash between the two would forget the loss.
        """
        rows = {row.digest: row for row in self._index.find([each.digest for each in wanted])}
        good = {row.digest for row in rows.values() if self._is_good(row)}
        gone = [row for row in rows.values() if row.digest not in good]
        self._at = end
        self._index.change((), gone, [w for w in wanted if w.digest not in good], self._mark)

    def _is_good(self, row: Row) -> bool:
        """Whether a blob is what it was; of a large one, whether its file is there in full size."""
        if row.large:
            return is_whole(self._files, row)
        try:
            segment = self._files.open(segment_name(row.segment))
            return digest_of(segment.read_at(row.offset + RECORD_HEADER, row.size)) == row.digest
        except OSError as error:
            if means_damage(error):
                return False
            raise

    def _adopt(self) -> None:
        """Index what was found up to here. A large blob whose file is not whole is wanted."""
        rows, self._rows = {row.digest: row for row in self._rows}, []
        snapshots, self._snapshots = dict(self._snapshots), []
        new = self._index.unknown(list(rows))
        large = [row for row in rows.values() if row.large]
        broken = {row.digest for row in large if not is_whole(self._files, row)}
        fresh = [row for row in rows.values() if row.digest in new - broken]
        wanted = [
            Wanted(digest, f"{large_name(digest)} is gone, or has lost its end", 0.0)
            for digest in broken
            if digest in new
        ]
        told = [(row.digest, snapshots[row.digest]) for row in fresh if row.digest in snapshots]
        since = Since(fresh[0].segment, fresh[0].offset, None) if fresh else None
        self._index.change(fresh, (), wanted, self._mark, told, since)
        self.adopted += len(fresh)
