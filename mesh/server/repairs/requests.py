"""Hypercorn's HTTP/1.1: which requests it takes.

Hypercorn 0.18 with h11 0.16 answers 400 to an empty line before a request, which a server ought to
skip (RFC 9112, 2.2: some old clients send one behind a body). It writes every method in capitals
before an application sees it, so `post` was taken for POST, though methods are case-sensitive
(RFC 9110, 9.1). Both are shown by tests/server/test_requests.py.
"""

from __future__ import annotations

import h11
import hypercorn.protocol
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol

_NOT_IMPLEMENTED = 501  # RFC 9110, 9.1: for a method that the server does not know


class Requests(H11Protocol):
    """The HTTP/1.1 side of one connection."""

    async def handle(self, event: Event) -> None:
        """Bytes from the client, or the end of the connection."""
        if isinstance(event, RawData) and event.data and self._is_between_requests():
            event = RawData(event.data.lstrip(b"\r\n"))
            if not event.data:
                return  # h11 takes no bytes for the end
        await super().handle(event)

    def _is_between_requests(self) -> bool:
        """Whether what comes is the beginning of the next request."""
        if self.connection.their_state not in (h11.IDLE, h11.DONE):
            return False
        begun, _ = self.connection.trailing_data
        return not begun

    async def _maybe_recycle(self) -> None:
        """A request has been answered: go on with the next one, or close the connection.

        Empty lines that came in one piece with the request are in h11's buffer, out of which they
        cannot be taken: then h11 begins anew with what is behind them.
        """
        behind, closed = self.connection.trailing_data
        states = (self.connection.our_state, self.connection.their_state)
        kept = states == (h11.DONE, h11.DONE) and not self.context.terminated.is_set()
        if not kept or not behind.startswith((b"\r", b"\n")):
            await super()._maybe_recycle()
            return
        await self._close_stream()
        limit = self.config.h11_max_incomplete_size
        self.connection = h11.Connection(h11.SERVER, max_incomplete_event_size=limit)
        if rest := behind.lstrip(b"\r\n"):
            self.connection.receive_data(rest)
        if closed:
            self.connection.receive_data(b"")
        await self.can_read.set()
        await self.send(Updated(idle=True))

    async def _create_stream(self, request: h11.Request) -> None:
        if request.method != request.method.upper():
            await self._send_error_response(_NOT_IMPLEMENTED)
            await self.send(Closed())
            return
        await super()._create_stream(request)


def install() -> None:
    """Have Hypercorn use it; it offers no other way to say so."""
    hypercorn.protocol.H11Protocol = Requests  # type: ignore[attr-defined]
