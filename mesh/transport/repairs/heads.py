"""The head of an answer: how long it may take, and how much may come before it.

httpx 0.28 with httpcore 1.0 waits anew after each read, and takes any number of interim answers
(100 to 199). A peer that sent them without end kept a round for ever, and the loop busy: 256 KiB of
them are ten thousand, which take h11 a third of a second each time. A peer that sent a byte of its
head a minute was never late.

Here the whole head has the time that a read has, and interim answers are parsed a little at a time,
up to MOST bytes of them (tests/transport/test_heads.py). h11 itself bounds a head, a chunk's size
with its extensions, and trailers: httpcore gives it 100 KiB for each.
"""

from __future__ import annotations

import anyio
import httpcore

# What may come before the final answer. Servers send `100 Continue` or `103 Early Hints`, of some
# hundred bytes; proxies may send `102 Processing` every ten seconds, for hours.
MOST = 32 * 1024

# What is parsed at a time while they come: a hundred of the shortest, in 3 ms.
_SLICE = 2 * 1024

# An answer begins with `HTTP/1.1 200`: the tenth byte tells an interim one.
_STATUS_AT = 9


class Head:
    """The head that is awaited on one connection."""

    def __init__(self) -> None:
        self._awaited = False
        self._careful = False
        self._until: float | None = None
        self._passed = 0
        self._unparsed = b""

    @property
    def unparsed(self) -> bool:
        """Whether there is something that has come and has not been parsed."""
        return bool(self._unparsed)

    def begin(self) -> None:
        """A request is being sent."""
        self._awaited = True
        self._careful = False
        self._until = None
        self._passed = 0

    def done(self) -> None:
        """The final answer has come; what follows is its body."""
        self._awaited = False

    def left(self, timeout: float | None) -> float | None:
        """Seconds for the next read, of the `timeout` that the whole head has."""
        if not self._awaited or timeout is None:
            return timeout
        now = anyio.current_time()
        if self._until is None:
            self._until = now + timeout
        return max(0.0, self._until - now)

    def take(self) -> bytes:
        """What has come and may be parsed now; b"" when more has to be read."""
        if not self._awaited:
            taken, self._unparsed = self._unparsed, b""
            return taken
        taken, self._unparsed = self._unparsed[:_SLICE], self._unparsed[_SLICE:]
        self._count(taken)
        return taken

    def come(self, data: bytes) -> bytes:
        """`data` has been read: what of it may be parsed now. RemoteProtocolError for too much."""
        if not self._awaited or not data:
            return data
        if not self._careful and len(data) > _STATUS_AT and data[_STATUS_AT] != ord("1"):
            return data
        self._careful = True
        self._unparsed = data
        return self.take()

    def _count(self, taken: bytes) -> None:
        self._passed += len(taken)
        if self._passed > MOST:
            raise httpcore.RemoteProtocolError(f"more than {MOST} bytes before the answer itself")
