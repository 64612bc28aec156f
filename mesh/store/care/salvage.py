"""What only an index knows is written to the log before that index is thrown away.

The log tells where each blob is, as long as the headers of its records can be read. Where one
cannot, or where a segment has lost its end or is gone, only the index still knows that a blob was
acknowledged. An index is thrown away when it does not fit the log or is damaged. Before that,
`salvage` goes through its rows and looks at each record's header. A blob whose bytes are good gets
a new record. A blob whose bytes are not good gets a LOST record. Both are durable before the index
is removed. So a crash at any moment forgets nothing: the next start finds either the index or the
records.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mesh.core.digest import Digest, digest_of
from mesh.store.base import Wanted
from mesh.store.faults import IndexDamaged, means_damage
from mesh.store.files import Files
from mesh.store.log.index import Index, Row
from mesh.store.log.losses import encode_loss
from mesh.store.log.recovery import is_whole, no_progress, segments
from mesh.store.log.segments import BLOB, LARGE, LOST, SegmentWriter, new_segment, segment_name
from mesh.store.reading import Records

log = logging.getLogger("mesh")

# Rows looked at between two appends, and bytes of blobs written in one: a sync for each group, and
# no more memory than a commit takes.
_ROWS = 1024
_BYTES = 16 * 1024 * 1024

_UNREADABLE = "the log does not tell any more where it stands"


class Salvaged(NamedTuple):
    """Blobs that only the index knew: how many were written anew, and how many are lost."""

    kept: int
    lost: int


NOTHING = Salvaged(0, 0)


class _Entry(NamedTuple):
    """One record to be written, as SegmentWriter.append takes it."""

    kind: int
    digest: Digest
    size: int
    data: bytes


def salvage(
    files: Files,
    index: Index,
    *,
    trusted: bool,
    beside: Index | None = None,
    progress: Callable[[int, int], None] = no_progress,
) -> Salvaged:
    """Write what the log does not tell of the blobs in `index`; durable on return.

    `trusted`: the index is what was written, and of this log. A row of any other index may be
    wrong: it counts when its blob's bytes prove it, or unless the record of another blob stands
    where it leads. `beside`: an index that was made from the log; what it knows, the log tells.
    `progress` is told how many of the index's blobs were looked at, and of how many.
    Raises OSError; from a trusted index also IndexDamaged and sqlite3.Error.
    """
    last = max(segments(files), default=0)
    segment: SegmentWriter | None = None
    kept = lost = 0
    try:
        for group in _groups(_entries(files, index, beside, progress, trusted=trusted)):
            writer, segment = segment or new_segment(files, last), None  # none after an error
            writer.append(group)
            segment, last = writer, writer.number
            lost += sum(each.kind == LOST for each in group)
            kept += sum(each.kind != LOST for each in group)
    finally:
        if segment is not None:
            segment.close()
    if kept or lost:
        log.error(
            "only the index knew of %d blobs: %d written anew, %d lost", kept + lost, kept, lost
        )
    return Salvaged(kept, lost)


def losses(files: Files, index: Index) -> list[Wanted]:
    """What `salvage` would find to be lost, for a disk that takes no writes."""
    records = Records(files)
    found = (_entry(files, records, row, trusted=True) for row in _rows(index))
    lost = [_unreadable(each.digest) for each in found if each is not None and each.kind == LOST]
    return [*index.wanted(-1)[1], *lost]


def _groups(entries: Iterator[_Entry]) -> Iterator[list[_Entry]]:
    group: list[_Entry] = []
    size = 0
    for entry in entries:
        group.append(entry)
        size += len(entry.data)
        if len(group) >= _ROWS or size >= _BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _entries(
    files: Files,
    index: Index,
    beside: Index | None,
    progress: Callable[[int, int], None],
    *,
    trusted: bool,
) -> Iterator[_Entry]:
    records = Records(files)
    try:
        total = index.state().blobs
        for number, row in enumerate(_rows(index)):
            if number % _ROWS == 0:
                progress(number, total)
            if beside is not None and _is_known(beside, row.digest):
                continue
            entry = _entry(files, records, row, trusted=trusted)
            if entry is not None:
                yield entry
        for wanted in index.wanted(-1)[1] if trusted else ():
            if beside is None or not _is_known(beside, wanted.digest):
                yield _loss(wanted)
    except (IndexDamaged, sqlite3.DatabaseError):
        if trusted:
            raise
        # It ends here for us. The rest is in the log, or the keeper finds that it is missing.


def _is_known(index: Index, digest: Digest) -> bool:
    return not index.unknown([digest]) or index.is_wanted(digest)


def _rows(index: Index) -> Iterator[Row]:
    """All rows, in the order of the log."""
    segment = offset = 0
    while rows := index.placed(segment, offset, _ROWS):
        yield from rows
        segment, offset = rows[-1].segment, rows[-1].offset + 1


def _entry(files: Files, records: Records, row: Row, *, trusted: bool) -> _Entry | None:
    """What has to be written about one row; None when the log tells of it."""
    data, another = b"", False
    try:
        if records.tells(row):
            return None
        data = records.check(row)[1] if records.holds(row) else b""
        another = records.is_another(row)
    except OSError as error:
        if not means_damage(error):
            raise
    if row.large:
        if is_whole(files, row):
            return _Entry(LARGE, row.digest, row.size, b"")
    elif digest_of(data) == row.digest:
        return _Entry(BLOB, row.digest, row.size, data)
    return _loss(_unreadable(row.digest, row.segment)) if trusted or not another else None


def _unreadable(digest: Digest, segment: int | None = None) -> Wanted:
    where = f"{segment_name(segment)}: " if segment is not None else ""
    return Wanted(digest, f"{where}{_UNREADABLE}", 0.0)


def _loss(wanted: Wanted) -> _Entry:
    body = encode_loss(wanted)
    return _Entry(LOST, wanted.digest, len(body), body)
