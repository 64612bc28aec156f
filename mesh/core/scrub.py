"""When a scrub reads, and what: everything, in passes, at a set rate; others go first.

A plain value that is told the time and given a random source; the scrubber actor owns one. Times
are seconds on one monotonic clock. Ages are saved, not times: so neither a restart nor a jump of
the wall clock begins a pass or skips one. Time while the node is down does not count.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple, TypeAlias

import msgspec

DAY = 86_400.0

JITTER = 0.1  # ±10 % between passes, so that nodes started together do not scrub together
# The first pass begins at random in this part of the period: what a new node holds has just been
# written, and a mesh that is upgraded together should not read together.
FIRST = 0.1

# Seconds that the scrub waits after a start, and after an error of the store: what people and peers
# ask for comes first.
SETTLE = 10.0
RETRY = 60.0

# While others read, each step halves the rate, down to a tenth of what was set. When nobody reads,
# each step doubles it again. So a scrub of 10 MB/s is out of the way within half a second.
SLOWEST = 10.0

# A step reads what the rate gives in a tenth of a second, and at most 1 MiB: some milliseconds of a
# disk. A read that comes meanwhile waits no longer than that.
STEPS = 10
STEP_MOST = 1024 * 1024
STEP_LEAST = 4096

Place: TypeAlias = tuple[int, int, int]


class Pass(msgspec.Struct, frozen=True):
    """What one pass read."""

    blobs: int = 0
    bytes: int = 0
    damaged: int = 0
    seconds: float = 0.0


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """What outlives a restart. `age`: since the last pass began; `due`: its age at the next."""

    running: bool
    paused: bool
    place: Place
    age: float
    due: float
    passes: int
    now: Pass
    before: Pass | None


class Stepped(NamedTuple):
    """What a step found: where the next one begins, None at the end."""

    place: Place | None
    blobs: int
    bytes: int
    damaged: int


class Scrub:
    """The state of the scrub of one store."""

    def __init__(
        self, rate: float, days: float, random: Random, now: float, saved: Saved | None = None
    ) -> None:
        """`rate`: bytes a second; `days`: between the beginnings of passes."""
        self._rate = rate
        self._period = days * DAY
        self._random = random
        self._slowness = 1.0
        if saved is None:
            due = random.uniform(0.0, FIRST) * self._period
            saved = Saved(
                running=False, paused=False, place=(0, 0, 0), age=0.0, due=due, passes=0,
                now=Pass(), before=None,
            )  # fmt: skip
        self.running = saved.running
        self.paused = saved.paused
        self.place = saved.place
        self.passes = saved.passes
        self.current = saved.now
        self.before = saved.before
        self._began = now - saved.age
        self._due = saved.due
        self._earliest = now + SETTLE

    @property
    def room(self) -> int:
        """How many bytes the next step should read."""
        return int(min(STEP_MOST, max(STEP_LEAST, self._rate / STEPS)))

    @property
    def rate(self) -> float:
        """Bytes a second, as slowed down by others' reads."""
        return self._rate / self._slowness

    def next(self) -> float:
        """When there is something to do; infinity while it is paused."""
        if self.paused:
            return float("inf")
        return max(self._earliest, 0.0 if self.running else self._began + self._due)

    def begin(self, now: float) -> None:
        """A pass begins, if none is under way."""
        if not self.running:
            self.running = True
            self.place = (0, 0, 0)
            self.current = Pass()
            self._began = now
            self._earliest = max(self._earliest, now)
            self._due = self._period * self._random.uniform(1 - JITTER, 1 + JITTER)

    def start(self, now: float) -> None:
        """Somebody wants a pass now."""
        self.paused = False
        self._earliest = now
        self.begin(now)

    def pause(self) -> None:
        """Nothing is read until it is resumed, also over restarts."""
        self.paused = True

    def resume(self, now: float) -> None:
        """Go on."""
        self.paused = False
        self._earliest = now

    def stepped(self, step: Stepped, *, busy: bool, now: float) -> None:
        """A step is done; `busy`: others read meanwhile."""
        self._slowness = min(self._slowness * 2, SLOWEST) if busy else max(1, self._slowness / 2)
        # The next step is due counted from when this one was due. Counted from now, each step's
        # own time would slow the scrub down. But time during which the machine stood still is not
        # made up for: one second of it at most.
        due = max(self._earliest, now - 1.0)
        self._earliest = due + step.bytes * self._slowness / self._rate
        self.current = Pass(
            self.current.blobs + step.blobs,
            self.current.bytes + step.bytes,
            self.current.damaged + step.damaged,
            now - self._began,
        )
        if step.place is None:
            self.running = False
            self.passes += 1
            self.before = self.current
        else:
            self.place = step.place

    def failed(self, now: float) -> None:
        """The store could not be read at all: try again in RETRY seconds."""
        self._earliest = now + RETRY

    def saved(self, now: float) -> Saved:
        """What to keep over a restart."""
        return Saved(
            running=self.running, paused=self.paused, place=self.place, age=now - self._began,
            due=self._due, passes=self.passes, now=self.current, before=self.before,
        )  # fmt: skip
