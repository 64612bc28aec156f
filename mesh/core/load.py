"""How much is sent to one peer at once, where something on the way limits a request's body.

A proxy in front of a peer may refuse bodies that the peer itself would take (nginx: 1 MiB unless
it is told otherwise). Nobody announces that limit; it shows only as a refusal. So what is sent at
once is halved after each refusal, down to one item. An item that is refused alone is not sent
again for a while, nor is a larger one. Time is an argument, in seconds.
"""

from __future__ import annotations

# Somebody who has raised the proxy's limit sees larger requests after this long, and one who has
# not pays two refused requests in it.
RETRY = 600.0


class _Most:
    """What may go at once, in one unit."""

    def __init__(self) -> None:
        self._most: int | None = None
        self._changed = 0.0

    def present(self, now: float) -> int | None:
        """The limit; doubled when it has not changed for RETRY seconds."""
        if self._most is not None and now - self._changed >= RETRY:
            self._most *= 2
            self._changed = now
        return self._most

    def refused(self, size: int, now: float) -> None:
        """So much was too much."""
        half = max(1, size // 2)
        self._most = half if self._most is None else min(self._most, half)
        self._changed = now


class Load:
    """The present limits of one way to one peer: bytes of blobs, and digests of a message."""

    def __init__(self) -> None:
        self._bytes = _Most()
        self._items = _Most()
        self._alone: int | None = None
        self._alone_since = 0.0

    def most(self, now: float) -> int | None:
        """Bytes of blobs that may be sent at once; None while nothing was ever refused."""
        return self._bytes.present(now)

    def most_items(self, now: float) -> int | None:
        """Digests that one message may name; None while none was ever refused."""
        return self._items.present(now)

    def refused(self, size: int, now: float) -> None:
        """Several blobs of `size` bytes in all were too large: send half as much."""
        self._bytes.refused(size, now)

    def refused_items(self, count: int, now: float) -> None:
        """A message that named `count` digests was too large: name half as many."""
        self._items.refused(count, now)

    def refused_alone(self, size: int, now: float) -> None:
        """One blob of `size` bytes was too large by itself."""
        if not self.hopeless(size, now):
            self._alone, self._alone_since = size, now

    def forgive(self) -> None:
        """Somebody says that the limit was raised: as if nothing had been refused."""
        self._bytes, self._items, self._alone = _Most(), _Most(), None

    def hopeless(self, size: int, now: float) -> bool:
        """Whether one blob of `size` need not be tried: it, or a smaller one, was just refused."""
        return self._alone is not None and size >= self._alone and now - self._alone_since < RETRY
