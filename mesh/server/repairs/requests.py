"""Hypercorn's HTTP/1.1: which requests it takes, and that a refusal is the end of a connection.

Hypercorn 0.18 with h11 0.16 answers 400 to an empty line before a request, which a server ought to
skip (RFC 9112, 2.2: some old clients send one behind a body; tests/server/test_requests.py). It
enters WebSocket and HTTP/2 for whoever asks. Here neither is ever entered, and what framing.py
refuses is answered, the connection is closed, and nothing behind it is looked at
(tests/server/test_framing.py).
"""

from __future__ import annotations

from typing import Any

import h11
import hypercorn.protocol
import msgspec
from hypercorn.events import Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol

from mesh.server.repairs.framing import StrictConnection


class Requests(H11Protocol):
    """The HTTP/1.1 side of one connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Hypercorn's arguments."""
        super().__init__(*args, **kwargs)
        self.connection: StrictConnection = self._new_connection()
        self._refused = False

    def _new_connection(self) -> StrictConnection:
        return StrictConnection(self.config.h11_max_incomplete_size)

    async def handle(self, event: Event) -> None:
        """Bytes from the client, or the end of the connection."""
        if isinstance(event, RawData):
            if self._refused or self.connection.their_state is h11.MUST_CLOSE:
                return
            if event.data and self._is_between_requests():
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
        self.connection = self._new_connection()
        if rest := behind.lstrip(b"\r\n"):
            self.connection.receive_data(rest)
        if closed:
            self.connection.receive_data(b"")
        await self.can_read.set()
        await self.send(Updated(idle=True))

    async def _check_protocol(self, event: h11.Request) -> None:
        """Hypercorn's way into HTTP/2: what would lead there has been refused."""

    async def _send_error_response(self, status_code: int) -> None:
        """Answer what was refused; whatever is behind it is not read."""
        self._refused = True
        body = msgspec.json.encode({"error": self.connection.why}) + b"\n"
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        answer: list[h11.Event] = [
            h11.Response(status_code=status_code, headers=headers),
            h11.EndOfMessage(),
        ]
        if not self.connection.bodiless:
            answer.insert(1, h11.Data(data=body))
        pieces = [self.connection.send(event) or b"" for event in answer]
        await self.send(RawData(b"".join(pieces)))


def install() -> None:
    """Have Hypercorn use it; it offers no other way to say so."""
    hypercorn.protocol.H11Protocol = Requests  # type: ignore[attr-defined]
