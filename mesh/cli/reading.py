"""What `put` reads: files in groups that make one request, large ones on their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

from mesh.cli.putting.watching import Watcher
from mesh.cli.walk import Found, FoundDirectory, FoundFile, FoundLink, Skipped, Unreadable
from mesh.core.digest import Digest, digest_of, new_hasher
from mesh.core.limits import LARGE_BLOB
from mesh.errors import MeshError

# One request's worth of small files: enough that the request's own cost (some ms) vanishes.
_GROUP_FILES = 1000
_GROUP_BYTES = 8 * 1024 * 1024

# How often a file is read that changes meanwhile: what somebody just saves is at rest the second
# time, and what is written to all day never is.
TRIES = 2

# Bytes that are read at a time.
_PIECE = 512 * 1024

_CHANGED = "changed while it was read; put it again when nobody writes to it"


class Changed(MeshError):
    """A file was written to while it was read: what was read may never have been its content."""


class Small(NamedTuple):
    """A file that was read whole."""

    found: FoundFile
    digest: Digest
    data: bytes


class Large(NamedTuple):
    """A file that is streamed."""

    found: FoundFile


class Aside(NamedTuple):
    """Something without bytes: a directory, a link, or what cannot be put and why."""

    found: Found


class Trouble(NamedTuple):
    """A file that could not be read."""

    source: bytes
    reason: str


class Group(NamedTuple):
    """Small files for one request, and what was found between them.

    A directory or a link does not end a group: a tree has one for every few files, and a request
    each would cost more than all of their bytes.
    """

    files: list[Small]
    others: list[Aside | Trouble]


Job: TypeAlias = Group | Large


def jobs(walked: Iterable[Found], watcher: Watcher | None = None) -> Iterator[Job]:
    """Everything that was found, ready to be sent; files in order. `watcher` is told of it."""
    watcher = watcher or Watcher()
    group, size = Group([], []), 0
    for found in walked:
        if isinstance(found, FoundFile):
            watcher.found(1, found.size)
        job = _read(found)
        match job:
            case Small():
                watcher.hashed(len(job.data))
                group.files.append(job)
                size += len(job.data)
            case Aside() | Trouble():
                group.others.append(job)
        large = isinstance(job, Large)
        longest = max(len(group.files), len(group.others))
        if longest >= _GROUP_FILES or size >= _GROUP_BYTES or (large and longest):
            yield group
            group, size = Group([], []), 0
        if isinstance(job, Large):
            yield job
    if group.files or group.others:
        yield group


class Reading:
    """A file that is open: its pieces, its digest so far, and whether it stays the same."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._before = os.fstat(descriptor)
        self._hasher = new_hasher()
        # Files of the kernel, as in /proc, say that they have no bytes: they are read to the end.
        self.size = self._before.st_size or None
        self.read = 0

    def piece(self) -> bytes:
        """The next bytes; b"" after the last of those that were there when it was opened.

        Changed when the file is another by then.
        """
        most = _PIECE if self.size is None else min(_PIECE, self.size - self.read)
        data = os.read(self._descriptor, most)
        self._hasher.update(data)
        self.read += len(data)
        if not data:
            self.unchanged()
        return data

    def unchanged(self) -> None:
        """Changed unless the file is what it was when it was opened, and all of it was read."""
        if self.size is None:
            return
        if self.read != self.size or changed(self._before, os.fstat(self._descriptor)):
            raise Changed(_CHANGED)

    def digest(self) -> Digest:
        """Of what was read."""
        return Digest(self._hasher.digest())


def changed(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether a file was written to between the two looks."""
    return (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)


@contextmanager
def opened(found: FoundFile) -> Iterator[int]:
    """A descriptor of a file that the walk found. A link is followed if the user named it."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(found.source, flags | os.O_NOFOLLOW if found.path else flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def again(read: Callable[[], Small | Large]) -> Small | Large:
    """What `read` makes of a file, at the second try if the file changes during the first."""
    for _ in range(TRIES - 1):
        try:
            return read()
        except Changed:
            continue
    return read()


def _read(found: Found) -> Small | Large | Aside | Trouble:
    if isinstance(found, FoundDirectory | FoundLink | Skipped | Unreadable):
        return Aside(found)
    if found.size >= LARGE_BLOB:
        return Large(found)
    try:
        return again(lambda: _whole(found))
    except Changed as error:
        return Trouble(found.source, str(error))
    except OSError as error:
        return Trouble(found.source, error.strerror or str(error))


def _whole(found: FoundFile) -> Small | Large:
    with opened(found) as descriptor:
        before = os.fstat(descriptor)
        data = _all(descriptor)
        if data is None:
            return Large(found)  # it has grown since
        # Files of the kernel, as in /proc, say that they have no bytes.
        if (before.st_size and len(data) != before.st_size) or changed(
            before, os.fstat(descriptor)
        ):
            raise Changed(_CHANGED)
    return Small(found, digest_of(data), data)


def _all(descriptor: int) -> bytes | None:
    """The bytes of a file below LARGE_BLOB; None when there are more."""
    pieces: list[bytes] = []
    size = 0
    while piece := os.read(descriptor, 1024 * 1024):
        pieces.append(piece)
        size += len(piece)
        if size >= LARGE_BLOB:
            return None
    return b"".join(pieces)
