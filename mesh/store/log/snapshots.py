"""The snapshots among the blobs: a table of the index, derived from their bytes.

A row has the blob itself beside what it is looked for by. So what is listed is checked against the
blob's name and read again from its bytes, and a flipped bit in a row is noticed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from mesh.core.digest import Digest, digest_of
from mesh.core.snapshot import Snapshot, recognised
from mesh.store.base import ListedSnapshot, SnapshotFilter
from mesh.store.faults import IndexDamaged

COLUMNS = "digest, time, host, path, tag, data FROM snapshots"

SCHEMA = """
CREATE TABLE IF NOT EXISTS snapshots (
    digest BLOB PRIMARY KEY,
    time TEXT NOT NULL,
    host TEXT NOT NULL,
    path BLOB NOT NULL,
    tag TEXT,
    data BLOB NOT NULL         -- the blob
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS newest ON snapshots (time, digest);
"""


class Snapshots:
    """The table, on the connection of an index and within its transactions."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """`db`: of the index."""
        self._db = db

    def add(self, blobs: Iterable[tuple[Digest, bytes]]) -> None:
        """Add those of the blobs that are snapshots."""
        found = ((digest, data, recognised(data)) for digest, data in blobs)
        self._db.executemany(
            "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?)",
            [(d, s.time, s.host, s.path, s.tag, data) for d, data, s in found if s is not None],
        )

    def remove(self, digests: Iterable[Digest]) -> None:
        """These blobs are gone, whatever they were."""
        self._db.executemany("DELETE FROM snapshots WHERE digest = ?", [(d,) for d in digests])

    def newest(
        self, wanted: SnapshotFilter, before: tuple[str, Digest] | None, limit: int
    ) -> list[ListedSnapshot]:
        """See BlobStore.snapshots; IndexDamaged when a row is not what was written."""
        terms, values = _terms(wanted, before)
        query = f"SELECT {COLUMNS} {terms} ORDER BY time DESC, digest DESC LIMIT ?"
        return list(map(_listed, self._db.execute(query, (*values, limit))))

    def check(self) -> None:
        """IndexDamaged unless every row is what was written; 20 µs a row."""
        for row in self._db.execute(f"SELECT {COLUMNS}"):
            _listed(row)


def _terms(
    wanted: SnapshotFilter, before: tuple[str, Digest] | None
) -> tuple[str, Sequence[object]]:
    named = [(key, value) for key, value in wanted._asdict().items() if value is not None]
    terms, values = [f"{key} = ?" for key, _ in named], [value for _, value in named]
    if before is not None:
        terms.append("(time, digest) < (?, ?)")
        values += before
    return "WHERE " + " AND ".join(terms) if terms else "", values


def _listed(row: Sequence[object]) -> ListedSnapshot:
    digest, *looked_for, data = row
    if not isinstance(digest, bytes) or not isinstance(data, bytes) or digest_of(data) != digest:
        raise IndexDamaged("a snapshot in it is not what was written")
    snapshot = recognised(data)
    if snapshot is None or looked_for != _looked_for(snapshot):
        raise IndexDamaged("a snapshot in it is not what was written")
    return ListedSnapshot(Digest(digest), snapshot)


def _looked_for(snapshot: Snapshot) -> list[object]:
    return [snapshot.time, snapshot.host, snapshot.path, snapshot.tag]
