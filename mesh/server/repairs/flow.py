"""Quart and quart-trio: bodies that wait, early answers, and connections that are kept.

Four things are repaired, in Quart 0.22 with quart-trio 0.12 and in Quart 0.23 with quart-trio 0.13.

- A body is taken in as fast as it comes, however slowly the handler reads: Quart's `Body` has no
  limit that waits. `FlowBody` tells the connection's `Inflow` what lies unread, and the connection
  stops reading (tests/server/test_memory.py).
- An answer that is given before the body has been read is lost: the connection is closed with bytes
  unread, and the kernel then drops what was sent. Here what still comes is drained for a moment
  (tests/server/test_blobs.py: one byte over the limit is 413, chunks without end are cut off).
- Hypercorn says `http.disconnect` while it is still finishing an answer; quart-trio then cancels
  the request, and the connection is never ready for another one. Here that message waits until the
  answer has been sent (tests/server/test_blobs.py: one connection serves many requests).
- A request that fails in mid-answer ends in a traceback. Here its connection ends, and a line says
  why (tests/contracts/wire_contract.py: a store that fails in the middle of an answer).

Quart 0.22 gives a body its chunks by `append`; Quart 0.23 by `put`, and tells it by `disconnect`
that the client has gone. `FlowBody` has all three.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
from quart import Quart
from quart.wrappers import Request
from quart.wrappers.request import Body
from quart_trio import QuartTrio
from quart_trio.wrappers.request import TrioRequest

from mesh.errors import MeshError, one_line
from mesh.server.repairs.inflow import Ahead, Inflow

log = logging.getLogger("mesh")

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

# What is drained, at most, of a body that nobody will read: enough for the sender to notice the
# answer, too little to be an attack.
_LINGER_BYTES = 16 * 1024 * 1024
_LINGER_SECONDS = 2.0

# What a body may hold before the next part of it is asked for, where another server than ours feeds
# it (api/node.py, `asgi_app`): a part is then as large as that server makes it, 64 KiB mostly.
_HELD = 256 * 1024

_KEY = "mesh.body"

# Where a connection leaves its Inflow for the requests that come over it.
INFLOW = "mesh.inflow"


class FlowBody(Body):
    """A request's body as chunks, with back-pressure."""

    def __init__(self, expected: int | None, limit: int | None) -> None:
        """Quart's constructor; limits are the handlers' business."""
        del expected, limit
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._discarded: int | None = None
        self._more = anyio.Event()
        self._taken = anyio.Event()
        self._dropped = anyio.Event()
        self._inflow = Inflow(Ahead(0))

    def come_by(self, inflow: Inflow) -> None:
        """What comes, comes over the connection of `inflow`."""
        self._inflow = inflow

    def __aiter__(self) -> FlowBody:
        """Iterate over the chunks, once."""
        return self

    async def __anext__(self) -> bytes:
        """The next chunk as it came."""
        while not self._chunks:
            if self._ended:
                raise StopAsyncIteration
            self._more = anyio.Event()
            self._inflow.waits()
            await self._more.wait()
        chunk = self._chunks.popleft()
        self._held -= len(chunk)
        self._inflow.has(self._held)
        self._taken.set()
        return chunk

    def __await__(self) -> Any:
        """The whole body; only for small requests, whose size the handler has checked."""
        return self._all().__await__()

    async def _all(self) -> bytes:
        return b"".join([chunk async for chunk in self])

    # --- the receiving side --------------------------------------------------------------------

    def append(self, data: bytes) -> None:
        """A chunk has come."""
        if self._discarded is not None:
            self._discarded += len(data)
            self._dropped.set()
        elif data:
            self._chunks.append(data)
            self._held += len(data)
            self._inflow.has(self._held)
            self._more.set()

    async def put(self, data: bytes) -> None:
        """The same, as Quart 0.23 has it."""
        self.append(data)

    def disconnect(self) -> None:
        """Quart 0.23: the client has gone. Its request is being cancelled, so nobody waits here."""

    def set_complete(self) -> None:
        """That was all."""
        self._ended = True
        self._inflow.end()
        self._more.set()
        self._dropped.set()

    def set_result(self, data: bytes) -> None:
        """The whole body at once; Quart's test client uses it."""
        self.append(data)
        self.set_complete()

    def clear(self) -> None:
        """Forget what lies unread."""
        self._chunks.clear()
        self._held = 0
        self._taken.set()

    async def room(self) -> None:
        """Wait until the handler has taken most of what has come."""
        while self._held >= _HELD:
            self._taken = anyio.Event()
            await self._taken.wait()

    async def linger(self) -> None:
        """Nobody will read the rest: let some of it come, for a short while."""
        self.discard()
        with anyio.move_on_after(_LINGER_SECONDS):
            while not self._ended and (self._discarded or 0) < _LINGER_BYTES:
                self._dropped = anyio.Event()
                await self._dropped.wait()

    def discard(self) -> None:
        """What comes from now on is dropped."""
        if self._discarded is None:
            self._discarded = 0
            self.clear()
            self._inflow.end()


class FlowRequest(Request):
    """A request on asyncio that lets the middleware find its body."""

    body_class: type[Body] = FlowBody

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _introduce(self.body, kwargs["scope"])


class FlowTrioRequest(TrioRequest):
    """The same on trio."""

    body_class = FlowBody  # type: ignore[assignment]  # quart_trio's is a sibling of it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _introduce(self.body, kwargs["scope"])


def _introduce(body: Any, scope: Scope) -> None:
    """Let the middleware find a body, and the body its connection."""
    scope[_KEY] = body
    inflow = scope.get("state", {}).get(INFLOW)
    if inflow is not None:
        body.come_by(inflow)


def with_flow(app: Quart) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The ASGI application around a Quart one."""
    app.request_class = FlowTrioRequest if isinstance(app, QuartTrio) else FlowRequest

    async def flow(scope: Scope, receive: Receive, send: Send) -> None:
        inflow = scope.get("state", {}).get(INFLOW)
        if scope["type"] != "http" or not scope["http_version"].startswith("1"):
            if inflow is not None:
                inflow.end()  # no body of a request comes here
            if scope["type"] == "http":
                await _refuse_version(send)
            else:
                await app(scope, receive, send)  # type: ignore[arg-type]
            return

        ending = False
        ended = anyio.Event()

        async def controlled_receive() -> dict[str, Any]:
            body = scope.get(_KEY)
            if inflow is None and body is not None:  # nobody else measures how fast it comes
                await body.room()
            message = await receive()
            if message["type"] == "http.disconnect" and ending:
                # Hypercorn says so while it is still finishing the answer; quart-trio 0.12 would
                # cancel it there, and the connection would never be ready for another request.
                await ended.wait()
            return message

        async def controlled_send(message: dict[str, Any]) -> None:
            body = scope.get(_KEY)
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not last:
                await send(message)
                return
            if body is not None:
                await body.linger()
            nonlocal ending
            ending = True
            try:
                await send(message)
            finally:
                ended.set()

        try:
            await app(scope, controlled_receive, controlled_send)  # type: ignore[arg-type]
        except* MeshError as errors:
            # The answer had begun, so no other can be given: its missing end says that it failed.
            log.info("an answer was cut: %s", one_line(errors.exceptions[0]))
        finally:
            if inflow is not None:
                inflow.end()
            # What Quart leaves of a cancelled request refers to itself in circles, and to these:
            # the connection would stay with it until Python's collector comes.
            receive = send = _gone

    return flow


async def _gone(*_: object) -> Any:
    """In place of a connection whose request is over."""
    return {"type": "http.disconnect"}


async def _refuse_version(send: Send) -> None:
    """A server that mounts a node may take HTTP/2, and hold whole answers in memory there."""
    body = b'{"error":"this node speaks HTTP/1.1; ask again without an upgrade"}\n'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
