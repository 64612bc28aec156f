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

# A large blob's file that damaged/ could not take stands beside its place, with this at its end.
_BESIDE = ".damaged"

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
    """Keep the bytes in damaged/, as far as they can be read and there is room; never an error."""
    if row.large:
        _move_aside(files, row)
    else:
        with suppress(OSError):
            _copy_aside(files, row)


def _copy_aside(files: Files, row: Row) -> None:
    data = files.open(segment_name(row.segment)).read_at(row.offset, RECORD_HEADER + row.size)
    if not data:
        return
    name = _next_name(files, row.digest)
    file = files.append_to(name, create=True)
    try:
        file.append([data])
    except OSError:
        with suppress(OSError):
            files.remove(name)  # half a copy helps nobody: the bytes are still in the segment
        raise
    finally:
        file.close()
    _make_room(files, name)


def _move_aside(files: Files, row: Row) -> None:
    """Take a large blob's file out of its place: it must not be taken for the blob again.

    Where damaged/ cannot take the file, it keeps its directory, under a name that is no blob's. It
    is the only copy, and a person may still make something of it.
    """
    name = large_name(row.digest)
    with suppress(OSError):
        files.remove(sums_name(name))
    try:
        if _size(files, row) > ASIDE_BYTES:
            files.remove(name)
        else:
            _rename_aside(files, name, row.digest)
    except OSError as error:
        with suppress(OSError):
            files.rename(name, f"{name}{_BESIDE}")
            log.error("%s stays beside its place: %s", name, error.strerror or error)
    with suppress(OSError):
        files.sync_directory(name.rpartition("/")[0])


def _size(files: Files, row: Row) -> int:
    """Of a large blob's file; what it should be where the disk does not say."""
    try:
        return files.open(large_name(row.digest)).size
    except OSError:
        return row.size


def _rename_aside(files: Files, name: str, digest: Digest) -> None:
    aside = _next_name(files, digest)
    files.rename(name, aside)
    with suppress(OSError):
        _make_room(files, aside)
    with suppress(OSError):
        files.sync_directory("damaged")


def _next_name(files: Files, digest: Digest) -> str:
    """A new name in damaged/."""
    there = [entry.name for entry in files.list("damaged") if entry.regular]
    numbers = [int(name[:8]) for name in there if name[:8].isdecimal()]
    return f"damaged/{max(numbers, default=0) + 1:08d}-{digest.hex()}"


def _make_room(files: Files, newest: str) -> None:
    """Remove the oldest from damaged/ until it fits its limit; never what just came there."""
    there = [entry for entry in files.list("damaged") if entry.regular]
    left = sum(entry.size for entry in there)
    for entry in there:
        if left <= ASIDE_BYTES:
            break
        if f"damaged/{entry.name}" != newest:
            files.remove(f"damaged/{entry.name}")
            left -= entry.size


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
