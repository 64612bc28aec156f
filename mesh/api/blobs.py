"""What a program can do with blobs, whether it talks to a node or is one: the protocol `Blobs`."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from math import inf
from operator import index
from typing import Protocol, TypeAlias

import msgspec

from mesh.core.digest import Digest, new_hasher
from mesh.errors import Corrupt, InputError, printable
from mesh.events import Event
from mesh.status import RoundStats, Status, WaitAnswer

Source: TypeAlias = bytes | bytearray | memoryview | os.PathLike[str] | AsyncIterable[bytes]
"""Where the bytes of a blob come from: from memory, from a file, or as they are made.

A `str` is none of these: whether it would be a path or the bytes themselves, nobody could tell.
"""

Range: TypeAlias = tuple[int, int | None]
"""The bytes from the first number on, up to and without the second one; None is the end.

As with a slice, what lies behind the end of the blob is left out.
"""


# Behind the end of every blob. A longer number in a header is taken for a mistake.
_FARTHEST = 2**62


class BlobInfo(msgspec.Struct, frozen=True):
    """A blob of a listing: its name in 64 hex digits, and its size in bytes."""

    digest: str
    size: int


class Stream:
    """The bytes of an open blob, chunk by chunk. Nobody but its reader may read it.

    `digest`: its name. `size`: bytes of the whole blob. `start`, `stop`: which of them come.
    """

    def __init__(
        self, digest: Digest, size: int, start: int, stop: int, chunks: AsyncIterator[bytes]
    ) -> None:
        """`chunks` are the bytes [start, stop)."""
        self.digest = digest.hex()
        self.size = size
        self.start = start
        self.stop = stop
        self._chunks = chunks
        self._left = stop - start
        # Why nothing more can be read. A read that was cancelled has ended what it read from, and
        # whoever read on would take a part for the whole.
        self._over: str | None = None
        # Only the whole has a name by which it can be checked.
        self._hasher = new_hasher() if stop - start == size else None

    def __aiter__(self) -> Stream:
        """Itself."""
        return self

    async def __anext__(self) -> bytes:
        """The next chunk, of any length but 0.

        Corrupt at the end of a whole blob that turned out to be another one. InputError when an
        earlier read was cancelled or failed, or the block is left.
        """
        if self._over is not None:
            raise InputError(f"cannot read on in blob {self.digest}: {self._over}; open it again")
        self._over = "a read of it was cancelled, or failed"
        chunk = await self._some()
        self._over = None
        if chunk:
            return chunk
        self._check()
        raise StopAsyncIteration

    async def _some(self) -> bytes:
        """The next chunk; b"" at the end."""
        async for chunk in self._chunks:
            if chunk:
                self._left -= len(chunk)
                if self._hasher is not None:
                    self._hasher.update(chunk)
                return chunk
        return b""

    def _check(self) -> None:
        """Corrupt when all that came is not what was to come."""
        if self._hasher is not None and self._hasher.digest().hex() != self.digest:
            raise Corrupt(
                f"what came as blob {self.digest} is {self._hasher.digest().hex()}; get it again"
            )
        if self._left:
            asked = self.stop - self.start
            raise Corrupt(
                f"of blob {self.digest} {asked - self._left} bytes came instead of {asked}; "
                "get it again"
            )

    def close(self) -> None:
        """Nothing more is read. Leaving the block in which it was opened does this as well."""
        self._over = "the block in which it was open is left"

    async def read(self) -> bytes:
        """All that has not been read yet."""
        return b"".join([chunk async for chunk in self])


def bounds(range: Range | None) -> Range:  # noqa: A002 - the name that callers write
    """Where to begin and to end; InputError for what no slice of a blob is."""
    try:
        start, stop = (0, None) if range is None else range
        start, stop = index(start), None if stop is None else index(stop)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"a range of {printable(repr(range))[:80]}; expected (start, end), two whole numbers"
        ) from error
    if start < 0 or (stop is not None and stop < start):
        raise InputError(f"a range of {start} to {stop}; expected 0 <= start <= end")
    return min(start, _FARTHEST), None if stop is None else min(stop, _FARTHEST)


def patience(timeout: float | None) -> float | None:
    """For how many seconds to wait; None for no end. InputError for what is no time."""
    if timeout is None or timeout == inf:
        return None
    if not isinstance(timeout, int | float) or not timeout >= 0:
        raise InputError(f"a timeout of {printable(repr(timeout))[:80]}; expected seconds, or None")
    return float(timeout)


class Events(Protocol):
    """What happens in a node, event by event, for one task. It ends when the node stops."""

    def __aiter__(self) -> AsyncIterator[Event]:
        """Itself."""

    async def __anext__(self) -> Event:
        """The next event. The first one is `Began`: what happens behind it is told."""

    async def aclose(self) -> None:
        """Listen no more. Leaving the client or the node does this as well."""


class Blobs(Protocol):
    """A set of blobs: what `Client` and `Node` have in common.

    A digest is a `str` of 64 lower-case hex digits, as every command prints and takes it.
    All methods raise MeshErrors, and the errors of a source that is put. Which errors mean what:
    docs/api.md.
    """

    async def put(self, source: Source) -> str:
        """Store one blob; its digest. It is durable on return.

        InputError when a file changes while it is read; TooMuch when the blob is larger than the
        node takes; Full when there is no room.
        """

    async def put_all(self, blobs: Iterable[bytes]) -> Sequence[str]:
        """Store many blobs; their digests, in the same order. All are durable on return.

        For small blobs this is many times faster than one `put` after another. When it fails, some
        of them may have been stored.
        """

    def get_all(self, digests: Iterable[str]) -> AsyncGenerator[tuple[str, bytes], None]:
        """Many blobs, each with its digest, in the order of `digests`; checked like a whole `get`.

        NotFound at the first one that nobody who can be reached has. Up to 64 MiB of them, or one
        blob, are held in memory.
        """

    async def get(self, digest: str, *, range: Range | None = None) -> bytes:  # noqa: A002
        """The bytes of a blob, or a part of them; NotFound when nobody who can be reached has it.

        A whole blob is checked against its digest. A part cannot be: it is as good as the sums of
        the pieces that the node keeps.
        """

    def open(
        self,
        digest: str,
        *,
        range: Range | None = None,  # noqa: A002
    ) -> AbstractAsyncContextManager[Stream]:
        """The same as a stream, for a blob that need not be in memory at once."""

    async def size(self, digest: str) -> int:
        """How many bytes a blob has; NotFound as for `get`."""

    async def has(self, digests: Iterable[str]) -> set[str]:
        """Those of `digests` that the node itself has at this moment."""

    def list(self, prefix: str = "") -> AsyncGenerator[BlobInfo, None]:
        """All blobs of the node whose digests begin with `prefix`, in ascending order.

        Blobs that come meanwhile may be left out.
        """

    async def status(self) -> Status:
        """How the node and its peers stand."""

    async def sync(self, *peers: str) -> Sequence[RoundStats]:
        """A round with each of the peers named, or with all of them, at the same time.

        A round that failed says so in its `error`. InputError when there is no such peer.
        """

    async def wait(self, timeout: float | None = None, *, whole: bool = False) -> WaitAnswer:
        """Rounds until every peer is level, for up to `timeout` seconds.

        With `whole`, until every node that is reached through them is. Whether that was achieved
        is `level` of the answer.
        """

    def events(self) -> Events:
        """What happens: blobs that come, are damaged and come back, rounds, and how peers stand.

        A listener that is too slow gets a `Dropped` with the count of what it has missed.
        """
