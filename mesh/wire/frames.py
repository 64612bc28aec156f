"""Many blobs in one body: a frame each, and an end mark so that a cut stream is seen.

A frame is a header of 41 bytes (kind, digest, length as 8 bytes big-endian) and, for BLOB, the
bytes. END counts the frames before it in place of a length.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from mesh.core.digest import Digest
from mesh.core.limits import LARGE_BLOB
from mesh.errors import Misbehaved, Unreachable

_HEADER = Struct(">B32sQ")
HEADER_SIZE = _HEADER.size

_NOTHING = Digest(bytes(32))


class Kind(IntEnum):
    """What a frame says of its digest."""

    END = 0
    BLOB = 1
    ABSENT = 2  # the sender does not have it
    LARGE = 3  # it has it, in `length` bytes: too large for a frame, ask for it alone
    LATER = 4  # it has it, but this answer is long enough: ask again


_KINDS = tuple(Kind)  # by their numbers; calling Kind costs more than all else of a frame


class Frame(NamedTuple):
    """One frame; `data` is empty but for BLOB."""

    kind: Kind
    digest: Digest
    length: int
    data: bytes = b""


def frame(kind: Kind, digest: Digest, length: int = 0) -> bytes:
    """The header of a frame; the bytes of a BLOB follow it."""
    return _HEADER.pack(kind, digest, length)


def end(frames: int) -> bytes:
    """The end mark after `frames` frames."""
    return _HEADER.pack(Kind.END, _NOTHING, frames)


class FrameReader:
    """Frames out of chunks of any size. Holds at most one frame that is not complete.

    A frame stays in memory until its hash is known, so `limit` bounds the memory of a stream.
    """

    def __init__(self, limit: int = LARGE_BLOB - 1) -> None:
        """`limit`: the largest body of a frame that is accepted, in bytes."""
        self._limit = limit
        # Of a frame that has begun: what has come of it, and how many bytes it takes until its
        # header, or all of it, is there.
        self._begun = bytearray()
        self._needed = HEADER_SIZE
        self._seen = 0
        self.ended = False

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that `chunk` completes; Misbehaved when it cannot be frames.

        Frames that lie whole in a chunk are cut out of it, so their bytes are copied once.
        """
        frames: list[Frame] = []
        at = 0
        while self._begun:
            part = chunk[at : at + self._needed - len(self._begun)]
            at += len(part)
            self._begun += part
            if len(self._begun) < self._needed:
                return frames
            begun = bytes(self._begun)
            self._begun = bytearray(begun[self._cut(begun, 0, frames) :])
        at = self._cut(chunk, at, frames)
        if self.ended and at < len(chunk):
            raise Misbehaved("the peer's batch goes on after its end mark")
        self._begun += chunk[at:]
        return frames

    def _cut(self, data: bytes, at: int, frames: list[Frame]) -> int:
        """Take the frames that are whole from `at` on; where the first begins that is not."""
        self._needed = HEADER_SIZE
        while not self.ended and len(data) - at >= HEADER_SIZE:
            kind, digest, length = _HEADER.unpack_from(data, at)
            start = at + HEADER_SIZE
            end = start + self._body_length(kind, digest, length)
            if end > len(data):
                self._needed = end - at
                break
            if kind == Kind.END:
                self.ended = True
            else:
                body = bytes(data[start:end])  # no second copy, where the chunk is bytes
                frames.append(Frame(_KINDS[kind], Digest(digest), length, body))
                self._seen += 1
            at = end
        return at

    def finish(self) -> None:
        """No more chunks will come; Unreachable when the end mark has not been seen."""
        if not self.ended:
            raise Unreachable(f"the batch was cut after {self._seen} blobs")

    def _body_length(self, kind: int, digest: bytes, length: int) -> int:
        """How many bytes follow a header, checked before they are waited for."""
        if kind == Kind.BLOB:
            if length > self._limit:
                raise Misbehaved(f"a frame of {length} bytes; the limit is {self._limit}")
            return length
        if kind > Kind.LATER:
            raise Misbehaved(f"a frame of unknown kind {kind}")
        if kind == Kind.END and length != self._seen:
            raise Misbehaved(f"the end mark counts {length} frames, {self._seen} came")
        if kind == Kind.END and digest != _NOTHING:
            raise Misbehaved(f"the end mark names a blob, {digest.hex()}")
        return 0
