"""Reading blobs, checked: no byte of a blob leaves before its hash or its piece's sum was right.

Whatever is met that is not the blob, whether other bytes, a file that is short or gone, or a disk
that fails the read, is one error: Rotten, which says what was met where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mesh.core.digest import Digest, digest_of, new_hasher
from mesh.core.limits import LARGE_BLOB
from mesh.core.tree import Tree
from mesh.errors import Corrupt, StoreError
from mesh.store.base import (
    RECORD,
    WHOLE,
    Damage,
    Entry,
    ListedSnapshot,
    Place,
    SnapshotFilter,
)
from mesh.store.faults import IndexDamaged, means_damage, translated
from mesh.store.files import Files, Reader
from mesh.store.large.pieces import (
    PIECE,
    PieceSums,
    Sums,
    decode_sums,
    sums_bytes,
    sums_name,
)
from mesh.store.large.staged import write_sums
from mesh.store.layout import large_name
from mesh.store.log.index import Index, Row
from mesh.store.log.segments import (
    BLOB,
    LARGE,
    RECORD_HEADER,
    parse_record,
    read_salt,
    record_at,
    segment_name,
)

# Segments kept open for reading. A descriptor each; the usual limit is 1,024 a process.
_OPEN_SEGMENTS = 128

# Digests of a batch that are looked up at a time. The batch ends where there are enough bytes, and
# what was looked up behind that was looked up in vain: of real files some thirty make half a MiB.
_LOOKUP = 32

# Read at a time while a large blob is hashed against its name: 6 ms of a thread.
_STRIDE = 8 * PIECE


class Rotten(Corrupt):
    """A read met something that is not the blob."""

    def __init__(self, damage: Damage) -> None:
        super().__init__(f"blob {damage.digest.hex()} is damaged: {damage.reason}")
        self.damage = damage


@contextmanager
def reading(digest: Digest, where: str, piece: int = WHOLE) -> Iterator[None]:
    """Rotten when the disk says that what is read is damaged or gone; StoreError for the rest."""
    try:
        yield
    except OSError as error:
        reason = f"{where}: {error.strerror or error}"
        if means_damage(error):
            raise Rotten(Damage(digest, reason, piece)) from error
        raise StoreError(f"cannot read blob {digest.hex()}: {reason}") from error


# --- large blobs, on any thread --------------------------------------------------------------


class LargeFile:
    """A large blob's file, open for reading, and the sums of its pieces if they are there."""

    def __init__(self, files: Files, row: Row) -> None:
        """Raises Rotten when there is no such file of the right size."""
        self.row = row
        self._files = files
        self._name = large_name(row.digest)
        with reading(row.digest, self._name):
            self._file = files.open(self._name)
            size = self._file.size
        if size != row.size:
            self._rotten(f"ends at {size} of {row.size} bytes", WHOLE)
        self.sums = self._load()

    def piece(self, start: int) -> bytes:
        """The piece that begins at `start`, checked. Without sums nothing would pass."""
        data = self.raw(start, min(PIECE, self.row.size - start))
        if self.sums is None or not self.sums.fits(start, data):
            self._rotten(f"is not what it was between {start} and {start + len(data)}", start)
        return data

    def raw(self, start: int, length: int) -> bytes:
        """Bytes as they are read; Rotten when there are fewer."""
        with reading(self.row.digest, self._name, start - start % PIECE):
            data = self._file.read_at(start, length)
        if len(data) < length:
            at = start - start % PIECE
            self._rotten(f"ends at {start + len(data)} of {self.row.size} bytes", at)
        return data

    def hashed(self, digest: Digest, sums: PieceSums, *, keep: bool) -> None:
        """The whole has been read: take the sums, and keep them, if it is the blob."""
        if digest != self.row.digest:
            self._rotten("is not the blob of that name", WHOLE)
        self.sums = sums
        if keep:
            write_sums(self._files, self.row.digest, self.row.size, sums)

    def _rotten(self, what: str, piece: int) -> None:
        raise Rotten(Damage(self.row.digest, f"{self._name} {what}", piece))

    def _load(self) -> PieceSums | None:
        digest, size = self.row.digest, self.row.size
        try:
            file = self._files.open(sums_name(self._name))
            whole = file.size == sums_bytes(size)
            content = file.read_at(0, file.size) if whole else b""
        except OSError as error:
            if means_damage(error):
                return None
            raise StoreError(f"cannot read {sums_name(self._name)}: {error.strerror}") from error
        return decode_sums(digest, size, content)


class Hashing:
    """A large blob read from end to end, step by step, because its sums are not known."""

    def __init__(self, file: LargeFile, *, keep: bool = True) -> None:
        """`keep`: write the sums down when it is the blob."""
        self.file = file
        self._keep = keep
        self.at = 0
        self._name = new_hasher()
        self._sums = Sums()

    def step(self, most: int = _STRIDE) -> bool:
        """Read on; whether that was all. Raises Rotten at the end if it is another blob."""
        size = self.file.row.size
        while most > 0 and self.at < size:
            data = self.file.raw(self.at, min(_STRIDE, size - self.at))
            self._name.update(data)
            self._sums.update(data)
            self.at += len(data)
            most -= len(data)
        if self.at < size:
            return False
        self.file.hashed(Digest(self._name.digest()), self._sums.finish(), keep=self._keep)
        return True


# --- records, on any thread ------------------------------------------------------------------


class Records:
    """Reads and checks what rows point to in the segments; for one thread at a time."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._number = 0
        self._segment: Reader | None = None
        self._salt: bytes | None = None

    def check(self, row: Row, *, body: bool = True) -> tuple[bool, bytes]:
        """Whether the record's header is right, and its bytes, unchecked. Raises OSError."""
        segment = self._open(row.segment)
        length = row.size if body and not row.large else 0
        data = segment.read_at(row.offset, RECORD_HEADER + length)
        record = parse_record(data[:RECORD_HEADER], self._salt, row.offset)
        kind = LARGE if row.large else BLOB
        fits = record is not None and record[:2] == (kind, row.digest) and record.size == row.size
        return fits, data[RECORD_HEADER:]

    def holds(self, row: Row) -> bool:
        """Whether a segment is so long that a row's record can be in it. Raises OSError."""
        end = row.offset + RECORD_HEADER + (0 if row.large else row.size)
        return end <= self._open(row.segment).size

    def tells(self, row: Row) -> bool:
        """Whether a scan of the log would find this record. Raises OSError.

        Where the salt is lost, the header proves nothing: only the bytes of a small blob do.
        """
        if not self.holds(row):
            return False
        if self._salt is not None:
            return self.check(row, body=False)[0]
        fits, data = self.check(row)
        return fits and not row.large and digest_of(data) == row.digest

    def is_another(self, row: Row) -> bool:
        """Whether a record of another blob stands where a row leads. Raises OSError."""
        segment = self._open(row.segment)
        if row.offset >= segment.size:
            return False
        record = record_at(segment, self._salt, row.offset)
        return record is not None and record.digest != row.digest

    def damage(self, row: Row, *, body: bool = True) -> Damage | None:
        """What is wrong with a row's record; with a small blob's `body` also with its bytes."""
        where = f"{segment_name(row.segment)} at {row.offset}"
        try:
            with reading(row.digest, where):
                fits, data = self.check(row, body=body)
        except Rotten as rotten:
            return rotten.damage._replace(piece=RECORD if row.large else WHOLE)
        if body and not row.large and digest_of(data) != row.digest:
            return Damage(row.digest, f"{where}: its bytes are not what they were")
        return None if fits else Damage(row.digest, f"{where}: its record is damaged", RECORD)

    def _open(self, number: int) -> Reader:
        if self._segment is None or self._number != number:
            self._segment = None
            segment = self._files.open(segment_name(number))
            self._salt = read_salt(segment)
            self._number, self._segment = number, segment
        return self._segment


# --- on a reader's lane ----------------------------------------------------------------------


class ReadSide:
    """All that is done on a reader's lane: an index connection and open segments."""

    def __init__(self, files: Files, path: Path | None, shared: Callable[[], Index | None]) -> None:
        """`path`: of the index, for a connection of its own; None to use the one of `shared`."""
        self._files = files
        self._path = path
        self._shared = shared
        self._own: Index | None = None
        self._segments: dict[int, Reader] = {}

    def open(self) -> None:
        """Connect."""
        if self._path is not None:
            with translated("cannot open the index for reading", self._path):
                self._own = Index(str(self._path), write=False)

    def close(self) -> None:
        """Let go of everything."""
        if self._own is not None:
            self._own.close()
            self._own = None
        self._segments.clear()

    @property
    def _index(self) -> Index:
        index = self._own if self._path is not None else self._shared()
        if index is None:
            raise IndexDamaged("there is no index: rebuilding it has failed")
        return index

    def row(self, digest: Digest) -> Row | None:
        """Where a blob is."""
        with translated("cannot look up a blob"):
            return next(self._index.find([digest]), None)

    def blob(self, digest: Digest) -> bytes | None:
        """A small blob. Raises Rotten."""
        row = self.row(digest)
        if row is None:
            return None
        if row.large:
            raise StoreError(f"blob {digest.hex()} is large: it is streamed, not read")
        return self._checked(row)

    def batch(self, digests: Sequence[Digest], most: int) -> tuple[list[Entry], list[Damage]]:
        """See BlobStore.batch; and what was damaged."""
        entries: list[Entry] = []
        damages: list[Damage] = []
        for row, digest in self._rows(digests):
            if row is None or row.size >= LARGE_BLOB:
                entries.append(Entry(digest, row.size if row else None, None))
                continue
            if entries and row.size > most:
                break
            try:
                entries.append(Entry(digest, row.size, self._checked(row)))
            except Rotten as rotten:
                entries.append(Entry(digest, None, None))
                damages.append(rotten.damage)
            most -= row.size
        return entries, damages

    def _rows(self, digests: Sequence[Digest]) -> Iterator[tuple[Row | None, Digest]]:
        """Where each of them is, in their order, looked up as they are asked for."""
        for at in range(0, len(digests), _LOOKUP):
            some = digests[at : at + _LOOKUP]
            with translated("cannot read a batch"):
                rows = {row.digest: row for row in self._index.find(some)}
            for digest in some:
                yield rows.get(digest), digest

    def range(self, low: bytes, high: bytes | None, after: bytes, limit: int) -> list[Row]:
        """See Index.range."""
        with translated("cannot list blobs"):
            return self._index.range(low, high, after, limit)

    def snapshots(
        self, wanted: SnapshotFilter, before: tuple[str, Digest] | None, limit: int
    ) -> list[ListedSnapshot]:
        """See BlobStore.snapshots."""
        with translated("cannot list snapshots"):
            return self._index.snapshots.newest(wanted, before, limit)

    def place(self, digest: Digest) -> Place | None:
        """See BlobStore.place."""
        row = self.row(digest)
        if row is None:
            return None
        with translated("cannot look up a blob"):
            came = self._index.times.at(row.segment, row.offset)
        if row.large:
            return Place(row.size, large_name(digest), None, -(-row.size // PIECE), came)
        return Place(row.size, segment_name(row.segment), row.offset, None, came)

    def placed(self, segment: int, offset: int, limit: int) -> list[Row]:
        """See Index.placed."""
        with translated("cannot list blobs"):
            return self._index.placed(segment, offset, limit)

    def check(self) -> None:
        """See Index.check."""
        with translated("cannot check the index"):
            self._index.check()

    def noted(self, name: str) -> bytes | None:
        """See BlobStore.noted."""
        with translated("cannot read a note"):
            return self._index.noted(name)

    def tree(self) -> Tree:
        """The tree of all digests; IndexDamaged when the rows are not what was written."""
        with translated("cannot build the tree"):
            tree = Tree.from_sorted(self._index.digests())
        _ = tree.root  # computed here and kept by the tree, so that the event loop need not
        return tree

    def _checked(self, row: Row) -> bytes:
        where = f"{segment_name(row.segment)} at {row.offset}"
        with reading(row.digest, where):
            data = self._bytes(row)
        if digest_of(data) != row.digest:
            raise Rotten(Damage(row.digest, f"{where}: its bytes are not what they were"))
        return data

    def _bytes(self, row: Row) -> bytes:
        segment = self._segments.get(row.segment)
        if segment is None:
            while len(self._segments) >= _OPEN_SEGMENTS:
                del self._segments[next(iter(self._segments))]
            segment = self._segments[row.segment] = self._files.open(segment_name(row.segment))
        return segment.read_at(row.offset + RECORD_HEADER, row.size)
