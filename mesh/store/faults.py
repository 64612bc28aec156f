"""Errors of the disk and of SQLite as StoreErrors: translated once, here, by their codes."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from mesh.errors import Full, ReadOnly, StoreError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise Full for a disk without room, ReadOnly for one that takes no writes, else StoreError.

    The message says `what` failed.
    """
    try:
        yield
    except OSError as error:
        raise _kind(error)(f"{what}: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise _index_kind(error)(f"{what}: index: {error}") from error


def _kind(error: OSError) -> type[StoreError]:
    if error.errno in _NO_ROOM:
        return Full
    return ReadOnly if error.errno == errno.EROFS else StoreError


def _index_kind(error: sqlite3.Error) -> type[StoreError]:
    code = error.sqlite_errorcode if _coded(error) else 0
    # Its shared memory is a file that has to be made as large as it will be.
    if code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return Full
    return ReadOnly if code & 0xFF == sqlite3.SQLITE_READONLY else StoreError


def _coded(error: sqlite3.Error) -> bool:
    """Errors of the sqlite3 module itself carry no code of the library."""
    return hasattr(error, "sqlite_errorcode")


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether an index is broken, or of another version, so that it has to be rebuilt."""
    damage = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return not _coded(error) or error.sqlite_errorcode & 0xFF in damage
