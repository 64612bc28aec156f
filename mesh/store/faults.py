"""Errors of the disk and of SQLite as StoreErrors: translated once, here, by their codes."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from mesh.errors import Full, StoreError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise Full for a disk without room and StoreError for the rest, saying `what` failed."""
    try:
        yield
    except OSError as error:
        kind = Full if error.errno in _NO_ROOM else StoreError
        raise kind(f"{what}: {error.strerror or error}") from error
    except sqlite3.Error as error:
        full = error.sqlite_errorcode == sqlite3.SQLITE_FULL if _coded(error) else False
        raise (Full if full else StoreError)(f"{what}: index: {error}") from error


def _coded(error: sqlite3.Error) -> bool:
    """Errors of the sqlite3 module itself carry no code of the library."""
    return hasattr(error, "sqlite_errorcode")


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether an index is broken, or of another version, so that it has to be rebuilt."""
    damage = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return not _coded(error) or error.sqlite_errorcode & 0xFF in damage
