"""h11's receive buffer, without its copies of a body: for both ends of a connection.

h11 0.16 adds what was read to a `bytearray`, and cuts an event off its beginning. Whoever uses it
makes `bytes` of that. These are three copies of each byte of a body, a third of what it costs the
event loop to receive a blob. Here what was read into an empty buffer stays the object that it is,
and an event that takes all of it, or a part, is cut from it. Heads, and whatever comes in pieces
that h11 has to join, are h11's business as before (tests/transport/test_buffer.py).
"""

from __future__ import annotations

import h11
from h11._receivebuffer import ReceiveBuffer


def without_copies(connection: h11.Connection, kind: type[Pieces] | None = None) -> None:
    """Give a connection such a buffer, or a `kind` of it; what it has received stays in it."""
    if not isinstance(connection._receive_buffer, Pieces):  # noqa: SLF001 - h11 has no way to say
        buffer = (kind or Pieces)()
        buffer += bytes(connection._receive_buffer)  # noqa: SLF001
        connection._receive_buffer = buffer  # noqa: SLF001


class Pieces(ReceiveBuffer):
    """A buffer that holds one piece as it was read, from an offset on, or h11's bytearray."""

    def __init__(self) -> None:
        """Empty."""
        self._piece = b""
        self._at = 0
        super().__init__()

    @property
    def _data(self) -> bytearray:
        """Everything, as h11 has it."""
        if self._piece:
            self._joined += memoryview(self._piece)[self._at :]
            self._piece, self._at = b"", 0
        return self._joined

    @_data.setter
    def _data(self, data: bytearray) -> None:
        self._joined = data

    def __iadd__(self, byteslike: bytes | bytearray) -> Pieces:
        """Take what was read."""
        if type(byteslike) is bytes and not len(self):
            self._piece, self._at = byteslike, 0
        else:
            self._data += byteslike
        return self

    def __len__(self) -> int:
        """Bytes that nobody has taken."""
        return len(self._joined) + len(self._piece) - self._at

    def maybe_extract_at_most(self, count: int) -> bytes | bytearray | None:  # type: ignore[override]
        """Up to `count` bytes; None when there are none."""
        if not self._piece:
            return super().maybe_extract_at_most(count)
        return self._taken(min(self._at + count, len(self._piece))) or None

    def maybe_extract_next_line(self) -> bytearray | None:
        """A line, with its end; None when it is not whole."""
        end = self._piece.find(b"\r\n", self._at)
        if end < 0:
            return super().maybe_extract_next_line()
        return bytearray(self._taken(end + 2))

    def _taken(self, stop: int) -> bytes:
        """The piece up to `stop`, which is cut off it."""
        if not self._at and stop == len(self._piece):
            taken, self._piece = self._piece, b""
            return taken
        taken, self._at = self._piece[self._at : stop], stop
        if stop == len(self._piece):
            self._piece, self._at = b"", 0
        return taken
