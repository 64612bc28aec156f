"""Hypercorn's connections, on asyncio and on trio, with two holes closed.

Hypercorn 0.18 stops reading a connection when something comes behind a request, until that request
is answered. When the client goes away meanwhile, nobody tells the task that waits there: it stays
for ever, on trio with its descriptor. Here a connection that cannot be sent to is not read either.

And on trio it closes a connection by `send_eof`, outside its lock for sending. Whoever sends in
that moment gets trio's BusyResourceError, which nothing in Hypercorn expects: bytes behind a
request ended it in a traceback or, met by the task that reads, ended the whole server. Here it is
what it means: the connection is being closed.
"""

from __future__ import annotations

import anyio
import hypercorn.asyncio.run
import hypercorn.trio.run
import trio
from hypercorn.asyncio.tcp_server import TCPServer as AsyncioServer
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.tcp_server import TCPServer as TrioServer


class AsyncioConnection(AsyncioServer):
    """A connection on asyncio."""

    _reading: anyio.CancelScope

    async def _read_data(self) -> None:
        with anyio.CancelScope() as self._reading:
            await super()._read_data()

    async def protocol_send(self, event: Event) -> None:
        """Send, close, or note that the connection is idle."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            try:
                self.writer.write(event.data)
                await self.writer.drain()
                return
            except (OSError, RuntimeError):  # RuntimeError: uvloop's, for one that is closed
                pass
        await self.protocol.handle(Closed())
        self._reading.cancel()


class TrioConnection(TrioServer):
    """A connection on trio."""

    _reading: trio.CancelScope

    async def _read_data(self) -> None:
        with trio.CancelScope() as self._reading:
            await super()._read_data()

    async def protocol_send(self, event: Event) -> None:
        """Send, close, or note that the connection is idle."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            try:
                # What was begun has to be sent whole: a request that is cancelled may be followed
                # by another one.
                with trio.CancelScope(shield=True):
                    await self.stream.send_all(event.data)
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                pass
        await self.protocol.handle(Closed())
        self._reading.cancel()


def install() -> None:
    """Have Hypercorn use these; it offers no other way to say which class serves a connection."""
    hypercorn.asyncio.run.TCPServer = AsyncioConnection  # type: ignore[attr-defined]
    hypercorn.trio.run.TCPServer = TrioConnection  # type: ignore[attr-defined]
