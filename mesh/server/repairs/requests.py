"""Hypercorn's HTTP/1.1: which requests it takes.

Hypercorn 0.18 with h11 0.16 answers 400 to an empty line before a request, which a server ought to
skip (RFC 9112, 2.2: some old clients send one behind a body). It writes every method in capitals
before an application sees it, so `post` was taken for POST, though methods are case-sensitive
(RFC 9110, 9.1). Both are shown by tests/server/test_requests.py.
"""

from __future__ import annotations

import h11
import hypercorn.protocol
from hypercorn.events import Closed, Event, RawData
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
        if self.connection.their_state is not h11.IDLE:
            return False
        begun, _ = self.connection.trailing_data
        return not begun

    async def _create_stream(self, request: h11.Request) -> None:
        if request.method != request.method.upper():
            await self._send_error_response(_NOT_IMPLEMENTED)
            await self.send(Closed())
            return
        await super()._create_stream(request)


def install() -> None:
    """Have Hypercorn use it; it offers no other way to say so."""
    hypercorn.protocol.H11Protocol = Requests  # type: ignore[attr-defined]
