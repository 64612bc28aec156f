"""A disk that takes no writes: full, or mounted read-only. Its blobs are served all the same."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from mesh.store.base import Room
from mesh.store.faults import IndexDamaged, translated
from mesh.store.files import Appender, Files, Listed, Reader, Space
from mesh.store.log.index import Index

_NO_WRITES = (errno.EROFS, errno.ENOSPC, errno.EDQUOT)

# A file of this size is written to find out whether the disk takes writes: a block of most.
_TRIAL = bytes(4096)
_TRIAL_NAME = "tmp/trial"


def room_of(files: Files) -> Room:
    """How much room there is; ReadOnly when the file system takes no writes.

    Gone when the directory is another one than at the start: removed, or unmounted.
    """
    with translated("cannot write"):
        files.check()
        space = files.space()
        if space.read_only:
            raise OSError(errno.EROFS, "the file system is mounted read-only")
    return Room(space.free, space.total)


def tried(files: Files) -> Room:
    """Write a little, and tell how much room there is; raises what the write met."""
    room = room_of(files)
    with translated("cannot write"):
        with suppress(FileNotFoundError):
            files.remove(_TRIAL_NAME)
        file = files.append_to(_TRIAL_NAME, create=True)
        try:
            file.append([_TRIAL])
            file.sync()
        finally:
            file.close()
            with suppress(OSError):
                files.remove(_TRIAL_NAME)
    return room


def index_in_memory(path: Path | None) -> Index:
    """An index in memory with what the one at `path` holds, as far as that can be read.

    SQLite cannot read its own file where it may not write beside it, so a copy is opened in the
    system's temporary directory. What it lacks, recovery brings from the log.
    """
    index = Index(":memory:", write=True)
    if path is None:
        return index
    try:
        with tempfile.TemporaryDirectory(prefix="mesh-") as place:
            shutil.copyfile(path, f"{place}/index")
            with suppress(FileNotFoundError):  # as after a clean stop
                shutil.copyfile(f"{path}-wal", f"{place}/index-wal")
            index.load(f"{place}/index")
        index.state()
    except (OSError, sqlite3.Error, IndexDamaged):
        # No room there either, or no index, or one of another version: the log has everything.
        index.close()
        return Index(":memory:", write=True)
    return index


class Lenient:
    """A `Files` for recovery on such a disk: what cannot be changed is left to a later start."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def make_directory(self, name: str) -> None:
        """As far as possible."""
        self._try(self._files.make_directory, name)

    def check(self) -> None:
        """See Files."""
        self._files.check()

    def append_to(self, name: str, *, create: bool, bulk: bool = False) -> Appender:
        """Only for a sync of what is there; where nothing is written, nothing is to be synced."""
        try:
            return self._files.append_to(name, create=create, bulk=bulk)
        except OSError as error:
            if error.errno not in _NO_WRITES:
                raise
            return _Nothing()

    def open(self, name: str) -> Reader:
        """Reading is what works."""
        return self._files.open(name)

    def list(self, name: str) -> list[Listed]:
        """A directory that could not be made is empty."""
        try:
            return self._files.list(name)
        except FileNotFoundError:
            return []

    def rename(self, old: str, new: str) -> None:
        """As far as possible."""
        self._try(self._files.rename, old, new)

    def truncate(self, name: str, size: int) -> None:
        """As far as possible."""
        self._try(self._files.truncate, name, size)

    def remove(self, name: str) -> None:
        """As far as possible."""
        self._try(self._files.remove, name)

    def sync_directory(self, name: str) -> None:
        """As far as possible."""
        self._try(self._files.sync_directory, name)

    def space(self) -> Space:
        """See Files."""
        return self._files.space()

    def _try(self, act: Callable[..., None], *args: object) -> None:
        try:
            act(*args)
        except OSError as error:
            if error.errno not in _NO_WRITES:
                raise


class _Nothing:
    """An Appender that never appends."""

    size = 0

    def append(self, pieces: Sequence[bytes]) -> None:
        raise OSError(errno.EROFS, f"{len(pieces)} pieces cannot be written")

    def sync(self) -> None:
        pass

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass
