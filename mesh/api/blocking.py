"""`mesh.sync.Client`: the client for code without async, on a thread with a loop of its own."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, TypeVar, TypeVarTuple

from anyio import run, to_thread
from anyio.from_thread import BlockingPortal

from mesh.api.batches import ASKED, grouped
from mesh.api.blobs import BlobInfo, Range, Stream
from mesh.api.client import Client as AsyncClient
from mesh.errors import InputError, MeshError
from mesh.events import Event
from mesh.status import RoundStats, Status, WaitAnswer

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Args = TypeVarTuple("Args")

BlockingSource: TypeAlias = bytes | bytearray | memoryview | os.PathLike[str] | Iterable[bytes]

# Blobs of a listing that one hop to the other thread brings: a hop costs some 0.1 ms.
_ROWS = 1000

# What is read ahead for small reads of an open blob.
_BUFFER = 512 * 1024


def _closed() -> InputError:
    return InputError("this client is closed; use it inside of `with`")


class Loop:
    """A thread with an event loop on which a client is open.

    Nothing here waits for that thread in a process that was forked: it has not come along.
    """

    def __init__(self, client: AsyncClient) -> None:
        """Start the thread, and open `client` there."""
        self._process = os.getpid()
        self._ends = False
        self._began: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(client,), name="mesh client", daemon=True
        )
        self._thread.start()
        self._portal = self._began.result()

    def _run(self, client: AsyncClient) -> None:
        try:
            run(self._live, client)
        except (MeshError, OSError) as error:  # of a loop that finds no descriptors, for example
            if self._began.done():
                raise
            self._began.set_exception(error)

    async def _live(self, client: AsyncClient) -> None:
        async with client, BlockingPortal() as portal:
            self._began.set_result(portal)
            await portal.sleep_until_stopped()

    @property
    def runs(self) -> bool:
        """Whether it can be called, in this process."""
        return not self._ends and self._process == os.getpid()

    @property
    def portal(self) -> BlockingPortal:
        """The way to the loop; InputError when it does not run."""
        if self._process != os.getpid():
            raise InputError(
                "this client was made before the process was forked; make another one in here"
            )
        if self._ends:
            raise _closed()
        return self._portal

    def call(self, work: Callable[[*Args], Awaitable[T]], *args: *Args) -> T:
        """The outcome of `work`, which is cancelled when whoever waits is interrupted."""
        future = self.portal.start_task_soon(work, *args)
        try:
            return future.result()
        except CancelledError:
            raise _closed() from None
        finally:
            future.cancel()  # of no effect when it is done

    def begin(self, work: Callable[[], Awaitable[None]]) -> None:
        """Have `work` done some time, if the loop runs; from any thread, also from the loop's."""
        if self.runs:
            with suppress(RuntimeError):  # it is this thread, or the loop has just ended
                self._portal.start_task_soon(work)

    def close(self) -> None:
        """End all that is under way, close the client, and wait for the thread."""
        if self.runs:
            self._ends = True
            self._portal.call(self._portal.stop, True)
            self._thread.join()


class _Closable(Protocol[T_co]):
    """An asynchronous iterator that can be left."""

    def __aiter__(self) -> AsyncIterator[T_co]: ...

    async def aclose(self) -> None: ...


class Client:
    """As `mesh.Client`, with methods that wait. Use it with `with`; many threads may use one.

    A fork does not take the thread along: make the client after it.
    """

    def __init__(self, url: str, *, key: str | None = None, key_file: str | None = None) -> None:
        """See `mesh.Client`."""
        self._client = AsyncClient(url, key=key, key_file=key_file)
        self._running: Loop | None = None

    def __enter__(self) -> Self:
        """Start the thread."""
        if self._running is not None:
            raise InputError("this client is in use already; make another one")
        self._running = Loop(self._client)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections and end the thread; a call of another thread is an InputError."""
        loop, self._running = self._running, None
        if loop is not None:
            loop.close()

    @property
    def _loop(self) -> Loop:
        if self._running is None:
            raise _closed()
        return self._running

    def put(self, source: BlockingSource) -> str:
        """See `mesh.Blobs`; a source whose bytes are made on the way is a plain iterable here."""
        if isinstance(source, bytes | bytearray | memoryview | os.PathLike):
            return self._loop.call(self._client.put, source)
        return self._loop.call(self._client.put, _Pulled(_iterated(source)))

    def put_all(self, blobs: Iterable[bytes]) -> Sequence[str]:
        """See `mesh.Blobs`."""
        digests: list[str] = []
        for group in grouped(blobs):
            digests += self._loop.call(self._client.put_all, group)
        return digests

    def get_all(self, digests: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """See `mesh.Blobs`."""
        return _drained(self._loop, self._client.get_all(tuple(digests)), ASKED)

    def get(self, digest: str, *, range: Range | None = None) -> bytes:  # noqa: A002
        """See `mesh.Blobs`."""

        async def get() -> bytes:
            return await self._client.get(digest, range=range)

        return self._loop.call(get)

    def open(self, digest: str) -> io.BufferedReader:
        """A blob as a file that can be read and sought. NotFound when nobody has it.

        Read from its first byte to its last, it is checked against its digest.
        """
        size = self.size(digest)
        return io.BufferedReader(Blob(self._loop, self._client, digest, size), _BUFFER)

    def size(self, digest: str) -> int:
        """See `mesh.Blobs`."""
        return self._loop.call(self._client.size, digest)

    def has(self, digests: Iterable[str]) -> set[str]:
        """See `mesh.Blobs`."""
        return self._loop.call(self._client.has, tuple(digests))

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """See `mesh.Blobs`."""
        return _drained(self._loop, self._client.list(prefix), _ROWS)

    def status(self) -> Status:
        """See `mesh.Blobs`."""
        return self._loop.call(self._client.status)

    def sync(self, *peers: str) -> Sequence[RoundStats]:
        """See `mesh.Blobs`."""
        return self._loop.call(self._client.sync, *peers)

    def events(self) -> Iterator[Event]:
        """See `mesh.Blobs`. To listen no more, leave the loop over them, or `close()` them."""
        return _drained(self._loop, self._client.events(), 1)

    def wait(self, timeout: float | None = None, *, whole: bool = False) -> WaitAnswer:
        """See `mesh.Blobs`."""

        async def wait() -> WaitAnswer:
            return await self._client.wait(timeout, whole=whole)

        return self._loop.call(wait)


class Blob(io.RawIOBase):
    """An open blob. One request serves all reads that follow each other; a seek begins another."""

    def __init__(self, loop: Loop, client: AsyncClient, digest: str, size: int) -> None:
        """`size` in bytes; `loop`: the one on which `client` lives."""
        self._loop = loop
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
            self._opened = self._loop.portal.wrap_async_context_manager(opening)
            self._stream = self._opened.__enter__()
        chunk = self._loop.call(_next, self._stream)
        self._left = memoryview(chunk)
        return bool(chunk)

    def _let_go(self) -> None:
        opened, self._opened, self._stream = self._opened, None, None
        self._left = memoryview(b"")
        if opened is not None and self._loop.runs:
            # The garbage collector may have us close on any thread, also on the loop's own one.
            with suppress(RuntimeError):
                opened.__exit__(None, None, None)


def _iterated(source: object) -> Iterator[bytes]:
    """What a source makes; InputError for what cannot be put."""
    if isinstance(source, Iterable) and not isinstance(source, str):
        return iter(source)
    raise InputError(
        f"cannot put a {type(source).__name__}; expected bytes, a pathlib.Path or an iterable"
    )


class _Pulled:
    """What a plain iterator makes, one chunk at a time, by a thread that may wait."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        # Whoever is interrupted does not wait for a producer that pauses.
        step = await to_thread.run_sync(_step, self._chunks, abandon_on_cancel=True)
        if step is None:
            raise StopAsyncIteration
        return step[0]


def _step(chunks: Iterator[bytes]) -> tuple[bytes] | None:
    """The next chunk; None at the end. A chunk that is None itself is the source's mistake."""
    for chunk in chunks:
        return (chunk,)
    return None


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    """The next chunk; b"" at the end."""
    async for chunk in chunks:
        return chunk
    return b""


def _drained(loop: Loop, items: _Closable[T], most: int) -> Iterator[T]:
    """The items of an asynchronous iterator, up to `most` of them waited for at a time.

    Whoever leaves this generator lets go of `items` as well.
    """

    async def following() -> list[T]:
        found: list[T] = []
        async for item in items:
            found.append(item)
            if len(found) == most:
                break
        return found

    try:
        while found := loop.call(following):
            yield from found
    finally:
        loop.begin(items.aclose)
