"""The index: where each blob stands, in SQLite. Derived from the log; may be thrown away.

One connection, one thread: the owner calls every method on the lane on which it was made.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mesh.core.digest import Digest

# A parameter each; SQLite allows 32,766, but the statement is prepared anew for every length.
_GROUP = 500

_SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (
    digest BLOB PRIMARY KEY,
    segment INTEGER NOT NULL,  -- 0: a large blob, in a file of its own
    offset INTEGER NOT NULL,   -- of the record's header
    size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    segment INTEGER NOT NULL,  -- the mark: everything before (segment, offset) is indexed
    offset INTEGER NOT NULL,
    blobs INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);
INSERT OR IGNORE INTO state VALUES (1, 0, 0, 0, 0);
"""


class Row(NamedTuple):
    """Where a blob is."""

    digest: Digest
    segment: int
    offset: int
    size: int


class State(NamedTuple):
    """The mark and the totals, written in the transaction that they describe."""

    segment: int
    offset: int
    blobs: int
    bytes: int


class Index:
    """A connection to the index."""

    def __init__(self, path: str, *, write: bool) -> None:
        """Open `path`; sqlite3.DatabaseError when it is damaged or of another version."""
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._db.execute("PRAGMA busy_timeout = 10000")
            # 16 MiB a connection: the upper levels of the tree at ten million rows.
            self._db.execute("PRAGMA cache_size = -16384")
            if write:
                self._create()
        except sqlite3.Error:
            self._db.close()
            raise

    def _create(self) -> None:
        # With WAL, NORMAL syncs at checkpoints only. A crash may cost the last transactions,
        # never the order of them, and the log behind the mark brings them back.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in (0, _SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"index version {version}")
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def load(self, path: str) -> None:
        """Take over the content of another index file that nobody else has open."""
        other = Index(path, write=True)
        try:
            # A log that is still to be applied is none of a copy in memory.
            other._db.execute("PRAGMA journal_mode = DELETE")
            other._db.backup(self._db)
        finally:
            other.close()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def state(self) -> State:
        """The mark and the totals."""
        row = self._db.execute("SELECT segment, offset, blobs, bytes FROM state").fetchone()
        return State(*row)

    def add(self, rows: Sequence[Row], segment: int, offset: int) -> State:
        """Insert `rows`, distinct and new, and move the mark in one transaction; the new state."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT INTO blobs VALUES (?, ?, ?, ?)", rows)
            self._db.execute(
                "UPDATE state SET segment = ?, offset = ?, blobs = blobs + ?, bytes = bytes + ?",
                (segment, offset, len(rows), sum(row.size for row in rows)),
            )
            self._db.execute("COMMIT")
        except sqlite3.Error:
            # A full disk may have rolled it back already.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return self.state()

    def unknown(self, digests: Sequence[Digest]) -> set[Digest]:
        """Those of `digests` that are not here."""
        return set(digests) - {row.digest for row in self.find(digests)}

    def find(self, digests: Sequence[Digest]) -> Iterator[Row]:
        """The rows of those digests that are here, in no particular order."""
        for at in range(0, len(digests), _GROUP):
            group = digests[at : at + _GROUP]
            marks = ",".join("?" * len(group))
            query = f"SELECT digest, segment, offset, size FROM blobs WHERE digest IN ({marks})"  # noqa: S608
            yield from map(Row._make, self._db.execute(query, group))

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
        return list(map(Row._make, self._db.execute(query, tuple(values))))

    def digests(self) -> Iterator[bytes]:
        """All digests, ascending, joined in chunks of 4,096."""
        cursor = self._db.execute("SELECT digest FROM blobs ORDER BY digest")
        while rows := cursor.fetchmany(4096):
            yield b"".join(row[0] for row in rows)
