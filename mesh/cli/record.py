"""What was put before: which file, as it was then, was which blob. One record for each node.

It saves reading and hashing and is nothing more: it may be deleted at any time, and a `put` without
it is slower and does the same. So every fault of it ends here: a record that is damaged is begun
anew, one that is locked or cannot be written is left alone, and the user is told once.

A wrong entry would be worse than none. So each entry holds the file's stamp beside the digest, with
a checksum over both and the name. A file whose stamp is another one is read, and so is one that was
still fresh when it was hashed (see stamp.is_settled). And what the record says is only ever a
question to the node, which may have lost the blob.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple
from zlib import crc32

from mesh.cli.stamp import STAMP_SIZE
from mesh.core.digest import DIGEST_SIZE, Digest
from mesh.errors import one_line, printable

# The layout of the tables; a record with another one is begun anew.
_VERSION = 1

# What a damaged file may lead to; SQLite's words about it need not be text.
_FAULTS = (sqlite3.Error, OSError, UnicodeDecodeError)

# Seconds that another put may hold the record: its commits take milliseconds.
_PATIENCE = 1.0

# Entries of files that have gone are never looked for. A record that has grown to this size, some
# 30 million entries, is begun anew, which costs one put that reads everything.
_MOST_BYTES = 4 * 1024**3

_ENTRY_SIZE = STAMP_SIZE + DIGEST_SIZE + 4  # the checksum

# Directories whose numbers are remembered while entries are written.
_NUMBERS = 10_000

_TABLES = (
    "DROP TABLE IF EXISTS files",
    "DROP TABLE IF EXISTS directories",
    "CREATE TABLE directories (number INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE)",
    "CREATE TABLE files (directory INTEGER, name BLOB, entry BLOB NOT NULL,"
    " PRIMARY KEY (directory, name)) WITHOUT ROWID",
    f"PRAGMA user_version = {_VERSION}",
)


class Note(NamedTuple):
    """A file that is at the node: its absolute path, its stamp when it was read, its digest."""

    path: bytes
    stamp: bytes
    digest: Digest


class Record:
    """The record of one node. Its methods block, raise nothing, and may be called by any thread."""

    def __init__(self, file: str, complain: Callable[[str], None]) -> None:
        """`complain` is given one line, once at most, when the record cannot be used."""
        self._file = file
        self._complain = complain
        self._lock = threading.Lock()
        self._numbers: dict[bytes, int] = {}
        self._connection: sqlite3.Connection | None = None
        with self._guarded():
            os.makedirs(os.path.dirname(file), 0o700, exist_ok=True)
            with suppress(FileNotFoundError):
                if os.stat(file).st_size > _MOST_BYTES:
                    os.unlink(file)
            self._connection = _opened(file)

    def directories(self, paths: Iterable[bytes]) -> dict[bytes, Mapping[bytes, bytes]]:
        """The entries of the files in each of these directories, by name; `digest_in` reads one.

        A directory may be left out when the record turns out to be damaged. It is one transaction:
        the locks that SQLite takes for each cost more than the answer.
        """
        query = (
            "SELECT name, entry FROM files WHERE directory ="
            " (SELECT number FROM directories WHERE path = ?)"
        )
        found: dict[bytes, Mapping[bytes, bytes]] = {}
        with self._guarded() as connection:
            if connection is not None:
                connection.execute("BEGIN")
                try:
                    for path in paths:
                        found[path] = dict(connection.execute(query, (path,)))
                finally:
                    if connection.in_transaction:
                        connection.execute("COMMIT")
        return found

    def file(self, directory: bytes, name: bytes) -> bytes | None:
        """The entry of one file."""
        with self._guarded() as connection:
            if connection is not None:
                row = connection.execute(
                    "SELECT entry FROM files WHERE name = ? AND directory ="
                    " (SELECT number FROM directories WHERE path = ?)",
                    (name, directory),
                ).fetchone()
                return row[0] if row is not None else None
        return None

    def note(self, notes: Iterable[Note]) -> None:
        """Remember files; all of them or, when that fails, none."""
        with self._guarded() as connection:
            if connection is None:
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                rows = [self._row(connection, note) for note in notes]
                connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    self._numbers.clear()
                    connection.execute("ROLLBACK")

    def close(self) -> None:
        """Nothing is remembered any more."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _row(self, connection: sqlite3.Connection, note: Note) -> tuple[int, bytes, bytes]:
        path, _, name = note.path.rpartition(b"/")
        number = self._numbers.get(path)
        if number is None:
            connection.execute("INSERT OR IGNORE INTO directories (path) VALUES (?)", (path,))
            found = connection.execute("SELECT number FROM directories WHERE path = ?", (path,))
            row = found.fetchone()
            if row is None:
                raise sqlite3.DatabaseError("its index is damaged")
            if len(self._numbers) >= _NUMBERS:
                self._numbers.clear()
            number = self._numbers[path] = row[0]
        return number, name, _entry(name, note)

    @contextmanager
    def _guarded(self) -> Iterator[sqlite3.Connection | None]:
        """The connection, None without one; an error of it is the end of it."""
        with self._lock:
            try:
                yield self._connection
            except _FAULTS as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        what = "it is not used this time"
        if _is_damage(error):
            with suppress(OSError):
                os.unlink(self._file)
                what = "it is begun anew"
        self._complain(
            f"the record of what was put before, {printable(self._file)}: {one_line(error)}; "
            f"{what}, and files are read that need not be"
        )


def digest_in(entry: object, name: bytes, stamp: bytes) -> Digest | None:
    """The digest in an entry; None unless the entry is sound and of the file with this stamp."""
    # In a damaged record it may be of any type.
    if not isinstance(entry, bytes) or len(entry) != _ENTRY_SIZE or not entry.startswith(stamp):
        return None
    content, check = entry[:-4], entry[-4:]
    if crc32(content, crc32(name)).to_bytes(4, "little") != check:
        return None
    return Digest(content[STAMP_SIZE:])


def record_file(environ: Mapping[str, str], node_id: str) -> str:
    """Where the record of a node is: below XDG_CACHE_HOME, or ~/.cache."""
    cache = environ.get("XDG_CACHE_HOME", "")
    # By the XDG specification a relative path is to be ignored.
    if not os.path.isabs(cache):
        cache = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "mesh", f"put-{node_id}.sqlite")


def _entry(name: bytes, note: Note) -> bytes:
    content = note.stamp + note.digest
    return content + crc32(content, crc32(name)).to_bytes(4, "little")


def _opened(file: str) -> sqlite3.Connection:
    try:
        return _connected(file)
    except _FAULTS as error:
        if not _is_damage(error):
            raise
        os.unlink(file)
        return _connected(file)


def _connected(file: str) -> sqlite3.Connection:
    """A connection to a record that has its tables."""
    # Any thread may use it: the lock lets one at a time.
    connection = sqlite3.connect(
        file, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
    )
    try:
        # What a power cut leaves may be damaged, and is begun anew; a kill damages nothing.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.text_factory = bytes  # there is none, unless an entry is damaged
        if not _has_tables(connection):
            connection.execute("BEGIN EXCLUSIVE")
            if not _has_tables(connection):  # another put may just have made them
                for statement in _TABLES:
                    connection.execute(statement)
            connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _has_tables(connection: sqlite3.Connection) -> bool:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return bool(version == _VERSION)


def _is_damage(error: Exception) -> bool:
    """Whether the file is not, or no longer, a record. Locked, full and the like are not that."""
    if type(error) is sqlite3.OperationalError:
        return str(error).startswith("no such")  # table or column: its schema has rotted
    return type(error) in (sqlite3.DatabaseError, UnicodeDecodeError)
