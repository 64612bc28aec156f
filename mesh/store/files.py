"""The file port: all that the store does to a disk, except for SQLite's own files.

Small enough that a simulator or a test can put a disk of its own under the real store: one that
loses unsynced writes, tears them, fails the N-th call, or fills up.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from mesh.store.direct import check_place, open_direct

# Linux takes at most this many buffers in one writev (IOV_MAX, limits.h).
_IOV_MAX = 1024

# What somebody put in the place of a file of ours is not followed if it is a link, and not waited
# for if it is a pipe.
_CAREFUL = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Listed(NamedTuple):
    """One entry of a directory; `size` in bytes, `regular` False for links, pipes and the like."""

    name: str
    size: int
    regular: bool


class Space(NamedTuple):
    """A file system: bytes that are free for us and in all, and whether it takes no writes."""

    free: int
    total: int
    read_only: bool


class Appender(Protocol):
    """A file open for appending; one owner. After any OSError it must only be closed."""

    @property
    def size(self) -> int:
        """Bytes in the file, appended ones included."""

    def append(self, pieces: Sequence[bytes]) -> None:
        """Add the pieces in order."""

    def sync(self) -> None:
        """Make what was appended durable."""

    def check(self) -> None:
        """Raise OSError unless this file still stands under its name.

        A file that was removed, or whose disk was taken away, takes bytes that nobody finds again.
        """

    def close(self) -> None:
        """Let go of the file."""


class Reader(Protocol):
    """A file open for reading; may be shared between threads."""

    @property
    def size(self) -> int:
        """Bytes in the file now."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end of the file."""


class Files(Protocol):
    """A directory tree; names are relative and use '/'. Every method may raise OSError."""

    def make_directory(self, name: str) -> None:
        """Create a directory, durably, unless it is there.

        OSError for anything else in its place, also for a link to a directory, and for one on
        another file system, into which nothing could be renamed.
        """

    def check(self) -> None:
        """Raise OSError unless every directory that was made is the one that stands there now."""

    def append_to(self, name: str, *, create: bool, bulk: bool = False) -> Appender:
        """Open a file for appending; with `create` it must be new.

        `bulk`: a new file that is written once and not read at once.
        """

    def open(self, name: str) -> Reader:
        """Open a file for reading."""

    def list(self, name: str) -> list[Listed]:
        """The entries of a directory, by name."""

    def rename(self, old: str, new: str) -> None:
        """Move a file over `new`, atomically; durable after sync_directory."""

    def truncate(self, name: str, size: int) -> None:
        """Cut a file, durably."""

    def remove(self, name: str) -> None:
        """Delete a file."""

    def sync_directory(self, name: str) -> None:
        """Make the names in a directory durable."""

    def space(self) -> Space:
        """How much room there is."""


class DiskFiles:
    """The real thing, below one directory."""

    def __init__(self, root: Path) -> None:
        """`root` must exist."""
        self._root = root
        self._made: dict[str, tuple[int, int]] = {}

    def make_directory(self, name: str) -> None:
        """Create a directory and sync its parent; see Files.make_directory."""
        path = self._root / name
        try:
            status = path.stat(follow_symlinks=False)
        except FileNotFoundError:
            path.mkdir()
            _sync_directory(path.parent)
            status = path.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            raise _refused(errno.ELOOP, "is a symbolic link", path)
        if not stat.S_ISDIR(status.st_mode):
            raise _refused(errno.ENOTDIR, "is not a directory", path)
        root = self._root.stat()
        if status.st_dev != root.st_dev:
            raise _refused(errno.EXDEV, f"is on another file system than {self._root}", path)
        if "/" not in name:
            # Those below come and go; these are there as long as the store is open.
            self._made[name] = status.st_dev, status.st_ino
            self._made[""] = root.st_dev, root.st_ino

    def check(self) -> None:
        """Compare device and inode; a look at each of six directories."""
        for name, made in self._made.items():
            path = self._root / name
            status = path.stat(follow_symlinks=not name)
            if (status.st_dev, status.st_ino) != made:
                raise _refused(errno.ESTALE, "is another directory than at the start", path)

    def append_to(self, name: str, *, create: bool, bulk: bool = False) -> Appender:
        """Open with O_APPEND, and O_EXCL when it must be new; past the cache when it is bulk."""
        if create and bulk and (direct := open_direct(self._root / name)) is not None:
            return direct
        flags = os.O_WRONLY | os.O_APPEND | _CAREFUL
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        path = self._root / name
        return _DiskAppender(os.open(path, flags, 0o600), path)

    def open(self, name: str) -> Reader:
        """Open for reading; a link is not followed."""
        return _DiskReader(os.open(self._root / name, os.O_RDONLY | _CAREFUL))

    def list(self, name: str) -> list[Listed]:
        """The entries of a directory, sorted by name."""
        found = []
        with os.scandir(self._root / name) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # gone since it was listed
                    status = entry.stat(follow_symlinks=False)
                    regular = entry.is_file(follow_symlinks=False)
                    found.append(Listed(entry.name, status.st_size, regular))
        return sorted(found)

    def rename(self, old: str, new: str) -> None:
        """os.rename."""
        (self._root / old).rename(self._root / new)

    def truncate(self, name: str, size: int) -> None:
        """Cut and sync."""
        descriptor = os.open(self._root / name, os.O_WRONLY | _CAREFUL)
        try:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        """os.unlink."""
        (self._root / name).unlink()

    def sync_directory(self, name: str) -> None:
        """fsync of the directory."""
        _sync_directory(self._root / name)

    def space(self) -> Space:
        """statvfs."""
        found = os.statvfs(self._root)
        block = found.f_frsize
        read_only = bool(found.f_flag & os.ST_RDONLY)
        return Space(found.f_bavail * block, found.f_blocks * block, read_only)


class _DiskAppender:
    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        status = os.fstat(descriptor)
        self._size = status.st_size
        self._identity = status.st_dev, status.st_ino

    @property
    def size(self) -> int:
        return self._size

    def append(self, pieces: Sequence[bytes]) -> None:
        for at in range(0, len(pieces), _IOV_MAX):
            group = pieces[at : at + _IOV_MAX]
            wanted = sum(map(len, group))
            written = os.writev(self._descriptor, group)
            self._size += written
            if written < wanted:
                self._write(memoryview(b"".join(group))[written:])

    def _write(self, rest: memoryview) -> None:
        """What a short writev left over: a full disk shows itself on the next call."""
        while rest:
            written = os.write(self._descriptor, rest)
            self._size += written
            rest = rest[written:]

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def check(self) -> None:
        check_place(self._path, self._identity)

    def close(self) -> None:
        os.close(self._descriptor)


class _DiskReader:
    """Closed when nobody holds it any more: a read on another thread keeps it open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        data = os.pread(self._descriptor, length, offset)
        if len(data) == length or not data:
            return data
        pieces = [data]
        while data and (length := length - len(data)):
            offset += len(data)
            data = os.pread(self._descriptor, length, offset)
            pieces.append(data)
        return b"".join(pieces)

    def __del__(self) -> None:
        os.close(self._descriptor)


def _refused(code: int, what: str, path: Path) -> OSError:
    return OSError(code, what, str(path))


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
