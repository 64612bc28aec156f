"""`mesh.Node`: a node inside of a program, on the program's loop and with the program's signals.

It takes nothing that belongs to the process: no signal handler, no loop policy, no logging
configuration, no setting of the interpreter. Its tasks live in one task group, from entering
`async with` until leaving it.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import anyio
import anyio.lowlevel
import msgspec
from anyio import create_task_group

from mesh.api.assembly import Parts, assembled, run_until_stopped
from mesh.api.batches import grouped, in_batches
from mesh.api.blobs import BlobInfo, Events, Range, Source, Stream, bounds, patience
from mesh.api.sources import Bytes, Chunks, opened
from mesh.config import Config, problems_of
from mesh.core.digest import Digest, digest_of, parse_digest, parse_prefix
from mesh.core.limits import LARGE_BLOB
from mesh.errors import ConfigError, InputError, NotFound, StoreError, TooMuch
from mesh.node import Node as Actors
from mesh.racing import Ungrouped, unless
from mesh.server.app import Asgi
from mesh.server.repairs.flow import Receive, Scope, Send
from mesh.server.serve import bind, url_of
from mesh.status import RoundStats, Status, WaitAnswer
from mesh.store.base import Blob, Item
from mesh.store.directory import DataDirectory
from mesh.wire.frames import Frame, FrameReader

T = TypeVar("T")

# Above this size hashing takes longer than a hop to a thread and back.
_ASIDE = 128 * 1024

# Bytes of a blob in memory that are written at a time.
_PIECE = 512 * 1024

_PAGE = 10_000  # blobs of a listing that are read at a time, 1 MB


class Node:
    """A node in this process, as `mesh.Blobs` describes it. Use it with `async with`, once."""

    def __init__(self, config: Config, *, serve: bool = True) -> None:
        """`serve`: listen where `config` says, as `mesh run` does.

        Without, other nodes reach this one only by `asgi_app`, where the program has mounted it;
        it still calls its peers by itself. `config.backend` is of no meaning: the loop is the one
        that runs. ConfigError when the configuration cannot work.
        """
        for problem in problems_of(config):
            raise ConfigError(problem)
        self.config = config
        self._serve = serve
        self._used = False
        self._parts: Parts | None = None
        self._url: str | None = None
        self._stack = AsyncExitStack()
        self._ended = anyio.Event()
        self._failure: BaseException | None = None

    # --- life --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the store, and return when the node is ready.

        ConfigError when the address or the data directory cannot be had, StoreError when the store
        cannot be opened.
        """
        if self._used:
            raise InputError("a node runs once; make another one to run it again")
        self._used = True
        with Ungrouped():
            async with AsyncExitStack() as stack:
                await self._begin(stack)
                self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Stop: requests under way may end for `shutdown_seconds`, then the store is closed.

        This is so as well when the program's task is cancelled: nothing of the node stays behind.
        """
        self._parts = None
        with Ungrouped():
            if isinstance(error, Exception):  # the program's own, which a task group would wrap
                await self._stack.aclose()
                return False
            suppressed = await self._stack.__aexit__(kind, error, traceback)
        if self._failure is not None and error is None:
            raise self._failure
        return bool(suppressed)

    async def _while_it_runs(self, work: Callable[[], Awaitable[T]]) -> T:
        """The outcome of `work()`; StoreError when another task leaves the node before."""
        parts = self._parts
        if parts is None:
            raise _not_running()

        async def stopped() -> None:
            await parts.stop.wait()

        return await unless(stopped, work, lambda: StoreError("the node is stopping"))

    async def _begin(self, stack: AsyncExitStack) -> None:
        listener: socket.socket | None = None
        if self._serve:
            listener = bind(*self.config.endpoint())
            stack.callback(listener.close)
            self._url = url_of(listener)
        directory = DataDirectory.claim(Path(self.config.data), self.config.node_id)
        stack.callback(directory.release)
        parts = await stack.enter_async_context(assembled(self.config, directory, _backend()))
        group = await stack.enter_async_context(create_task_group())
        # Whatever ends the program's block, and this one: the group then waits for the node's end.
        stack.callback(parts.stop.set)
        group.start_soon(self._run, parts, listener)
        await unless(self._ended.wait, parts.node.keeper.built, self._why)
        self._parts = parts

    async def _run(self, parts: Parts, listener: socket.socket | None) -> None:
        """The node's tasks, which end in order when `parts.stop` is set, and in no other way.

        Hypercorn, when it is cancelled instead, leaves a task behind on asyncio.
        """
        try:
            with anyio.CancelScope(shield=True):
                await run_until_stopped(parts, listener)
        except (StoreError, OSError) as error:
            self._failure = error
        finally:
            self._ended.set()

    def _why(self) -> Exception:
        """Why the node ended before it was ready."""
        failure, self._failure = self._failure, None
        return failure if isinstance(failure, Exception) else StoreError("the node was stopped")

    @property
    def _node(self) -> Actors:
        if self._parts is None:
            raise _not_running()
        return self._parts.node

    # --- who it is ---------------------------------------------------------------------------

    @property
    def node_id(self) -> str:
        """The id of the data directory, 32 hex digits."""
        return self._node.identity.node_id.hex()

    @property
    def name(self) -> str:
        """What peers call it."""
        return self._node.identity.name

    @property
    def url(self) -> str:
        """Where it listens; InputError for a node that does not serve."""
        if self._url is None:
            raise InputError("this node does not listen (serve=False); it has no URL")
        return self._url

    @property
    def asgi_app(self) -> Asgi:
        """The node's HTTP interface, to be mounted in an application; it may be asked for early.

        While the node does not run, requests are answered with 503.
        """
        return self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return  # the node's life is its `async with`, and not the server's
        if self._parts is None:
            await _unavailable(scope, send)
            return
        await self._parts.app(scope, receive, send)

    # --- mesh.Blobs --------------------------------------------------------------------------

    async def put(self, source: Source) -> str:
        """See `mesh.Blobs`."""
        node = self._node
        async with opened(source) as taken:
            size = len(taken.data) if isinstance(taken, Bytes) else taken.size
            self._admit(node, size or 0)
            if isinstance(taken, Bytes) and len(taken.data) < LARGE_BLOB:
                data = taken.data
                aside = len(data) > _ASIDE
                digest = await node.work(digest_of, data) if aside else digest_of(data)
                return await _kept(node, Blob(digest, data))
            # A source may pause for longer than the node runs.
            return await self._while_it_runs(partial(self._streamed, node, taken))

    async def _streamed(self, node: Actors, taken: Bytes | Chunks) -> str:
        """Put what comes in pieces, as a file of its own if it grows large."""
        async with node.keeper.door.incoming(None) as incoming:
            async with aclosing(_chunks(taken)) as chunks:
                async for chunk in chunks:
                    await incoming.write(chunk)
                    self._admit(node, incoming.size, more=True)
            return await _kept(node, await incoming.finish())

    def _admit(self, node: Actors, size: int, *, more: bool = False) -> None:
        """TooMuch, Full or ReadOnly; `more` when a part of the blob has been taken already."""
        limit = self.config.most_per_put()
        if size > limit:
            raise TooMuch(f"a blob here may have {limit} bytes at most (max_blob_bytes)")
        if not more:
            node.keeper.disk.admit(size)

    async def put_all(self, blobs: Iterable[bytes]) -> Sequence[str]:
        """See `mesh.Blobs`."""
        node, digests = self._node, list[str]()
        for group in grouped(blobs):
            if len(group[0]) >= LARGE_BLOB:  # alone, see `grouped`
                digests.append(await self.put(group[0]))
                continue
            for data in group:
                self._admit(node, len(data))
            items = await node.work(_named, group)
            await node.keeper.put(items)
            digests += [item.digest.hex() for item in items]
        return digests

    async def get_all(self, digests: Iterable[str]) -> AsyncGenerator[tuple[str, bytes], None]:
        """See `mesh.Blobs`."""
        async with aclosing(in_batches(digests, self._batch, self.get)) as pairs:
            async for digest, data in pairs:
                yield digest, data

    async def _batch(self, names: Sequence[Digest]) -> list[Frame]:
        reader, found = FrameReader(), list[Frame]()
        async with aclosing(self._node.reader.frames(names)) as chunks:
            async for chunk in chunks:
                found += reader.feed(chunk)
        return found

    async def get(self, digest: str, *, range: Range | None = None) -> bytes:  # noqa: A002
        """See `mesh.Blobs`."""
        async with self.open(digest, range=range) as stream:
            return await stream.read()

    @asynccontextmanager
    async def open(
        self,
        digest: str,
        *,
        range: Range | None = None,  # noqa: A002
    ) -> AsyncIterator[Stream]:
        """See `mesh.Blobs`."""
        name = parse_digest(digest)
        start, stop = bounds(range)
        size = await self._size(name)
        start = min(start, size)
        stop = size if stop is None else max(start, min(stop, size))
        pieces = await self._node.reader.stream(name, size, start, stop)
        if pieces is None:
            raise NotFound(f"blob {digest} was damaged, and no peer that can be reached has it")
        async with aclosing(pieces):
            with closing(Stream(name, size, start, stop, pieces)) as stream:
                yield stream

    async def size(self, digest: str) -> int:
        """See `mesh.Blobs`."""
        return await self._size(parse_digest(digest))

    async def _size(self, name: Digest) -> int:
        size = await self._node.reader.size(name)
        if size is None:
            raise NotFound(f"blob {name.hex()} is not here, nor at a peer that can be reached")
        return size

    async def has(self, digests: Iterable[str]) -> set[str]:
        """See `mesh.Blobs`."""
        keeper = self._node.keeper
        return {digest for digest in digests if keeper.has(parse_digest(digest))}

    async def list(self, prefix: str = "") -> AsyncGenerator[BlobInfo, None]:
        """See `mesh.Blobs`."""
        after, below = b"", parse_prefix(prefix)
        while True:
            rows = await self._node.keeper.door.listing(below, after, _PAGE)
            for digest, size in rows:
                yield BlobInfo(digest.hex(), size)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    async def status(self) -> Status:
        """See `mesh.Blobs`."""
        await anyio.lowlevel.checkpoint()
        return self._node.status()

    async def sync(self, *peers: str) -> Sequence[RoundStats]:
        """See `mesh.Blobs`."""
        node = self._node
        found = [node.find_peer(name) for name in peers] or node.peers
        stats: dict[str, RoundStats] = {}

        async def one(name: str) -> None:
            stats[name] = await node.find_peer(name).sync()

        places = tuple(dict.fromkeys(peer.address.place for peer in found))
        with Ungrouped():
            async with create_task_group() as group:
                for place in places:
                    group.start_soon(one, place)
        return [stats[place] for place in places]

    def events(self) -> Events:
        """See `mesh.Blobs`."""
        return self._node.listen()

    async def wait(self, timeout: float | None = None, *, whole: bool = False) -> WaitAnswer:
        """See `mesh.Blobs`."""
        wait = partial(self._node.wait_and_tell, patience(timeout), whole=whole)
        return await self._while_it_runs(wait)


def _not_running() -> InputError:
    return InputError("this node does not run; use it inside of `async with`")


def _named(group: list[bytes]) -> list[Blob]:
    return [Blob(digest_of(data), data) for data in group]


async def _kept(node: Actors, item: Item) -> str:
    await node.keeper.put([item])
    return item.digest.hex()


async def _chunks(taken: Bytes | Chunks) -> AsyncGenerator[bytes, None]:
    """What is put, in pieces that are hashed one by one."""
    if isinstance(taken, Bytes):
        for at in range(0, len(taken.data), _PIECE):
            yield taken.data[at : at + _PIECE]
        return
    async for chunk in taken:
        yield chunk


def _backend() -> str:
    """Which loop runs: asyncio or trio."""
    token = anyio.lowlevel.current_token().native_token
    return "trio" if type(token).__module__.partition(".")[0] == "trio" else "asyncio"


async def _unavailable(scope: Scope, send: Send) -> None:
    """The node does not run: a request gets 503, a websocket is closed."""
    if scope["type"] != "http":
        await send({"type": "websocket.close"})
        return
    body = msgspec.json.encode({"error": "the node does not run"}) + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
