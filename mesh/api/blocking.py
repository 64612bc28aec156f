"""`mesh.sync.Client`: the client for code without async, on a thread with a loop of its own."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

from anyio import to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from mesh.api.batches import ASKED, grouped
from mesh.api.blobs import BlobInfo, Range, Stream
from mesh.api.client import Client as AsyncClient
from mesh.errors import InputError
from mesh.events import Event
from mesh.status import RoundStats, Status, WaitAnswer

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")

BlockingSource: TypeAlias = bytes | bytearray | memoryview | os.PathLike[str] | Iterable[bytes]

# Blobs of a listing that one hop to the other thread brings: a hop costs some 0.1 ms.
_ROWS = 1000

# What is read ahead for small reads of an open blob.
_BUFFER = 512 * 1024


class Client:
    """As `mesh.Client`, with methods that wait. Use it with `with`; many threads may use one.

    A fork does not take the thread along: make the client after it.
    """

    def __init__(self, url: str, *, key: str | None = None, key_file: str | None = None) -> None:
        """See `mesh.Client`."""
        self._client = AsyncClient(url, key=key, key_file=key_file)
        self._stack = ExitStack()
        self._running: BlockingPortal | None = None

    def __enter__(self) -> Self:
        """Start the thread."""
        if self._running is not None:
            raise InputError("this client is in use already; make another one")
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            stack.enter_context(portal.wrap_async_context_manager(self._client))
            self._stack = stack.pop_all()
            self._running = portal
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections and end the thread. Calls of other threads have to be over."""
        self._running = None
        self._stack.close()

    @property
    def _portal(self) -> BlockingPortal:
        if self._running is None:
            raise InputError("this client is closed; use it inside of `with`")
        return self._running

    def put(self, source: BlockingSource) -> str:
        """See `mesh.Blobs`; a source whose bytes are made on the way is a plain iterable here."""
        if isinstance(source, str):
            raise InputError("cannot put a str; expected bytes, a pathlib.Path or an iterable")
        if isinstance(source, bytes | bytearray | memoryview | os.PathLike):
            return self._portal.call(self._client.put, source)
        return self._portal.call(self._client.put, _Pulled(iter(source)))

    def put_all(self, blobs: Iterable[bytes]) -> Sequence[str]:
        """See `mesh.Blobs`."""
        digests: list[str] = []
        for group in grouped(blobs):
            digests += self._portal.call(self._client.put_all, group)
        return digests

    def get_all(self, digests: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """See `mesh.Blobs`."""
        return _drained(self._portal, self._client.get_all(tuple(digests)), ASKED)

    def get(self, digest: str, *, range: Range | None = None) -> bytes:  # noqa: A002
        """See `mesh.Blobs`."""

        async def get() -> bytes:
            return await self._client.get(digest, range=range)

        return self._portal.call(get)

    def open(self, digest: str) -> io.BufferedReader:
        """A blob as a file that can be read and sought. NotFound when nobody has it.

        Read from its first byte to its last, it is checked against its digest.
        """
        size = self.size(digest)
        return io.BufferedReader(Blob(self._portal, self._client, digest, size), _BUFFER)

    def size(self, digest: str) -> int:
        """See `mesh.Blobs`."""
        return self._portal.call(self._client.size, digest)

    def has(self, digests: Iterable[str]) -> set[str]:
        """See `mesh.Blobs`."""
        return self._portal.call(self._client.has, tuple(digests))

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """See `mesh.Blobs`."""
        return _drained(self._portal, self._client.list(prefix), _ROWS)

    def status(self) -> Status:
        """See `mesh.Blobs`."""
        return self._portal.call(self._client.status)

    def sync(self, *peers: str) -> Sequence[RoundStats]:
        """See `mesh.Blobs`."""
        return self._portal.call(self._client.sync, *peers)

    def events(self) -> Iterator[Event]:
        """See `mesh.Blobs`. Waiting for one keeps the client open: leave `with` afterwards."""
        return _drained(self._portal, self._client.events(), 1)

    def wait(self, timeout: float | None = None, *, whole: bool = False) -> WaitAnswer:
        """See `mesh.Blobs`."""

        async def wait() -> WaitAnswer:
            return await self._client.wait(timeout, whole=whole)

        return self._portal.call(wait)


class Blob(io.RawIOBase):
    """An open blob. One request serves all reads that follow each other; a seek begins another."""

    def __init__(self, portal: BlockingPortal, client: AsyncClient, digest: str, size: int) -> None:
        """`size` in bytes; `portal`: of the loop on which `client` lives."""
        self._portal = portal
        self._client = client
        self._digest = digest
        self._size = size
        self._at = 0
        self._stream: Stream | None = None
        self._opened: AbstractContextManager[Stream] | None = None
        self._left = memoryview(b"")
        self._lock = threading.RLock()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; nothing is asked for before the next read."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}.get(whence)
        if base is None or base + offset < 0:
            raise InputError(f"cannot seek to {offset} ({whence}) in a blob")
        with self._lock:
            if base + offset != self._at:
                self._let_go()
            self._at = base + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` as far as the next chunk goes; 0 at the end."""
        room = memoryview(buffer).cast("B")
        with self._lock:
            if not self._left and not self._more():
                return 0
            count = min(len(room), len(self._left))
            room[:count] = self._left[:count]
            self._left = self._left[count:]
            self._at += count
            return count

    def close(self) -> None:
        """End the request, if there is one."""
        if not self.closed:
            with self._lock:
                self._let_go()
        super().close()

    def _more(self) -> bool:
        """Have another chunk, if there is one."""
        if self._stream is None:
            if self._at >= self._size:
                return False
            part = None if self._at == 0 else (self._at, None)
            opening = self._client.open(self._digest, range=part)
            self._opened = self._portal.wrap_async_context_manager(opening)
            self._stream = self._opened.__enter__()
        chunk = self._portal.call(_next, self._stream)
        self._left = memoryview(chunk)
        return bool(chunk)

    def _let_go(self) -> None:
        opened, self._opened, self._stream = self._opened, None, None
        self._left = memoryview(b"")
        if opened is not None:
            opened.__exit__(None, None, None)


class _Pulled:
    """What a plain iterator makes, one chunk at a time, by a thread that may wait."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await to_thread.run_sync(next, self._chunks, None)
        if chunk is None:
            raise StopAsyncIteration
        return chunk


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    """The next chunk; b"" at the end."""
    async for chunk in chunks:
        return chunk
    return b""


def _drained(portal: BlockingPortal, items: AsyncIterator[T], most: int) -> Iterator[T]:
    """The items of an asynchronous iterator, up to `most` of them waited for at a time."""

    async def following() -> list[T]:
        found: list[T] = []
        async for item in items:
            found.append(item)
            if len(found) == most:
                break
        return found

    while found := portal.call(following):
        yield from found
