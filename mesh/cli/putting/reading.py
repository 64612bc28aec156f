"""What `put` reads: files in groups that make one request, large ones on their own."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import NamedTuple, TypeAlias, TypeVar

from anyio import to_thread

from mesh.cli.putting.resting import Directories, at_rest
from mesh.cli.putting.survey import Batch
from mesh.cli.putting.watching import Watcher
from mesh.cli.stamp import is_settled, stamp_of
from mesh.cli.walk import Found, FoundFile
from mesh.core.digest import Digest, digest_of, new_hasher
from mesh.core.limits import LARGE_BLOB
from mesh.errors import MeshError, one_line

T = TypeVar("T")

# One request's worth of small files: enough that the request's own cost (some ms) vanishes.
_GROUP_FILES = 1000
_GROUP_BYTES = 8 * 1024 * 1024

# How often a file is read that changes meanwhile: what somebody just saves is at rest the second
# time, and what is written to all day never is.
TRIES = 2

# Bytes that are read at a time.
_PIECE = 512 * 1024

# And hashed at a time: the way to a thread and back, 0.1 ms, is nothing beside it, and Ctrl-C waits
# for some milliseconds.
_SOME = 4 * 1024 * 1024

# A large file up to this size is read once: its bytes are kept until they are sent. A quarter of
# what is held at a time (steps.py), so that several files are in hand at once.
KEPT = 16 * 1024 * 1024

_CHANGED = "changed while it was read; put it again when nobody writes to it"


class Changed(MeshError):
    """A file was written to while it was read: what was read may never have been its content."""


class File(NamedTuple):
    """A file whose digest is known, and its bytes, unless the node holds them.

    `stamp`: by which to know it again; None when it was not read, or may not be known by it.
    """

    found: FoundFile
    digest: Digest
    size: int
    data: bytes | None
    stamp: bytes | None


class Large(NamedTuple):
    """A file that goes to the node by a request of its own."""

    found: FoundFile

    @property
    def kept(self) -> int:
        """The bytes that are kept once they are read; 0 for a file that is read again."""
        return self.found.size if self.found.size <= KEPT else 0


class Hashed(NamedTuple):
    """A large file with its digest, and its bytes, in pieces, unless it is to be read again."""

    file: File
    pieces: Sequence[bytes] = ()


class Aside(NamedTuple):
    """Something without bytes: a directory, a link, or what cannot be put and why."""

    found: Found


class Trouble(NamedTuple):
    """A file that could not be read, or that the node does not take."""

    source: bytes
    reason: str


class Group(NamedTuple):
    """Files for one request, and what was found between them.

    A directory or a link does not end a group: a tree has one for every few files, and a request
    each would cost more than all of their bytes.
    """

    files: list[File]
    others: list[Aside | Trouble]


Job: TypeAlias = Group | Large


class Reader:
    """Reads what the node lacks."""

    def __init__(self, watcher: Watcher, limit: int | None, clock: Callable[[], int]) -> None:
        """`limit`: bytes of a blob that the node takes, if it said so; `clock`: ns since 1970."""
        self._watcher = watcher
        self._limit = limit
        self._clock = clock

    def jobs(self, batch: Batch) -> Iterator[Job]:
        """Everything in a batch, files in order; small ones without a digest are read and hashed.

        It blocks.
        """
        with closing(Directories()) as directories:
            yield from self._jobs(batch, directories)

    def _jobs(self, batch: Batch, directories: Directories) -> Iterator[Job]:
        group, size, fresh = Group([], []), 0, 0
        for found, digest in zip(*batch, strict=True):
            if digest is not None and isinstance(found, FoundFile):
                group.files.append(File(found, digest, found.size, None, None))
                continue
            job = self._read(found, directories)
            match job:
                case File():
                    group.files.append(job)
                    fresh += 1
                    size += job.size
                case Aside() | Trouble():
                    group.others.append(job)
            full = max(fresh, len(group.others)) >= _GROUP_FILES or size >= _GROUP_BYTES
            if full or (isinstance(job, Large) and (group.files or group.others)):
                self._watcher.hashed(size)
                yield group
                group, size, fresh = Group([], []), 0, 0
            if isinstance(job, Large):
                yield job
        if group.files or group.others:
            self._watcher.hashed(size)
            yield group

    async def hashed(self, large: Large) -> Hashed | Trouble:
        """A large file with its digest, read and hashed on a thread."""
        found = large.found
        for attempt in range(1, TRIES + 1):
            try:
                with opened(found) as descriptor:
                    reading = Reading(descriptor, self._clock(), keep=large.kept)
                    while size := await to_thread.run_sync(reading.some):
                        self._watcher.hashed(size)
                file = File(found, reading.digest(), reading.read, None, reading.stamp)
                return Hashed(file, reading.pieces or ())
            except Changed as error:
                if attempt == TRIES:
                    return Trouble(found.source, one_line(error))
            except OSError as error:
                return Trouble(found.source, error.strerror or str(error))
        raise AssertionError("unreachable")

    def _read(self, found: Found, directories: Directories) -> File | Large | Aside | Trouble:
        if not isinstance(found, FoundFile):
            return Aside(found)
        if self._limit is not None and found.size > self._limit:
            return Trouble(
                found.source,
                f"has {found.size} bytes, and the node takes {self._limit} bytes at most; start "
                "the node with a larger --max-blob",
            )
        if found.size >= LARGE_BLOB:
            return Large(found)
        began = self._clock()
        if (resting := at_rest(found, directories)) is not None:
            data, status = resting
            stamp = found.stamp if is_settled(status, began) else None
            return File(found, digest_of(data), found.size, data, stamp)
        try:
            return again(lambda: self._whole(found))
        except Changed as error:
            return Trouble(found.source, str(error))
        except OSError as error:
            return Trouble(found.source, error.strerror or str(error))

    def _whole(self, found: FoundFile) -> File | Large:
        began = self._clock()
        with opened(found) as descriptor:
            before = os.fstat(descriptor)
            data = _all(descriptor)
            if data is None:
                return Large(found)  # it has grown since
            after = os.fstat(descriptor)
            # Files of the kernel, as in /proc, say that they have no bytes.
            if (before.st_size and len(data) != before.st_size) or changed(before, after):
                raise Changed(_CHANGED)
        return File(found, digest_of(data), len(data), data, lasting(before, after, began))


def lasting(before: os.stat_result, after: os.stat_result, began: int) -> bytes | None:
    """By what to know a file again that was read from `began` on; None when it may not be."""
    stamp = stamp_of(after)
    return stamp if stamp_of(before) == stamp and is_settled(after, began) else None


class Reading:
    """A file that is open: its pieces, its digest so far, and whether it stays the same."""

    def __init__(self, descriptor: int, began: int = 0, keep: int = 0) -> None:
        """`began`: the time, in ns since 1970. `keep`: its pieces are kept up to so many bytes."""
        self._descriptor = descriptor
        self._began = began
        self._before = os.fstat(descriptor)
        self._hasher = new_hasher()
        # Files of the kernel, as in /proc, say that they have no bytes: they are read to the end.
        self.size = self._before.st_size or None
        self.read = 0
        self.stamp: bytes | None = None
        # What was hashed of a file that is no larger than it may be; None of any other.
        self.pieces: list[bytes] | None = [] if (self.size or 0) <= keep else None
        self._keep = keep

    def piece(self) -> bytes:
        """The next bytes, hashed; b"" after the last of those that were there when it was opened.

        Changed when the file is another by then.
        """
        data = self.unhashed()
        self._hasher.update(data)
        if self.read > self._keep:
            self.pieces = None
        elif self.pieces is not None and data:
            self.pieces.append(data)
        return data

    def unhashed(self) -> bytes:
        """The same, not hashed: the digest is known already."""
        most = _PIECE if self.size is None else min(_PIECE, self.size - self.read)
        data = os.read(self._descriptor, most)
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

    def some(self) -> int:
        """Read a few MiB, for the digest alone; how many bytes, 0 at the end.

        At the end `stamp` is by what to know the file again, or None when it may not be.
        """
        before = self.read
        while self.read - before < _SOME and self.piece():
            pass
        if self.read == before:
            self.stamp = lasting(self._before, os.fstat(self._descriptor), self._began)
        return self.read - before


def changed(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether a file was written to between the two looks."""
    return (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)


@contextmanager
def opened(found: FoundFile) -> Iterator[int]:
    """A descriptor of a file that the walk found. Only a link that the user named is followed.

    Changed when something else has its name by now: a FIFO would seem to be an empty file, and a
    device may have no end.
    """
    with closing(Directories()) as directories:
        descriptor = directories.open(found)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Changed(_CHANGED)
        yield descriptor
    finally:
        os.close(descriptor)


def again(read: Callable[[], T]) -> T:
    """What `read` makes of a file, at the second try if the file changes during the first."""
    for _ in range(TRIES - 1):
        try:
            return read()
        except Changed:
            continue
    return read()


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
