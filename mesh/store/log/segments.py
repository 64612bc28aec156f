"""The log: append-only segment files of self-describing records. It is the truth.

A segment begins with a header of 40 bytes: magic `MESHSEG1`, its number (8 bytes), a random salt
(16), and a checksum of these (8). A record is a header of 56 bytes and the blob's bytes:

    magic `mREC` | type | version | flags (2) | digest (32) | length (8) | checksum (8)

Numbers are big-endian. The checksum is BLAKE2b-64 of the 48 bytes before it, keyed with the
segment's salt, so that the bytes of a blob, which a stranger may choose, never pass for a record.
A type-1 record is followed by `length` bytes; a type-2 record stands for a large blob of `length`
bytes in a file of its own and has none. A type-3 record says that the blob `digest` was found
damaged and is wanted; `length` bytes follow, with the reason and the time (log/losses.py).
All records are of version 1, but for those of type 3, which are of version 2; of version 1 they
had no checksum of their body, and are still read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from struct import Struct
from typing import NamedTuple

from mesh.core.digest import Digest, digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.store.files import Appender, Files, Reader

_SEGMENT = Struct(">8sQ16s8s")
_RECORD = Struct(">4sBBH32sQ8s")
_MAGIC = b"MESHSEG1"
_MARK = b"mREC"
_VERSION = 1
_LOST_VERSION = 2

BLOB = 1
LARGE = 2
LOST = 3

SEGMENT_HEADER = _SEGMENT.size
RECORD_HEADER = _RECORD.size

# Large enough that a million small blobs are some ten files, small enough that one file is
# scanned in a second and that a later compaction moves little at a time.
SEGMENT_MAX = 256 * 1024 * 1024

_SEARCH = 1024 * 1024  # bytes read at a time while looking for the next good record


class Record(NamedTuple):
    """A record as it stands in a segment; `offset` is where its header begins."""

    kind: int
    digest: Digest
    offset: int
    size: int
    version: int = _VERSION

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.offset + RECORD_HEADER + (self.size if self.kind != LARGE else 0)


class Bad(NamedTuple):
    """A stretch of a segment without a good record.

    `lost`: blobs whose header is right and whose bytes are not. `whole`: where the last of these
    ends; a write that was broken off can only have left what stands behind. `torn`: blobs whose
    header is right, and whose bytes would go on behind the end of the segment.
    """

    offset: int
    end: int
    whole: int
    lost: tuple[Digest, ...] = ()
    torn: tuple[Digest, ...] = ()


def segment_name(number: int) -> str:
    """The file of segment `number`."""
    return f"segments/{number:08d}.seg"


def segment_number(name: str) -> int | None:
    """The number in a segment's file name; None when it is not one."""
    stem, dot, suffix = name.partition(".")
    if not (dot and suffix == "seg" and stem.isascii() and stem.isdigit()):
        return None
    return int(stem) if stem == f"{int(stem):08d}" else None  # not 000000002, which is nobody's


def _checksum(salt: bytes, fields: bytes) -> bytes:
    return hashlib.blake2b(fields, digest_size=8, key=salt).digest()


def _record_header(salt: bytes, kind: int, digest: Digest, size: int) -> bytes:
    version = _LOST_VERSION if kind == LOST else _VERSION
    fields = _RECORD.pack(_MARK, kind, version, 0, digest, size, b"")[:-8]
    return fields + _checksum(salt, fields)


class SegmentWriter:
    """The segment that is being appended to. After any error it is sealed, and never used again."""

    def __init__(self, files: Files, number: int) -> None:
        """Create segment `number`, durably by name."""
        self.number = number
        self.salt = os.urandom(16)
        self._files = files
        name = segment_name(number)
        self._file: Appender = files.append_to(name, create=True)
        try:
            fields = _SEGMENT.pack(_MAGIC, number, self.salt, b"")[:-8]
            self._file.append([fields + hashlib.blake2b(fields, digest_size=8).digest()])
            files.sync_directory("segments")
        except OSError:
            with suppress(OSError):
                self._file.close()
                files.remove(name)
            raise

    @property
    def size(self) -> int:
        """Bytes in the segment: where the next record goes."""
        return self._file.size

    @property
    def empty(self) -> bool:
        """Whether it holds no record."""
        return self.size <= SEGMENT_HEADER

    def append(self, records: Sequence[tuple[int, Digest, int, bytes]]) -> list[Record]:
        """Add (type, digest, size, bytes) records and sync; where each of them stands.

        On an error what was added is cut off again, as far as the disk lets us: after a failed
        sync the system may show bytes that are not on the disk, and a restart would adopt them.
        """
        written: list[Record] = []
        pieces: list[bytes] = []
        at = self.size
        for kind, digest, size, data in records:
            version = _LOST_VERSION if kind == LOST else _VERSION
            record = Record(kind, digest, at, size, version)
            pieces.append(_record_header(self.salt, kind, digest, size))
            if data:
                pieces.append(data)
            written.append(record)
            at = record.end
        before = self.size
        try:
            self._file.append(pieces)
            self._file.sync()
            # Before anybody is told: bytes in a file that no name leads to are lost.
            self._file.check()
        except OSError:
            self._seal(before)
            raise
        return written

    def _seal(self, size: int) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._files.truncate(segment_name(self.number), size)

    def check(self) -> None:
        """Raise OSError unless the segment still stands under its name."""
        self._file.check()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def new_segment(files: Files, after: int) -> SegmentWriter:
    """A new segment with the first number beyond `after` that is free. Raises OSError."""
    while True:
        after += 1
        with suppress(FileExistsError):
            return SegmentWriter(files, after)


def read_salt(segment: Reader) -> bytes | None:
    """The salt of a segment; None when more than one bit of its header is wrong."""
    header = segment.read_at(0, SEGMENT_HEADER)
    if len(header) < SEGMENT_HEADER:
        return None
    if not _is_segment(header):
        header = _mended(header, _is_segment) or b""
    return bytes(_SEGMENT.unpack(header)[2]) if header else None


def _is_segment(header: bytes) -> bool:
    own = hashlib.blake2b(header[:-8], digest_size=8).digest()
    return header.startswith(_MAGIC) and own == header[-8:]


def scan(
    segment: Reader, start: int, stands: Callable[[Digest], bool] = lambda _: False
) -> Iterator[Record | Bad]:
    """Every good record from `start` on, hash checked, and the stretches between that are not.

    In a segment whose own header is damaged the salt is lost; then a record is good when its
    bytes hash to its digest, which nothing passes for by chance. A header with one wrong bit is
    read as it was, where the record before it ends.

    `stands`: whether there is a file of a large blob. It matters where the salt is lost. There the
    record of a large blob, which has no bytes, is good while the records before it followed one
    another without a gap. Behind a gap the bytes of a damaged blob, which a stranger may have
    chosen, could pass for such a record: there it is good only when the file stands.
    """
    salt = read_salt(segment)
    end = segment.size
    at = max(start, SEGMENT_HEADER)
    bad = whole = at
    gapless = True
    lost: list[Digest] = []
    torn: list[Digest] = []
    while at < end:
        record = record_at(segment, salt, at)
        gapless = gapless and record is not None and at == whole
        if record is None and at == whole:
            record = _mended_record(segment, salt, at)
        if record is None or record.end > end:
            if record is not None and salt is not None and record.kind != LOST:
                torn.append(record.digest)
            at = _next_mark(segment, at + 1, end)
            continue
        vouched = gapless or (record.kind == LARGE and stands(record.digest))
        if not _is_good(segment, salt, record, vouched=vouched):
            gapless = False
            if salt is None:
                at = _next_mark(segment, at + 1, end)
            else:  # its header is right, and so is the length in it
                lost.append(record.digest)
                at = whole = record.end
            continue
        if bad < at:
            yield Bad(bad, at, whole, tuple(lost), tuple(torn))
        lost.clear()
        torn.clear()
        yield record
        at = bad = whole = record.end
    if bad < end:
        yield Bad(bad, end, whole, tuple(lost), tuple(torn))


def record_at(segment: Reader, salt: bytes | None, at: int) -> Record | None:
    """The record whose header stands at `at`; None when none does. Its bytes are not looked at."""
    return parse_record(segment.read_at(at, RECORD_HEADER), salt, at)


def parse_record(header: bytes, salt: bytes | None, at: int) -> Record | None:
    """The record that `header` describes, read at `at`; None when it is not one."""
    if len(header) < RECORD_HEADER:
        return None
    magic, kind, version, _, digest, size, checksum = _RECORD.unpack(header)
    if magic != _MARK or kind not in (BLOB, LARGE, LOST):
        return None
    if version != _VERSION and not (kind == LOST and version == _LOST_VERSION):
        return None
    if salt is not None and _checksum(salt, header[:-8]) != checksum:
        return None
    if (size >= LARGE_BLOB) != (kind == LARGE):
        return None
    return Record(kind, Digest(digest), at, size, version)


def find_record(segment: Reader, digest: Digest) -> Record | None:
    """The last record of a blob in a segment, by the headers alone."""
    salt = read_salt(segment)
    found: Record | None = None
    at, end = SEGMENT_HEADER, segment.size
    while salt is not None and at < end:
        record = record_at(segment, salt, at)
        if record is None or record.end > end:
            at = _next_mark(segment, at + 1, end)
            continue
        if record.digest == digest and record.kind != LOST:
            found = record
        at = record.end
    return found


def _mended_record(segment: Reader, salt: bytes | None, at: int) -> Record | None:
    """The record whose header stands at `at` but for one wrong bit."""
    if salt is None:
        return None
    header = segment.read_at(at, RECORD_HEADER)
    mended = _mended(header, lambda tried: _checksum(salt, tried[:-8]) == tried[-8:])
    return parse_record(mended, salt, at) if mended is not None else None


def _mended(data: bytes, good: Callable[[bytes], bool]) -> bytes | None:
    """`data` with the one bit turned that makes it good; None when no single bit does.

    A checksum of 64 bits fits by chance once in 10^16 tries, and there are some hundred tries.
    """
    number = int.from_bytes(data, "big")
    for bit in range(8 * len(data)):
        tried = (number ^ 1 << bit).to_bytes(len(data), "big")
        if good(tried):
            return tried
    return None


def _is_good(segment: Reader, salt: bytes | None, record: Record, *, vouched: bool) -> bool:
    if record.kind == LARGE:
        return salt is not None or vouched
    if record.kind == LOST:
        # Nothing else vouches for it. What its header says is all that matters: its body only
        # says why, and that one may be rotten.
        return salt is not None
    data = segment.read_at(record.offset + RECORD_HEADER, record.size)
    return digest_of(data) == record.digest


def _next_mark(segment: Reader, at: int, end: int) -> int:
    """The next place from `at` on where a record may begin; `end` when there is none."""
    while at < end:
        window = segment.read_at(at, _SEARCH)
        found = window.find(_MARK)
        if found >= 0:
            return at + found
        if len(window) < len(_MARK):
            break
        at += len(window) - len(_MARK) + 1
    return end
