"""When blobs came: a table of the index that says from which place of the log on it was when.

The log does not tell, so this is lost with the index. It is for people, and decides nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

COLUMNS = "segment, offset, at FROM times"

SCHEMA = """
CREATE TABLE IF NOT EXISTS times (
    segment INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    at REAL,                   -- seconds since 1970; NULL: not known
    PRIMARY KEY (segment, offset)
) WITHOUT ROWID;
"""

# A row is good for so many seconds: people ask for the day and the minute, and a node that takes
# blobs all the time gets 15 MB of rows a year.
_SECONDS = 60.0

# The year 9999 ends: what is later is no time that a clock said, but a flipped bit.
_END = 253_402_300_800.0


class Since(NamedTuple):
    """What stands in the log from here on came at this time; None when that is not known."""

    segment: int
    offset: int
    at: float | None


class Times:
    """The table, on the connection of an index and within its transactions."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """`db`: of the index."""
        self._db = db

    def note(self, since: Since) -> None:
        """Add a row, unless the last one says the same."""
        query = f"SELECT {COLUMNS} ORDER BY segment DESC, offset DESC LIMIT 1"
        last = _time(self._db.execute(query).fetchone())
        if since.at is None or last is None:
            same = since.at is None and last is None
        else:
            same = last <= since.at < last + _SECONDS
        if not same:
            self._db.execute("INSERT OR REPLACE INTO times VALUES (?, ?, ?)", since)

    def at(self, segment: int, offset: int) -> float | None:
        """When the record at a place of the log came, give or take a minute."""
        query = (
            f"SELECT {COLUMNS} WHERE (segment, offset) <= (?, ?) "
            "ORDER BY segment DESC, offset DESC LIMIT 1"
        )
        return _time(self._db.execute(query, (segment, offset)).fetchone())

    def take(self, other: Times, end: tuple[int, int]) -> None:
        """The rows of another index of the same log, which knows the log up to `end`."""
        rows = [row for row in other._rows() if row[:2] < end]
        self._db.executemany("INSERT OR REPLACE INTO times VALUES (?, ?, ?)", rows)
        self.note(Since(*end, None))

    def _rows(self) -> list[tuple[int, int, float | None]]:
        return self._db.execute(f"SELECT {COLUMNS} ORDER BY segment, offset").fetchall()


def _time(row: Sequence[object] | None) -> float | None:
    """The time in a row; None for none, and for what cannot be one: SQLite checks no types."""
    at = row[2] if row is not None else None
    return at if isinstance(at, float) and 0 <= at < _END else None
