"""The index: where each blob stands, in SQLite. Derived from the log; may be thrown away.

One connection, one thread: the owner calls every method on the lane on which it was made.

SQLite does not notice a flipped bit in a row, so the index is made to be checked: the state holds
how many rows there are, their sizes summed and their checksums summed, and a checksum of itself.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple
from zlib import crc32

from mesh.core.digest import DIGEST_SIZE, Digest
from mesh.core.limits import LARGE_BLOB
from mesh.store.base import Wanted
from mesh.store.faults import IndexDamaged
from mesh.store.log import snapshots, times
from mesh.store.log.snapshots import Snapshots
from mesh.store.log.times import Since, Times

# A parameter each; SQLite allows 32,766, but the statement is prepared anew for every length.
_GROUP = 500

_SCHEMA_VERSION = 4

# The one before had no snapshots and no times: store/care/upgrade.py adds them.
_OUTDATED_VERSION = 3

_ADDED = snapshots.SCHEMA + times.SCHEMA

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (
    digest BLOB PRIMARY KEY,
    segment INTEGER NOT NULL,  -- of the record; a large blob's bytes are in a file of their own
    offset INTEGER NOT NULL,   -- of the record's header
    size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS places ON blobs (segment, offset);
CREATE TABLE IF NOT EXISTS state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    segment INTEGER NOT NULL,  -- the mark: everything before (segment, offset) is indexed
    offset INTEGER NOT NULL,
    salt BLOB NOT NULL,        -- of that segment: it tells this log from any other
    blobs INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    sums INTEGER NOT NULL,     -- the checksums of all rows, added up
    own INTEGER NOT NULL       -- the checksum of the columns before
);
CREATE TABLE IF NOT EXISTS wanted (
    digest BLOB PRIMARY KEY,
    reason TEXT NOT NULL,
    since REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""

_NAMES = (
    "digest, segment, offset, size FROM blobs",
    "digest, reason, since FROM wanted",
    "name, value FROM notes",
)
_ADDED_NAMES = (snapshots.COLUMNS, times.COLUMNS)

_ROW = struct.Struct(">32sqqq")
_STATE = struct.Struct(">qqqqq")


class Row(NamedTuple):
    """Where a blob is: its record, and with a large one a file besides."""

    digest: Digest
    segment: int
    offset: int
    size: int

    @property
    def large(self) -> bool:
        """Whether its bytes are in a file of their own."""
        return self.size >= LARGE_BLOB

    @property
    def sum(self) -> int:
        """A checksum: against rot, not against anybody, since what is served is hashed anyway."""
        return crc32(_ROW.pack(*self))


class Mark(NamedTuple):
    """A place in one certain log: everything before it is indexed.

    `salt`: of the segment, which no other log has; b"" when the segment's header is damaged.
    """

    segment: int
    offset: int
    salt: bytes


class State(NamedTuple):
    """The mark and the totals, written in the transaction that they describe."""

    mark: Mark
    blobs: int
    bytes: int
    sums: int

    def moved(self, mark: Mark, new: Sequence[Row], gone: Sequence[Row]) -> State:
        """The state after a transaction that adds and removes rows."""
        return State(
            mark,
            self.blobs + len(new) - len(gone),
            self.bytes + sum(row.size for row in new) - sum(row.size for row in gone),
            self.sums + sum(row.sum for row in new) - sum(row.sum for row in gone),
        )


class Index:
    """A connection to the index."""

    def __init__(self, path: str, *, write: bool) -> None:
        """Open `path`; sqlite3.DatabaseError or IndexDamaged when it is not a good index."""
        self._db = sqlite3.connect(path, isolation_level=None)
        self.snapshots = Snapshots(self._db)
        self.times = Times(self._db)
        self.outdated = False
        try:
            self._db.execute("PRAGMA busy_timeout = 10000")
            # 16 MiB a connection: the upper levels of the tree at ten million rows.
            self._db.execute("PRAGMA cache_size = -16384")
            if write:
                self._create()
            else:
                self._check_version()
            self._check_columns()
        except UnicodeDecodeError as error:
            # SQLite's message quotes what it found, and that is not text.
            self._db.close()
            raise IndexDamaged("its schema is not what was written") from error
        except BaseException:
            self._db.close()
            raise

    def _create(self) -> None:
        # With WAL, NORMAL syncs at checkpoints only. A crash may cost the last transactions,
        # never the order of them, and the log behind the mark brings them back.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        version = self._check_version(0)
        if not version:
            version = _SCHEMA_VERSION
            self._db.executescript(_SCHEMA + _ADDED)
            empty = State(Mark(0, 0, b""), 0, 0, 0)
            self._db.execute(
                "INSERT OR IGNORE INTO state VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
                (*empty.mark, *empty[1:], _own(empty)),
            )
        # With its version an index has all its tables, and none is ever made again: one whose name
        # is not what it was would come back empty. It is written each time, so that a disk that
        # takes no writes is met here and not by the first commit.
        self._db.execute(f"PRAGMA user_version = {version}")
        self.state()

    def _check_version(self, *also: int) -> int:
        """Its version; IndexDamaged for one of an older or a newer program: it is made anew.

        One of the version before is `outdated`: only what it lacks has to be added.
        """
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in (_SCHEMA_VERSION, _OUTDATED_VERSION, *also):
            raise IndexDamaged(f"it is of version {version}")
        self.outdated = version == _OUTDATED_VERSION
        return int(version)

    def _check_columns(self) -> None:
        """sqlite3.OperationalError unless every name that is used later is in the schema.

        A flipped bit in a name would else show itself in the middle of some later work.
        """
        for columns in _NAMES if self.outdated else (*_NAMES, *_ADDED_NAMES):
            self._db.execute(f"SELECT {columns} LIMIT 0").fetchone()

    def load(self, path: str) -> None:
        """Take over the content of another index file that nobody else has open."""
        other = Index(path, write=True)
        try:
            # A log that is still to be applied is none of a copy in memory.
            other._db.execute("PRAGMA journal_mode = DELETE")
            other._db.backup(self._db)
            self.outdated = other.outdated
        finally:
            other.close()

    def upgrade(self, blobs: Iterator[tuple[Digest, bytes]]) -> None:
        """Add what an outdated index lacks; `blobs`: all that may be snapshots.

        They are held some at a time: whoever may put blobs may have put millions that begin as one.
        """
        self._db.executescript(_ADDED)  # no error where an upgrade was broken off
        with self._transaction():
            while group := list(islice(blobs, _GROUP)):
                self.snapshots.add(group)
            self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        self.outdated = False

    def settle(self) -> None:
        """Move everything from SQLite's log into the file itself, durably; sqlite3.Error if not.

        Closing does so as well, but says nothing when the disk has no room for it.
        """
        (busy, *_) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise sqlite3.OperationalError("somebody else has it open")

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def state(self) -> State:
        """The mark and the totals; IndexDamaged when they are not what was written."""
        query = "SELECT salt, segment, offset, blobs, bytes, sums, own FROM state"
        row = self._db.execute(query).fetchone()
        if row is None or type(row[0]) is not bytes or any(type(n) is not int for n in row[1:]):
            raise IndexDamaged("its state is gone")
        salt, segment, offset, *totals, own = row
        state = State(Mark(segment, offset, salt), *totals)
        if _own(state) != own:
            raise IndexDamaged("its state is not what was written")
        return state

    # --- writing -----------------------------------------------------------------------------

    def add(
        self,
        rows: Sequence[Row],
        mark: Mark,
        snapshots: Iterable[tuple[Digest, bytes]] = (),
        since: Since | None = None,
    ) -> State:
        """Insert `rows`, distinct and new, and move the mark in one transaction; the new state.

        What is here again is not wanted any more.
        """
        return self.change(rows, (), (), mark, snapshots, since)

    def change(
        self,
        new: Sequence[Row],
        gone: Sequence[Row],
        wanted: Sequence[Wanted],
        mark: Mark,
        snapshots: Iterable[tuple[Digest, bytes]] = (),
        since: Since | None = None,
    ) -> State:
        """Remove rows, add rows, and note what is wanted, with the mark, in one transaction.

        `snapshots`: those of the new blobs that may be some. `since`: when the new ones came.
        """
        with self._transaction():
            state = self.state().moved(mark, new, gone)
            kept = {row.digest for row in new} if gone else ()
            self.snapshots.remove(row.digest for row in gone if row.digest not in kept)
            self.snapshots.add(snapshots)
            if since is not None:
                self.times.note(since)
            digests = [(row.digest,) for row in new]
            self._db.executemany("DELETE FROM blobs WHERE digest = ?", [(r.digest,) for r in gone])
            self._db.executemany("INSERT INTO blobs VALUES (?, ?, ?, ?)", new)
            if self._db.execute("SELECT 1 FROM wanted LIMIT 1").fetchone() is not None:
                self._db.executemany("DELETE FROM wanted WHERE digest = ?", digests)
            self._db.executemany("INSERT OR REPLACE INTO wanted VALUES (?, ?, ?)", wanted)
            self._db.execute(
                "UPDATE state SET segment = ?, offset = ?, salt = ?, blobs = ?, bytes = ?, "
                "sums = ?, own = ?",
                (*mark, *state[1:], _own(state)),
            )
        return state

    def note(self, name: str, value: bytes) -> None:
        """Keep a small value under a name."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

    def take_times(self, old: Index) -> None:
        """When blobs came, from another index of this log."""
        if not old.outdated:
            mark = old.state().mark
            with self._transaction():
                self.times.take(old.times, (mark.segment, mark.offset))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # A full disk may have rolled it back already.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    # --- reading -----------------------------------------------------------------------------

    def unknown(self, digests: Sequence[Digest]) -> set[Digest]:
        """Those of `digests` that are not here."""
        return set(digests) - {row.digest for row in self.find(digests)}

    def find(self, digests: Sequence[Digest]) -> Iterator[Row]:
        """The rows of those digests that are here, in no particular order."""
        for at in range(0, len(digests), _GROUP):
            group = digests[at : at + _GROUP]
            marks = ",".join("?" * len(group))
            query = f"SELECT digest, segment, offset, size FROM blobs WHERE digest IN ({marks})"  # noqa: S608
            yield from map(_row, self._db.execute(query, group))

    def range(self, low: bytes, high: bytes | None, after: bytes, limit: int) -> list[Row]:
        """Up to `limit` rows with low <= digest < high and digest > after, ascending."""
        bound = "AND digest < ?" if high is not None else ""
        query = (
            "SELECT digest, segment, offset, size FROM blobs "  # noqa: S608
            f"WHERE digest >= ? AND digest > ? {bound} ORDER BY digest LIMIT ?"
        )
        values: Iterable[object] = (
            (low, after, high, limit) if high is not None else (low, after, limit)
        )
        return list(map(_row, self._db.execute(query, tuple(values))))

    def placed(self, segment: int, offset: int, limit: int) -> list[Row]:
        """Up to `limit` rows from a place in the log on, as they stand there."""
        query = (
            "SELECT digest, segment, offset, size FROM blobs "
            "WHERE (segment, offset) >= (?, ?) ORDER BY segment, offset LIMIT ?"
        )
        return list(map(_row, self._db.execute(query, (segment, offset, limit))))

    def sized(self, least: int, most: int) -> Iterator[Row]:
        """The rows of blobs of such a size, as they stand in the log; looks at all rows."""
        query = (
            "SELECT digest, segment, offset, size FROM blobs "
            "WHERE size BETWEEN ? AND ? ORDER BY segment, offset"
        )
        return map(_row, self._db.execute(query, (least, most)))

    def digests(self) -> Iterator[bytes]:
        """All digests, ascending, joined in chunks; IndexDamaged unless all rows are as written."""
        self._db.execute("BEGIN")
        try:
            yield from self._checked(self.state())
        finally:
            if self._db.in_transaction:
                self._db.execute("COMMIT")

    def _checked(self, state: State) -> Iterator[bytes]:
        blobs = size = sums = 0
        last = b""
        cursor = self._db.execute("SELECT digest, segment, offset, size FROM blobs ORDER BY digest")
        while rows := cursor.fetchmany(4096):
            for row in rows:
                # Row.sum, without making a Row of each of ten millions.
                if type(row[0]) is not bytes or row[0] <= last or type(row[3]) is not int:
                    raise IndexDamaged("its rows are out of order")
                last = row[0]
                size += row[3]
                sums += _sum(row)
            blobs += len(rows)
            yield b"".join(row[0] for row in rows)
        if (blobs, size, sums) != state[1:]:
            raise IndexDamaged("its rows are not what was written")

    def wanted(self, limit: int) -> tuple[int, list[Wanted]]:
        """How many blobs are wanted, and the first `limit` of them."""
        (count,) = self._db.execute("SELECT count(*) FROM wanted").fetchone()
        query = "SELECT digest, reason, since FROM wanted ORDER BY since, digest LIMIT ?"
        return count, list(map(_wanted, self._db.execute(query, (limit,))))

    def large(self) -> tuple[int, int]:
        """How many blobs are large, and their sizes summed; looks at all rows."""
        query = "SELECT count(*), coalesce(sum(size), 0) FROM blobs WHERE size >= ?"
        count, size = self._db.execute(query, (LARGE_BLOB,)).fetchone()
        return count, size

    def check(self) -> None:
        """Have SQLite compare its tables with their indexes; IndexDamaged when they do not fit.

        The sums cover the rows, not the order of places. Some seconds a million rows. The snapshots
        are compared with their blobs.
        """
        (said,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
        if said != "ok":
            raise IndexDamaged(f"its places are damaged: {said}")
        if not self.outdated:
            self.snapshots.check()

    def is_wanted(self, digest: Digest) -> bool:
        """Whether a blob is wanted."""
        query = "SELECT 1 FROM wanted WHERE digest = ?"
        return self._db.execute(query, (digest,)).fetchone() is not None

    def noted(self, name: str) -> bytes | None:
        """What was kept under a name; None when nothing was."""
        row = self._db.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return row[0] if row is not None and type(row[0]) is bytes else None


def _own(state: State) -> int:
    mark, *totals = state
    return crc32(_STATE.pack(mark.segment, mark.offset, *totals) + mark.salt)


def _sum(row: Sequence[object]) -> int:
    try:
        return crc32(_ROW.pack(*row))
    except struct.error:
        raise IndexDamaged("a row of it is none") from None


def _row(values: Sequence[object]) -> Row:
    digest, *numbers = values
    good = isinstance(digest, bytes) and len(digest) == DIGEST_SIZE
    if not good or any(type(number) is not int or number < 0 for number in numbers):
        raise IndexDamaged("a row of it is none")
    return Row._make(values)


def _wanted(values: Sequence[object]) -> Wanted:
    digest, reason, since = values
    if not (isinstance(digest, bytes) and isinstance(reason, str) and isinstance(since, float)):
        raise IndexDamaged("a wanted row of it is none")
    return Wanted(Digest(digest), reason, since)
