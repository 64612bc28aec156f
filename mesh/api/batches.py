"""Many blobs in one request: how they are grouped, and the frames that a group is sent as."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice

from mesh.core.digest import Digest, digest_of, parse_digest
from mesh.core.limits import LARGE_BLOB
from mesh.errors import InputError
from mesh.wire.frames import Frame, Kind, end, frame

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


async def in_batches(
    digests: Iterable[str],
    batch: Callable[[Sequence[Digest]], Awaitable[list[Frame]]],
    single: Callable[[str], Awaitable[bytes]],
) -> AsyncGenerator[tuple[str, bytes], None]:
    """The blobs of `digests` in order, most of them by `batch`, checked.

    What is large, absent or damaged on its way is left to `single`, which says what is wrong.
    """
    asked = iter(digests)
    while group := [parse_digest(digest) for digest in islice(asked, ASKED)]:
        found: dict[Digest, bytes] = {}
        later = set(group)
        for name in group:
            if name in later:
                frames = await batch([each for each in dict.fromkeys(group) if each in later])
                later = {each.digest for each in frames if each.kind == Kind.LATER}
                found = {
                    each.digest: each.data
                    for each in frames
                    if each.kind == Kind.BLOB and digest_of(each.data) == each.digest
                }
            data = found.get(name)
            yield name.hex(), data if data is not None else await single(name.hex())
