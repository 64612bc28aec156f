"""Flow control between Hypercorn, Quart and a handler, which Quart alone does not have.

Quart 0.22 takes in a request's body as fast as it comes, however slowly the handler reads. Here
the ASGI `receive` waits while enough lies unread, so that TCP slows the sender down; an answer
that is given before the body has been read drains what is still coming for a moment, so that the
client gets to read it; a connection is not cut off while it is being made ready for the next
request; and a request that fails in mid-answer ends its connection quietly.
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

log = logging.getLogger("mesh")

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

# Bytes of a body that lie unread before the sender is slowed down: some chunks, so that reading
# and receiving overlap.
_AHEAD = 1024 * 1024

# What is drained, at most, of a body that nobody will read: enough for the sender to notice the
# answer, too little to be an attack.
_LINGER_BYTES = 16 * 1024 * 1024
_LINGER_SECONDS = 2.0

_KEY = "mesh.body"


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
        self._room = anyio.Event()

    def __aiter__(self) -> FlowBody:
        """Iterate over the chunks, once."""
        return self

    async def __anext__(self) -> bytes:
        """The next chunk as it came."""
        while not self._chunks:
            if self._ended:
                raise StopAsyncIteration
            self._more = anyio.Event()
            await self._more.wait()
        chunk = self._chunks.popleft()
        self._held -= len(chunk)
        self._room.set()
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
            self._room.set()
        elif data:
            self._chunks.append(data)
            self._held += len(data)
            self._more.set()

    def set_complete(self) -> None:
        """That was all."""
        self._ended = True
        self._more.set()
        self._room.set()

    def set_result(self, data: bytes) -> None:
        """The whole body at once; Quart's test client uses it."""
        self.append(data)
        self.set_complete()

    def clear(self) -> None:
        """Forget what lies unread."""
        self._chunks.clear()
        self._held = 0

    async def room(self) -> None:
        """Return when the next chunk may come."""
        while self._held >= _AHEAD and self._discarded is None:
            self._room = anyio.Event()
            await self._room.wait()

    async def linger(self) -> None:
        """Nobody will read the rest: let some of it come, for a short while."""
        self.discard()
        with anyio.move_on_after(_LINGER_SECONDS):
            while not self._ended and (self._discarded or 0) < _LINGER_BYTES:
                self._room = anyio.Event()
                await self._room.wait()

    def discard(self) -> None:
        """What comes from now on is dropped."""
        if self._discarded is None:
            self._discarded = 0
            self.clear()
            self._room.set()


class FlowRequest(Request):
    """A request on asyncio that lets the middleware find its body."""

    body_class: type[Body] = FlowBody

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kwargs["scope"][_KEY] = self.body


class FlowTrioRequest(TrioRequest):
    """The same on trio."""

    body_class = FlowBody  # type: ignore[assignment]  # quart_trio's is a sibling of it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kwargs["scope"][_KEY] = self.body


def with_flow(app: Quart) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The ASGI application around a Quart one."""
    app.request_class = FlowTrioRequest if isinstance(app, QuartTrio) else FlowRequest

    async def flow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)  # type: ignore[arg-type]
            return
        if not scope["http_version"].startswith("1"):
            await _refuse_version(send)
            return

        ending = False
        ended = anyio.Event()

        async def controlled_receive() -> dict[str, Any]:
            body = scope.get(_KEY)
            if body is not None:
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

    return flow


async def _refuse_version(send: Send) -> None:
    """Hypercorn always takes HTTP/2 in the clear, and there holds whole answers in memory."""
    body = b'{"error":"this node speaks HTTP/1.1; ask again without an upgrade"}\n'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
