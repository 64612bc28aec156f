"""How much of the bodies that come in is held in memory, decided before a byte is read.

Bytes that nobody has read from a socket lie in the kernel, which tells the sender to wait. Bytes
that have been read lie in this process until a handler takes them, and a handler may take long: it
waits for the disk, or for its turn. So a connection reads on when

- no body is under way on it (then what comes is a request, or the news that the client has gone),
- or the handler waits for more and has nothing left to take,
- or the budget that all connections share, `Ahead`, grants it some bytes to read ahead. With these
  a transfer that moves reads from the network and writes to the disk at the same time.

What all connections hold together is therefore at most one read each (READ bytes) and the budget,
however many uploads wait and however large they are. tests/server/test_memory.py measures it.
"""

from __future__ import annotations

import anyio
import anyio.lowlevel

# The most that one read from a socket brings: uvloop and asyncio take so much at a time.
READ = 256 * 1024

# What one body may have been granted: some reads, so that reading and writing overlap.
_MOST = 4 * READ

# What all of them share: sixteen transfers that move at their full share. More still move, a read
# at a time.
AHEAD = 16 * _MOST


class Ahead:
    """The bytes that all connections together may read ahead of their handlers."""

    def __init__(self, size: int = AHEAD) -> None:
        """`size` in bytes."""
        self._left = size

    def take(self, size: int) -> bool:
        """Take `size` bytes if so many are left; whether they were."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self._left += size


class Inflow:
    """The reading side of one connection: whether it may read on, and who decides that.

    `begin`, `end` and `room` are called by the connection, `waits` and `has` by the body of the
    request that is under way.
    """

    def __init__(self, ahead: Ahead) -> None:
        """`ahead` is what all connections share."""
        self._ahead = ahead
        self._granted = 0
        self._unread = 0
        self._open = True
        self._hungry = False
        self._changed = anyio.Event()

    def begin(self) -> None:
        """A request has come; nobody knows yet who takes its body."""
        self._open = False
        self._hungry = False
        self._unread = 0

    def end(self) -> None:
        """No body is under way: it has come whole, or nobody will take the rest of it."""
        self._open = True
        self._ahead.give(self._granted)
        self._granted = 0
        self._changed.set()

    def waits(self) -> None:
        """The handler has taken everything, and waits."""
        self._hungry = True
        self._changed.set()

    def has(self, unread: int) -> None:
        """So many bytes have come that the handler has not taken."""
        self._hungry = False
        self._unread = unread
        self._changed.set()

    async def room(self) -> None:
        """Return when the connection may read once more."""
        if self._open:
            return
        # What was read is on its way through queues; once the others have run, `has` was called.
        await anyio.lowlevel.checkpoint()
        while not (self._open or self._hungry or self._grant()):
            self._changed = anyio.Event()
            await self._changed.wait()

    def _grant(self) -> bool:
        """Whether one more read stays within what was granted, with more granted if need be."""
        needed = self._unread + READ - self._granted
        if needed <= 0:
            return True
        if self._granted + needed > _MOST or not self._ahead.take(needed):
            return False
        self._granted += needed
        return True
