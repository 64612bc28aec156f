"""What `put` reads: files in groups that make one request, large ones on their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from mesh.cli.walk import (
    Found,
    FoundDirectory,
    FoundFile,
    FoundLink,
    Skipped,
    Unreadable,
    walk,
)
from mesh.core.digest import Digest, digest_of
from mesh.core.limits import LARGE_BLOB

# One request's worth of small files: enough that the request's own cost (some ms) vanishes.
_GROUP_FILES = 1000
_GROUP_BYTES = 8 * 1024 * 1024


class Small(NamedTuple):
    """A file that was read whole."""

    found: FoundFile
    digest: Digest
    data: bytes


class Group(NamedTuple):
    """Small files for one request."""

    files: list[Small]


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


Job: TypeAlias = Group | Large | Aside | Trouble


def jobs(path: Path) -> Iterator[Job]:
    """Everything below `path`, in order, ready to be sent."""
    files: list[Small] = []
    size = 0
    for found in walk(path):
        job = _read(found)
        if isinstance(job, Small):
            files.append(job)
            size += len(job.data)
        if files and (
            not isinstance(job, Small) or size >= _GROUP_BYTES or len(files) >= _GROUP_FILES
        ):
            yield Group(files)
            files, size = [], 0
        if not isinstance(job, Small):
            yield job
    if files:
        yield Group(files)


def open_file(found: FoundFile, *, follow: bool) -> int:
    """A descriptor of a file that the walk found; `follow` when the user named it himself."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    return os.open(found.source, flags if follow else flags | os.O_NOFOLLOW)


def _read(found: Found) -> Small | Large | Aside | Trouble:
    if isinstance(found, FoundDirectory | FoundLink | Skipped | Unreadable):
        return Aside(found)
    if found.size >= LARGE_BLOB:
        return Large(found)
    try:
        with open(open_file(found, follow=not found.path), "rb", buffering=0) as file:
            data = _all(file.fileno())
    except OSError as error:
        return Trouble(found.source, error.strerror or str(error))
    if data is None:
        return Large(found)  # it has grown since
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
