"""How fast bytes move, and how much has come of what is moving, as a value.

The time is an argument: seconds on one monotonic clock.
"""

from __future__ import annotations

from collections import deque

from mesh.core.digest import Digest

# Seconds over which a rate is taken. Fewer would make it jump with every batch that is committed;
# more would show the rate of a link that has become slow long after that.
WINDOW = 10


class Meter:
    """Bytes that move in one direction between this node and one peer."""

    def __init__(self) -> None:
        self._slots: deque[tuple[int, int]] = deque()  # second, and bytes in it
        self._parts: dict[Digest, int] = {}

    def moved(self, size: int, now: float) -> None:
        """So many bytes have moved."""
        second = int(now)
        if self._slots and self._slots[-1][0] == second:
            size += self._slots.pop()[1]
        self._slots.append((second, size))
        self._forget(now)

    def rate(self, now: float) -> float:
        """Bytes a second, over the last WINDOW seconds or since the first of them that moved."""
        self._forget(now)
        if not self._slots:
            return 0.0
        elapsed = min(WINDOW, max(1.0, now - self._slots[0][0]))
        return sum(size for _, size in self._slots) / elapsed

    def part(self, digest: Digest, size: int) -> None:
        """`size` bytes of a large blob that is moving are on the other side."""
        self._parts[digest] = size

    def ended(self, digest: Digest) -> None:
        """It moves no more: it is there, or it is not."""
        self._parts.pop(digest, None)

    @property
    def parts(self) -> int:
        """Bytes that have come of blobs that are not there yet."""
        return sum(self._parts.values())

    def _forget(self, now: float) -> None:
        while self._slots and self._slots[0][0] < now - WINDOW:
            self._slots.popleft()


def seconds_left(missing: int | None, rate: float) -> float | None:
    """How long it takes at that rate; None when that is not known."""
    if missing is None:
        return None
    if not missing:
        return 0.0
    return missing / rate if rate > 0 else None
