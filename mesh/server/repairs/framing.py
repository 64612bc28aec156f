"""Which requests are refused as soon as their head is there, before anything else sees them.

A request that can be read in two ways is how one is smuggled past a proxy: the proxy takes some
bytes for a body, the server takes them for the next request. h11 0.16 is stricter than most, and
still takes each of these (tests/server/test_framing.py): a Content-Length beside a
Transfer-Encoding, a Transfer-Encoding in HTTP/1.0, and, in a head as in trailers, a line that ends
in LF alone and a header that goes on in the next line; and a CR within the line of a chunk's size.
RFC 9112 lets a server refuse all of them (2.2, 5.2, 6.1, 7.1), and nobody who writes requests today
sends them. Lines are looked at where h11 takes them, so that no part of a request is left out.

Upgrades are refused here too. Hypercorn 0.18 enters its WebSocket and HTTP/2 code for whoever asks,
before any key is looked at, and bad input there ends the whole server on trio.

After a refusal nothing more is read from the connection (requests.py).
"""

from __future__ import annotations

from typing import Any

import h11

from mesh.transport.repairs.buffer import Pieces, without_copies

_BLANK_LINE = b"\r\n\r\n"

# What h11 says of a request goes back to whoever sent it; a line of it is enough.
_MOST_WORDS = 200

_SPEAKS = "this node speaks HTTP/1.1; ask again without an upgrade"
_UPGRADES = frozenset({b"websocket", b"h2c"})


class StrictConnection(h11.Connection):
    """The server's end of a connection: h11's, with the refusals of this module.

    `why` says, after a RemoteProtocolError, what was wrong. `bodiless`: the request at hand is
    a HEAD, whose answer has no body.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of a head, of a chunk's size with its extensions, or of trailers."""
        super().__init__(h11.SERVER, max_incomplete_event_size=limit)
        without_copies(self, _StrictPieces)
        self.why = ""
        self.bodiless = False

    def next_event(self) -> Any:
        """As h11's, but that what is behind the last request is nothing, where h11 has an error.

        To Hypercorn an error is the end of the connection, in the middle of the answer.
        """
        if self.their_state is h11.MUST_CLOSE:
            return h11.NEED_DATA
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self.bodiless = event.method == b"HEAD"
                _check_request(event)
        except h11.RemoteProtocolError as error:
            self.why = str(error)[:_MOST_WORDS]
            raise
        return event


class _StrictPieces(Pieces):
    """What was read, from which no line is taken that others may read differently."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """The lines of a head, or of trailers."""
        _check_lines(self._data)
        return super().maybe_extract_lines()

    def maybe_extract_next_line(self) -> bytearray | None:
        """The line of a chunk's size, with its end."""
        line = super().maybe_extract_next_line()
        if line is not None and b"\r" in line[:-2]:
            raise _refuse(400, "a chunk's size has a CR in its line; it must end in CR LF")
        return line


def _refuse(status: int, why: str) -> h11.RemoteProtocolError:
    return h11.RemoteProtocolError(why, error_status_hint=status)


def _check_lines(unread: bytearray) -> None:
    """Refuse lines that others may read differently, up to the blank one."""
    if unread.startswith(b"\r\n"):
        return  # there are none
    end = unread.find(_BLANK_LINE)
    head = unread if end < 0 else unread[: end + len(_BLANK_LINE)]
    if head.count(b"\n") != head.count(b"\r\n"):
        raise _refuse(400, "a line of the request ends in LF alone; it must end in CR LF")
    if b"\r\n " in head or b"\r\n\t" in head:
        raise _refuse(400, "a header goes on in the next line; it must stand in one line")


def _check_request(request: h11.Request) -> None:
    """Refuse what has two lengths, another protocol, or a method that nobody knows."""
    names = {name for name, _ in request.headers}
    if request.http_version not in (b"1.0", b"1.1"):
        raise _refuse(400, _SPEAKS)
    if request.method == b"CONNECT":
        raise _refuse(400, "this node is no proxy")
    if request.method != request.method.upper():
        # Methods are case-sensitive (RFC 9110, 9.1), and Hypercorn would take post for POST.
        raise _refuse(501, "methods are written in capitals")
    if b"transfer-encoding" in names and b"content-length" in names:
        raise _refuse(400, "a body has a Content-Length or a Transfer-Encoding, not both")
    if b"transfer-encoding" in names and request.http_version == b"1.0":
        raise _refuse(400, "HTTP/1.0 has no Transfer-Encoding")
    if b"upgrade" in names and _wants_upgrade(request):
        raise _refuse(400, _SPEAKS)


def _wants_upgrade(request: h11.Request) -> bool:
    """Whether it asks for a protocol into which Hypercorn would go."""
    values = [value for name, value in request.headers if name == b"upgrade"]
    asked = {each.strip().lower() for value in values for each in value.split(b",")}
    return bool(asked & _UPGRADES)
