"""Errors of the disk and of SQLite as StoreErrors: translated once, here, by their codes."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from mesh.errors import Full, StoreError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# A read that fails so has met a damaged place, or a file that is gone or is something else now.
# All others (no descriptors, no memory, no permission) say nothing of the bytes.
_DAMAGE = (
    errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENXIO, errno.ENODATA,
    errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENOTDIR,
)  # fmt: skip

# SQLite could not work, but not because of what stands in the file.
_NOT_DAMAGE = (
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_INTERRUPT,
)  # fmt: skip


class IndexDamaged(StoreError):
    """The index is not what was written: it has to be rebuilt from the log."""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise Full for a disk without room and StoreError for the rest, saying `what` failed.

    A broken index is an IndexDamaged, which the store cures by itself.
    """
    try:
        yield
    except OSError as error:
        kind = Full if error.errno in _NO_ROOM else StoreError
        raise kind(f"{what}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:  # a message of SQLite's that quotes what it found
        raise IndexDamaged(f"{what}: index: it is damaged") from error
    except sqlite3.Error as error:
        if isinstance(error, sqlite3.DatabaseError) and _is_broken(error):
            raise IndexDamaged(f"{what}: index: {error}") from error
        full = error.sqlite_errorcode == sqlite3.SQLITE_FULL if _coded(error) else False
        raise (Full if full else StoreError)(f"{what}: index: {error}") from error


def _coded(error: sqlite3.Error) -> bool:
    """Errors of the sqlite3 module itself carry no code of the library."""
    return hasattr(error, "sqlite_errorcode")


def _is_broken(error: sqlite3.DatabaseError) -> bool:
    if isinstance(error, sqlite3.ProgrammingError):
        return False  # a connection that was closed meanwhile
    broken = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return not _coded(error) or error.sqlite_errorcode & 0xFF in broken


def unusable(error: sqlite3.DatabaseError) -> bool:
    """Whether an index that fails so when it is opened has to be rebuilt.

    A flipped bit in the schema shows itself as a missing table or column, or as bad SQL.
    """
    return not _coded(error) or error.sqlite_errorcode & 0xFF not in _NOT_DAMAGE


def means_damage(error: OSError) -> bool:
    """Whether a read that failed so has met damage, so that the blob is as good as gone."""
    return error.errno in _DAMAGE
