"""Hypercorn's connections, on asyncio and on trio: reading in measure, and two holes closed.

Hypercorn 0.18 reads a connection until a queue of ten messages is full, and on asyncio the stream
below it takes in up to 384 KiB more: 300 uploads that nobody took held 400 MB. Here a connection
asks its `Inflow` before each read, and on asyncio the transport is told to pause meanwhile.

Hypercorn 0.18 stops reading a connection when something comes behind a request, until that request
is answered. When the client goes away meanwhile, nobody tells the task that waits there: it stays
for ever, on trio with its descriptor (shown by forty clients that hang up so). Here a connection
that cannot be sent to is not read either.

And on trio it closes a connection by `send_eof`, outside its lock for sending. Whoever sends in
that moment gets trio's BusyResourceError, which nothing in Hypercorn expects: bytes behind a
request ended it in a traceback or, met by the task that reads, ended the whole server. Here it is
what it means: the connection is being closed.

Whatever goes wrong in the code of a connection on trio ends Hypercorn 0.18, and with it the node.
Here it ends that connection, and is logged (tests/server/test_framing.py).

When the client has gone, Hypercorn 0.18 keeps its side for as long as an idle connection may last.
Here it ends at once. What it was made of refers to itself in circles, and so it stayed, with the
bytes that h11 held, until Python's collector came by: 1,400 connections after ten minutes of churn.
Here the circles are cut (tests/server/test_leftovers.py).
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import hypercorn.asyncio.run
import hypercorn.trio.run
import trio
from hypercorn.asyncio.tcp_server import TCPServer as AsyncioServer
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.tcp_server import MAX_RECV
from hypercorn.trio.tcp_server import TCPServer as TrioServer
from hypercorn.typing import LifespanState

from mesh.server.repairs.flow import INFLOW
from mesh.server.repairs.inflow import READ, Ahead, Inflow

log = logging.getLogger("mesh")


class AsyncioConnection(AsyncioServer):
    """A connection on asyncio."""

    _reading: anyio.CancelScope

    def __init__(self, ahead: Ahead, *args: Any) -> None:
        """Hypercorn's arguments behind `ahead`, which all connections share."""
        super().__init__(*args)
        self._over = False
        self._inflow = Inflow(ahead)
        self.state = _with(self.state, self._inflow)

    async def run(self) -> None:
        """Serve the connection until it ends."""
        try:
            await super().run()
        except Exception:  # a stranger's bytes must not end the node
            log.exception("a connection ended by a fault of ours")
        finally:
            self._inflow.end()
            _take_apart(self)
            if (error := self.reader.exception()) is not None:
                error.__traceback__ = None  # the stream keeps it, and with it what ran then

    async def _read_data(self) -> None:
        transport: Any = self.writer.transport  # it reads too, whatever its type says
        with anyio.CancelScope() as self._reading:
            while not self.reader.at_eof():
                try:
                    data = await self.reader.read(READ)
                except OSError:
                    break
                # Else the stream would go on taking in what nobody has asked for.
                with suppress(RuntimeError):  # uvloop's, for a connection that is closed
                    transport.pause_reading()
                await self.protocol.handle(RawData(data))
                del data  # or it would be held until the next read
                await self._inflow.room()
                with suppress(RuntimeError):
                    transport.resume_reading()
            await self.protocol.handle(Closed())
        self._over = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """Send, close, or note that the connection is idle."""
        if not isinstance(event, RawData):
            _note(self._inflow, event)
            if self._over and isinstance(event, Updated):
                return  # nobody is there any more for whom it could be idle
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

    def __init__(self, ahead: Ahead, *args: Any) -> None:
        """Hypercorn's arguments behind `ahead`, which all connections share."""
        super().__init__(*args)
        self._over = False
        self._inflow = Inflow(ahead)
        self.state = _with(self.state, self._inflow)

    async def run(self) -> None:
        """Serve the connection until it ends."""
        try:
            await super().run()
        except Exception:  # a stranger's bytes must not end the node
            log.exception("a connection ended by a fault of ours")
        finally:
            self._inflow.end()
            _take_apart(self)

    async def _read_data(self) -> None:
        with trio.CancelScope() as self._reading:
            ended = False
            while not ended:
                try:
                    data = await self.stream.receive_some(MAX_RECV)
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    break
                ended = not data
                await self.protocol.handle(RawData(bytes(data)))
                del data  # or it would be held until the next read
                await self._inflow.room()
            await self.protocol.handle(Closed())
        self._over = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """Send, close, or note that the connection is idle."""
        if not isinstance(event, RawData):
            _note(self._inflow, event)
            if self._over and isinstance(event, Updated):
                return  # nobody is there any more for whom it could be idle
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
    ahead = Ahead()
    hypercorn.asyncio.run.TCPServer = partial(AsyncioConnection, ahead)  # type: ignore[assignment,attr-defined]
    hypercorn.trio.run.TCPServer = partial(TrioConnection, ahead)  # type: ignore[assignment,attr-defined]


def _with(state: LifespanState, inflow: Inflow) -> LifespanState:
    """`state`, which each request gets in its scope, with the connection's Inflow."""
    return LifespanState({**state, INFLOW: inflow})


def _take_apart(connection: AsyncioConnection | TrioConnection) -> None:
    """Cut the circles of a connection that has ended."""
    wrapper: Any = vars(connection).get("protocol")
    if wrapper is not None:
        wrapper.send = wrapper.protocol.send = None
        wrapper.protocol.stream = None


def _note(inflow: Inflow, event: Event) -> None:
    """Hypercorn says `idle` when a request begins or has been answered."""
    if isinstance(event, Updated) and not event.idle:
        inflow.begin()
    else:
        inflow.end()
