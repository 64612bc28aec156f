"""`mesh.Client`: the blobs of a node that is reached over HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing, contextmanager
from types import TracebackType
from typing import Self

import msgspec
from anyio import CancelScope, create_task_group, to_thread

from mesh.api.batches import batch_of, grouped, in_batches
from mesh.api.blobs import BlobInfo, Events, Range, Source, Stream, bounds, patience
from mesh.api.listening import Listening
from mesh.api.sources import Bytes, opened
from mesh.config import Address, key_of, parse_peer, read_keys
from mesh.core.digest import Digest, digest_of, parse_digest, parse_prefix
from mesh.core.limits import LARGE_BLOB
from mesh.errors import (
    ConfigError,
    Corrupt,
    Full,
    InputError,
    MeshError,
    NotFound,
    Refused,
    one_line,
)
from mesh.status import RoundStats, Status, WaitAnswer
from mesh.transport.client import NodeClient, checked, node_client
from mesh.wire.frames import Frame

# Above this size hashing takes longer than a hop to a thread and back.
_ASIDE = 128 * 1024

# Characters of a path that need no escape (RFC 3986); others are not known to name a mount.
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*", re.ASCII)


class Client:
    """A node, as `mesh.Blobs` describes it. Use it with `async with`.

    Many tasks may use one client at the same time. Connections are made when they are needed.
    """

    def __init__(self, url: str, *, key: str | None = None, key_file: str | None = None) -> None:
        """`url`: of the node, with the path at which it is mounted if it is part of an application.

        `key`, or the first key of `key_file`: what the node wants to be shown. ConfigError when
        the URL or the key cannot be used.
        """
        if key is not None and key_file is not None:
            raise ConfigError("give the key itself or the file that holds it, not both")
        self._address, self._path = _split(url)
        secret = key_of(key) if key is not None else None
        if key_file is not None:
            secret = read_keys(key_file)[0]
        self._address = msgspec.structs.replace(self._address, key=secret)
        self._stack = AsyncExitStack()
        self._open: NodeClient | None = None
        self._listening: set[Listening] = set()

    async def __aenter__(self) -> Self:
        """Ready to connect."""
        if self._open is not None:
            raise InputError("this client is in use already; make another one")
        self._open = await self._stack.enter_async_context(node_client(self._address, self._path))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self._open = None
        for listening in list(self._listening):
            await listening.aclose()
        await self._stack.aclose()

    @property
    def _node(self) -> NodeClient:
        if self._open is None:
            raise InputError("this client is closed; use it inside of `async with`")
        return self._open

    # --- mesh.Blobs ------------------------------------------------------------------------------

    async def put(self, source: Source) -> str:
        """See `mesh.Blobs`."""
        with self._said():
            async with opened(source) as taken:
                if isinstance(taken, Bytes):
                    data = taken.data
                    stored = await self._node.put_stream(data, len(data))
                    if len(data) > _ASIDE:
                        digest = await to_thread.run_sync(digest_of, data)
                    else:
                        digest = digest_of(data)
                else:
                    stored = await self._node.put_stream(taken, taken.size)
                    digest = taken.digest
                checked(stored, digest)
        return digest.hex()

    async def put_all(self, blobs: Iterable[bytes]) -> Sequence[str]:
        """See `mesh.Blobs`."""
        digests: list[str] = []
        for group in grouped(blobs):
            if len(group[0]) >= LARGE_BLOB:  # alone, see `grouped`
                digests.append(await self.put(group[0]))
                continue
            names = [digest_of(data) for data in group]
            body = batch_of(zip(names, group, strict=True))
            with self._said():
                stored = await self._node.put_batch(body, len(body))
            if stored.rejected:
                raise Corrupt(f"{stored.rejected} of {len(group)} blobs arrived damaged; try again")
            digests += [name.hex() for name in names]
        return digests

    async def get_all(self, digests: Iterable[str]) -> AsyncGenerator[tuple[str, bytes], None]:
        """See `mesh.Blobs`."""
        async with aclosing(in_batches(digests, self._batch, self.get)) as pairs:
            async for digest, data in pairs:
                yield digest, data

    async def _batch(self, names: Sequence[Digest]) -> list[Frame]:
        found: list[Frame] = []
        with self._said():
            async with self._node.batch(names) as groups:
                async for frames in groups:
                    found += frames
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
        async with AsyncExitStack() as stack:
            # What is raised in the block of the caller is none of what is said here.
            with self._said(digest):
                part = await stack.enter_async_context(self._node.part(name, start, stop))
            with closing(Stream(name, *part)) as stream:
                yield stream

    async def size(self, digest: str) -> int:
        """See `mesh.Blobs`."""
        with self._said(digest):
            return await self._node.size(parse_digest(digest))

    async def has(self, digests: Iterable[str]) -> set[str]:
        """See `mesh.Blobs`."""
        asked = {parse_digest(digest) for digest in digests}
        with self._said():
            lacked = await self._node.lacking(sorted(asked))
        return {digest.hex() for digest in asked - lacked}

    async def list(self, prefix: str = "") -> AsyncGenerator[BlobInfo, None]:
        """See `mesh.Blobs`."""
        with self._said():
            async with aclosing(self._node.listing(parse_prefix(prefix))) as listing:
                async for blob in listing:
                    yield BlobInfo(blob.digest, blob.size)

    async def status(self) -> Status:
        """See `mesh.Blobs`."""
        with self._said():
            return await self._node.status(Status)

    async def sync(self, *peers: str) -> Sequence[RoundStats]:
        """See `mesh.Blobs`."""
        node = self._node
        if not peers:
            status = await self.status()
            peers = tuple(peer.url.partition("://")[2] for peer in status.peers)
        found: dict[str, RoundStats] = {}
        failures: list[MeshError] = []

        async def one(name: str, others: CancelScope) -> None:
            try:
                found[name] = await node.sync(name, RoundStats)
            except MeshError as error:
                failures.append(error)
                others.cancel()

        with self._said():
            async with create_task_group() as group:
                for name in dict.fromkeys(peers):
                    group.start_soon(one, name, group.cancel_scope)
            if failures:
                raise failures[0]
        return [found[name] for name in dict.fromkeys(peers)]

    def events(self) -> Events:
        """See `mesh.Blobs`. The node is asked when the first event is waited for."""
        listening = Listening(self._node, self._listening.discard)
        self._listening.add(listening)
        return listening

    async def wait(self, timeout: float | None = None, *, whole: bool = False) -> WaitAnswer:
        """See `mesh.Blobs`."""
        with self._said():
            return await self._node.wait(patience(timeout), WaitAnswer, whole=whole)

    @contextmanager
    def _said(self, digest: str = "") -> Iterator[None]:
        """What a node declines, as the error that `mesh.Node` would raise for it."""
        try:
            yield
        except Refused as error:
            if error.status == 404 and digest:
                raise NotFound(
                    f"blob {digest} is not on {self._address.place}, nor at a peer that it reaches"
                ) from error
            if error.status == 507:
                raise Full(one_line(error)) from error
            raise


def _split(url: str) -> tuple[Address, str]:
    """The node's address, and the path below which it answers."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "http", url
    place, slash, path = rest.partition("/")
    path = (slash + path).rstrip("/")
    if not _PATH.fullmatch(path):
        raise ConfigError(f"a node at the path {path[:80]!a}; expected letters and digits")
    address = parse_peer(f"{scheme}://{place}")
    if address.protocol != "mesh":
        raise ConfigError(f"a client talks to a mesh node, and {address.place} is none")
    return address, path
