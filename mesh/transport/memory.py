"""A network in memory: for tests and simulation, with the traffic counted.

What crosses it is what would cross a socket, byte for byte; faults are put between by wrapping a
Wire or by `cut`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

import anyio.lowlevel

from mesh.errors import InputError, MeshError, PeerError, Refused, StoreError, Unreachable


class Handler(Protocol):
    """The receiving end: what a node answers, whatever carries the question."""

    async def call(self, path: str, body: bytes) -> bytes:
        """A small message for a small answer."""

    def download(self, path: str, body: bytes) -> AsyncGenerator[bytes, None]:
        """A small message for a stream."""

    async def upload(self, path: str, chunks: AsyncIterator[bytes]) -> bytes:
        """A stream for a small answer."""


class Traffic:
    """What went over one wire: requests by path, payload bytes up and down."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.up = 0
        self.down = 0

    def reset(self) -> None:
        """Count from here on."""
        self.requests.clear()
        self.up = self.down = 0


class MemoryNetwork:
    """Handlers by URL, and the links between nodes."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._cut: set[tuple[str, str]] = set()

    def attach(self, url: str, handler: Handler) -> None:
        """Make a node reachable."""
        self._handlers[url] = handler

    def detach(self, url: str) -> None:
        """Take a node away: connections to it are refused."""
        self._handlers.pop(url, None)

    def cut(self, source: str, target: str) -> None:
        """Let nothing through from `source` to `target`; the other way is another link."""
        self._cut.add((source, target))

    def heal(self, source: str, target: str) -> None:
        """Undo a cut."""
        self._cut.discard((source, target))

    def wire(self, source: str, target: str) -> MemoryWire:
        """A wire from one URL to another."""
        return MemoryWire(self, source, target)

    def reach(self, source: str, target: str) -> Handler:
        """The handler at `target`, if `source` can reach it."""
        handler = self._handlers.get(target)
        if handler is None or (source, target) in self._cut:
            raise Unreachable(f"cannot reach {target}: connection refused")
        return handler


class MemoryWire:
    """See transport.base.Wire."""

    def __init__(self, network: MemoryNetwork, source: str, target: str) -> None:
        self._network = network
        self._source = source
        self._target = target
        self.traffic = Traffic()

    async def call(self, path: str, body: bytes) -> bytes:
        """A small message for a small answer."""
        handler = await self._begin(path, len(body))
        try:
            answer = await handler.call(path, body)
        except MeshError as error:
            raise _as_the_peer_sees(error) from error
        self._check()
        self.traffic.down += len(answer)
        return answer

    @asynccontextmanager
    async def download(self, path: str, body: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
        """A small message for a stream."""
        handler = await self._begin(path, len(body))
        async with (
            aclosing(handler.download(path, body)) as sent,
            aclosing(self._received(sent)) as received,
        ):
            yield received

    async def upload(self, path: str, chunks: AsyncIterator[bytes]) -> bytes:
        """A stream for a small answer."""
        handler = await self._begin(path, 0)
        ours: list[MeshError] = []
        try:
            async with aclosing(self._sent(chunks, ours)) as sent:
                answer = await handler.upload(path, sent)
        except MeshError as error:
            if ours:
                raise ours[0] from None  # what failed is what was to be sent
            raise _as_the_peer_sees(error) from error
        self._check()
        self.traffic.down += len(answer)
        return answer

    async def close(self) -> None:
        """Nothing to let go of."""
        await anyio.lowlevel.checkpoint()

    async def _begin(self, path: str, size: int) -> Handler:
        await anyio.lowlevel.checkpoint()
        handler = self._network.reach(self._source, self._target)
        self.traffic.requests.append(path)
        self.traffic.up += size
        return handler

    def _check(self) -> None:
        self._network.reach(self._source, self._target)

    async def _received(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in chunks:
                self._check()
                self.traffic.down += len(chunk)
                yield chunk
        except MeshError as error:
            raise _as_the_peer_sees(error) from error

    async def _sent(
        self, chunks: AsyncIterator[bytes], failed: list[MeshError]
    ) -> AsyncGenerator[bytes, None]:
        """The chunks as they cross; an error of their source is noted as ours."""
        while True:
            try:
                chunk = await anext(chunks, None)
            except MeshError as error:
                failed.append(error)
                raise
            if chunk is None:
                return
            self._check()
            self.traffic.up += len(chunk)
            yield chunk


def _as_the_peer_sees(error: MeshError) -> PeerError:
    """A failure of the other side, as it looks from here; the HTTP wire does it by status."""
    if isinstance(error, PeerError):
        return error
    if isinstance(error, InputError | StoreError):
        return Refused(f"the peer declined: {error}")
    return Unreachable(f"the peer failed: {error}")
