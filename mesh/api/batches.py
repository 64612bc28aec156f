"""Many blobs in one request: how they are grouped, and the frames that a group is sent as."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mesh.core.digest import Digest
from mesh.core.limits import LARGE_BLOB
from mesh.errors import InputError
from mesh.wire.frames import Kind, end, frame

# One request's worth: enough that its own cost, some ms, vanishes beside what it carries.
_BLOBS = 1000
_BYTES = 8 * 1024 * 1024

# Digests that are asked for at a time. The answer is held until it has been handed on, and the node
# ends it at 64 MiB.
ASKED = 500


def grouped(blobs: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Groups of what goes into one request, in order; a blob of LARGE_BLOB bytes or more is alone.

    InputError for what is no bytes.
    """
    group: list[bytes] = []
    size = 0
    for blob in blobs:
        if not isinstance(blob, bytes):
            raise InputError(f"cannot put a {type(blob).__name__} among others; expected bytes")
        large = len(blob) >= LARGE_BLOB
        if group and (large or len(group) >= _BLOBS or size + len(blob) > _BYTES):
            yield group
            group, size = [], 0
        if large:
            yield [blob]
            continue
        group.append(blob)
        size += len(blob)
    if group:
        yield group


def batch_of(blobs: Iterable[tuple[Digest, bytes]]) -> bytes:
    """The frames of small blobs, each with its digest, and the end mark."""
    pieces: list[bytes] = []
    for digest, data in blobs:
        pieces += (frame(Kind.BLOB, digest, len(data)), data)
    return b"".join([*pieces, end(len(pieces) // 2)])
