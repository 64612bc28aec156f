"""Errors of the disk and of SQLite as StoreErrors: translated once, here, by their codes."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from mesh.errors import Full, Gone, ReadOnly, StoreError

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


# What to do about what a person has to put right. Of the rest the system's own words say enough.
_ADVICE = {
    errno.EEXIST: "move away what is in its place",
    errno.ENOTDIR: "move away what is in its place",
    errno.EISDIR: "move away what is in its place",
    errno.ELOOP: "a link is never followed; remove it, or mount what it points to there",
    errno.EXDEV: "mount the whole data directory there, or none of it",
    errno.ESTALE: "bring it back, or restart the node",
    errno.EACCES: "give it to the user of the node",
    errno.EPERM: "give it to the user of the node",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files (fs.file-max)",
}


@contextmanager
def translated(what: str, index: Path | None = None) -> Iterator[None]:
    """Raise Full for a disk without room, ReadOnly for one that takes no writes, Gone for what is
    not where it was, else StoreError.

    The message says what failed, at which path, and what to do. `index`: SQLite's file, which its
    own errors do not name. A broken index is an IndexDamaged, which the store cures itself.
    """
    try:
        yield
    except OSError as error:
        raise _kind(error)(f"{what}: {_said(error)}") from error
    except UnicodeDecodeError as error:  # a message of SQLite's that quotes what it found
        raise IndexDamaged(f"{what}: index: it is damaged") from error
    except sqlite3.Error as error:
        if isinstance(error, sqlite3.DatabaseError) and _is_broken(error):
            raise IndexDamaged(f"{what}: index: {error}") from error
        raise _index_kind(error)(f"{what}: {_said_of_index(error, index)}") from error


def _said(error: OSError) -> str:
    """The path, if there is one, what is wrong, and what to do."""
    name = error.filename if isinstance(error.filename, str) else None
    if isinstance(error.filename, PurePath):
        name = str(error.filename)
    text = error.strerror or str(error)
    text = text if name is None else f"{name}: {text}" if text[:1].isupper() else f"{name} {text}"
    advice = _ADVICE.get(error.errno or 0)
    return text if advice is None else f"{text}; {advice}"


def _said_of_index(error: sqlite3.Error, index: Path | None) -> str:
    where = "index" if index is None else f"index {index}"
    if _coded(error) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN:
        advice = "look at its owner, and at the limit of open files (ulimit -n)"
        return f"{where}: {error}; {advice}; without the file it is made anew"
    return f"{where}: {error}"


def _kind(error: OSError) -> type[StoreError]:
    if error.errno in _NO_ROOM:
        return Full
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return Gone
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
