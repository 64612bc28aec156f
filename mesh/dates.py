"""Dates for people: when something was, beside how long ago it was.

All that decides anything is counted on a monotonic clock. A date is made from it at the last
moment, by what the time of day is then. So a clock that was set shows everything by its new time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

Clock = Callable[[], float]

TIME_OF_DAY: Clock = time.time
"""Seconds since 1970."""


def rfc3339(seconds: float) -> str:
    """Seconds since 1970 as a date in UTC: 2026-11-30T21:22:02Z."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_milliseconds(seconds: float) -> str:
    """The same to the millisecond: 2026-11-30T21:22:02.123Z."""
    whole, rest = divmod(int(seconds * 1000), 1000)
    return f"{rfc3339(whole)[:-1]}.{rest:03}Z"


@dataclass(frozen=True, slots=True)
class Dates:
    """One moment on both clocks: `wall` in seconds since 1970, `now` on the monotonic clock."""

    wall: float
    now: float

    def ago(self, moment: float | None) -> float | None:
        """Seconds since a moment of the monotonic clock; None for none."""
        return None if moment is None else max(0.0, self.now - moment)

    def at(self, moment: float | None) -> str | None:
        """The date of a moment of the monotonic clock; None for none."""
        return None if moment is None else rfc3339(self.wall - max(0.0, self.now - moment))
