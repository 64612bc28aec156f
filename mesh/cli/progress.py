"""How far a command is, how fast it goes, and how long it still takes: values without a clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from mesh.cli.words import size_text

# Seconds over which a rate is taken. A shorter window jumps with every large file, a longer one
# shows for minutes what a line did before it slowed down.
WINDOW = 10.0


class Progress(msgspec.Struct, frozen=True):
    """What is known of a piece of work.

    `what` it is ("fetching"); how many files or blobs are done and of how many; the same for their
    bytes. What nobody counts is None, and so is a total that nobody knows yet. `rate`: bytes a
    second, where somebody else has measured them. `ahead`: this is a step before the work
    itself, so its speed does not tell how long that takes.
    """

    what: str
    count: int | None = None
    total: int | None = None
    bytes: int | None = None
    total_bytes: int | None = None
    rate: float | None = None
    ahead: bool = False

    @property
    def part(self) -> tuple[int, int | None]:
        """How much is done, and of how much: in bytes if that is known, else by the count."""
        if self.bytes is not None and self.total_bytes is not None:
            return self.bytes, self.total_bytes
        return self.count or 0, self.total


class View(msgspec.Struct, frozen=True):
    """A Progress at one moment. `seconds` since the command began; `rate` in bytes a second.

    `left` is in seconds. Both are None as long as they are not known.
    """

    progress: Progress
    seconds: float
    rate: float | None
    left: float | None

    def numbers(self, unit: str) -> str:
        """For people: bytes, how many of `unit` (files, blobs), rate, time left; what is known."""
        progress = self.progress
        parts: list[str] = []
        if progress.bytes is not None:
            parts.append(_of(size_text(progress.bytes), progress.total_bytes, size_text))
        if progress.count is not None:
            parts.append(f"{_of(str(progress.count), progress.total, str)} {unit}")
        if self.rate is not None:
            parts.append(f"{size_text(self.rate)}/s")
        if self.left is not None:
            parts.append(f"{time_text(self.left)} left")
        return "  ".join(parts)


class Meter:
    """Measures how fast a Progress goes. It is told the time, in seconds on any one clock."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._seen: deque[tuple[float, Progress]] = deque()

    def add(self, now: float, progress: Progress) -> View:
        """Take in how far it is; how that looks."""
        seen = self._seen
        if seen and _is_other(seen[-1][1], progress):
            seen.clear()
        seen.append((now, progress))
        # One look that is older than the window stays: the rate is taken from there.
        while len(seen) > 1 and seen[1][0] <= now - WINDOW:
            seen.popleft()
        rate = progress.rate if progress.rate is not None else self._rate("bytes")
        return View(progress, now - self._began, rate, self._left(rate))

    def _rate(self, which: str) -> float | None:
        """What was done a second, in the window; None where that is not known."""
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        before, now = getattr(first, which), getattr(last, which)
        if before is None or now is None or ended <= began:
            return None
        return float(max(0, now - before) / (ended - began))

    def _left(self, rate: float | None) -> float | None:
        """By the bytes; by the count only where nobody counts bytes.

        A hundred small blobs say nothing of how long the large one takes that is left.
        """
        progress = self._seen[-1][1]
        if progress.ahead:
            return None
        done, total = progress.bytes, progress.total_bytes
        if done is None:
            done, total, rate = progress.count or 0, progress.total, self._rate("count")
        return max(0, total - done) / rate if rate and total is not None else None


def time_text(seconds: float) -> str:
    """A span of time for people: 0:07, 12:05, 3:04:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _of(done: str, total: int | None, text: Callable[[int], str]) -> str:
    return done if total is None else f"{done} of {text(total)}"


def _is_other(before: Progress, now: Progress) -> bool:
    """Whether another piece of work has begun: its speed says nothing of the one before."""
    return before.what != now.what
