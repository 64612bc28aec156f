"""The events of a node that is reached over HTTP: lines of JSON, as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import anyio
import msgspec

from mesh.decoding import json_of
from mesh.errors import InputError, Misbehaved, Undecodable
from mesh.events import KINDS, Event
from mesh.transport.client import NodeClient

# An event has some hundred bytes, and a reason in it less than a page.
_LONGEST = 64 * 1024


class _Kind(msgspec.Struct, frozen=True):
    event: str


_KIND = json_of(_Kind)
_EVENT = json_of(Event)


class Listening:
    """See `mesh.api.blobs.Events`. The connection is made when the first event is waited for."""

    def __init__(self, node: NodeClient, gone: Callable[[Listening], None]) -> None:
        """`node` is asked. `gone` is told when the connection is closed."""
        self._node = node
        self._gone = gone
        self._stack = AsyncExitStack()
        self._chunks: AsyncIterator[bytes] | None = None
        self._ready: deque[Event] = deque()
        self._rest = b""
        self._left = False
        self._waits = False
        self._broken = False

    def __aiter__(self) -> Listening:
        """Itself."""
        return self

    async def __anext__(self) -> Event:
        """The next event; a PeerError when the connection breaks, or the node falls silent.

        InputError when an earlier wait was cancelled: what was read from is gone, and with it what
        happens meanwhile. The end would say that the node has stopped.
        """
        while not self._ready:
            if self._left:
                raise StopAsyncIteration
            if self._broken:
                raise InputError(
                    "waiting for an event was cancelled, or failed; listen again with events()"
                )
            self._waits = self._broken = True
            try:
                await self._more()
                self._broken = False
            finally:
                self._waits = False
                if self._broken:
                    await self._let_go()
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Listen no more."""
        self._left = True
        self._ready.clear()
        if not self._waits:  # else whoever waits lets go of the connection
            await self._let_go()

    async def _let_go(self) -> None:
        """Close the connection, also when whoever waits was cancelled."""
        with anyio.CancelScope(shield=True):
            await self._stack.aclose()
        self._gone(self)

    async def _more(self) -> None:
        if self._chunks is None:
            self._chunks = await self._stack.enter_async_context(self._node.events())
        chunk = await anext(self._chunks, None)
        if chunk is None or self._left:
            self._left = True
            await self._let_go()
            return
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _LONGEST:
            raise Misbehaved("the node sends an event without end")
        for line in lines:
            if line:
                self._take(line)

    def _take(self, line: bytes) -> None:
        """An event; one of a kind that a later version knows is passed over."""
        try:
            if _KIND.read(line).event in KINDS:
                self._ready.append(_EVENT.read(line))
        except Undecodable as error:
            raise Misbehaved(f"the node sends what is no event: {error}") from error
