"""Letting go of what is damaged: look again, set its bytes aside, say in the log that it is lost.

A report may be wrong: a read that failed once works the next time, and an index row may point
beside a good record. So everything is looked at again here, on the writer's lane, where nothing
changes meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from mesh.core.digest import Digest, digest_of
from mesh.store.base import RECORD, WHOLE, Damage, Wanted
from mesh.store.faults import means_damage
from mesh.store.files import Files
from mesh.store.large.pieces import sums_name
from mesh.store.layout import large_name
from mesh.store.log.index import Row
from mesh.store.log.losses import encode_loss
from mesh.store.log.segments import BLOB, LARGE, LOST, RECORD_HEADER, find_record, segment_name
from mesh.store.reading import LargeFile, Records, Rotten

log = logging.getLogger("mesh")

# What is set aside to be looked at: as much as the largest blob that clients may put by default,
# so that one of any kind can be looked at. The oldest goes first.
ASIDE_BYTES = 1024**3

_REASON = 400  # characters; a path and what the system says of it


class Verdict(NamedTuple):
    """What to log, and what becomes of a row.

    `record`: as SegmentWriter.append takes it; `gone`: the row to remove; `moved`: where the
    blob really is; `wanted`: it is lost.
    """

    record: tuple[int, Digest, int, bytes] | None = None
    gone: Row | None = None
    moved: Row | None = None
    wanted: Wanted | None = None


def reexamine(files: Files, row: Row | None, damage: Damage, now: float) -> Verdict | None:
    """Look again at what was reported; None when it is as it should be. Raises OSError.

    A blob that is lost is set aside.
    """
    if row is None:
        return _lost(None, damage, now)
    fits, data = _record(files, row)
    good = _is_whole(files, row, damage.piece) if row.large else digest_of(data) == row.digest
    if good:
        if fits:
            return None
        log.warning("the record of blob %s is damaged: written anew", row.digest.hex())
        kind, body = (LARGE, b"") if row.large else (BLOB, data)
        return Verdict(record=(kind, row.digest, row.size, body), gone=row)
    moved = None if fits else _elsewhere(files, row)
    if moved is not None:
        log.warning("the index was wrong about blob %s: put right", row.digest.hex())
        return Verdict(gone=row, moved=moved)
    _set_aside(files, row)
    return _lost(row, damage, now)


def _lost(row: Row | None, damage: Damage, now: float) -> Verdict:
    log.error("blob %s is damaged, and wanted from peers: %s", damage.digest.hex(), damage.reason)
    wanted = Wanted(damage.digest, damage.reason[:_REASON], now)
    body = encode_loss(wanted)
    return Verdict(record=(LOST, damage.digest, len(body), body), gone=row, wanted=wanted)


def _record(files: Files, row: Row) -> tuple[bool, bytes]:
    try:
        return Records(files).check(row)
    except OSError as error:
        if means_damage(error):
            return False, b""
        raise


def _is_whole(files: Files, row: Row, piece: int) -> bool:
    """Whether a large blob's file is good, as far as the report doubted it."""
    try:
        file = LargeFile(files, row)
        if piece == RECORD:
            return True
        # Sums are kept when the whole was right. Without them it was hashed and found wrong, and
        # hashing it again would hold up all writing for as long as reading it takes.
        if file.sums is None:
            return False
        if piece != WHOLE:
            file.piece(piece)
    except Rotten:
        return False
    return True


def _elsewhere(files: Files, row: Row) -> Row | None:
    """Where in its segment the blob is, when the row points to the wrong place."""
    try:
        segment = files.open(segment_name(row.segment))
        record = find_record(segment, row.digest)
        if record is None or record.kind == LARGE:
            return None
        data = segment.read_at(record.offset + RECORD_HEADER, record.size)
    except OSError as error:
        if means_damage(error):
            return None
        raise
    moved = Row(row.digest, row.segment, record.offset, record.size)
    return moved if digest_of(data) == row.digest else None


# --- the bytes -------------------------------------------------------------------------------


def _set_aside(files: Files, row: Row) -> None:
    """Keep the bytes in damaged/, as far as they can be read and there is room; never an error.

    A large blob's file is moved, or removed: it must not be taken for the blob again.
    """
    if not row.large:
        with suppress(OSError):
            data = files.open(segment_name(row.segment)).read_at(
                row.offset, RECORD_HEADER + row.size
            )
            file = files.append_to(_next_name(files, row.digest, len(data)), create=True)
            try:
                file.append([data])
            finally:
                file.close()
        return
    name = large_name(row.digest)
    with suppress(OSError):
        files.remove(sums_name(name))
    with suppress(OSError):
        size = files.open(name).size
        if size <= ASIDE_BYTES:
            files.rename(name, _next_name(files, row.digest, size))
    with suppress(OSError):
        files.remove(name)
    with suppress(OSError):
        files.sync_directory(name.rpartition("/")[0])


def _next_name(files: Files, digest: Digest, size: int) -> str:
    """A new name in damaged/, with room made for `size` bytes."""
    there = [entry for entry in files.list("damaged") if entry.regular]
    numbers = [int(entry.name[:8]) for entry in there if entry.name[:8].isdecimal()]
    left = sum(entry.size for entry in there)
    for entry in there:
        if left + size <= ASIDE_BYTES:
            break
        files.remove(f"damaged/{entry.name}")
        left -= entry.size
    return f"damaged/{max(numbers, default=0) + 1:08d}-{digest.hex()}"


def reexamine_all(
    files: Files, rows: dict[Digest, Row], damages: Sequence[Damage], now: float
) -> list[Verdict]:
    """All that has to be done about `damages`, each blob once."""
    last = {damage.digest: damage for damage in damages}
    for damage in damages:
        if damage.piece != RECORD:
            last[damage.digest] = damage  # worse than a damaged record
    found = (reexamine(files, rows.get(digest), damage, now) for digest, damage in last.items())
    return [each for each in found if each is not None]
