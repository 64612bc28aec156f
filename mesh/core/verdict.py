"""What is said of a peer in a word, and since when it is so.

`core.standing` has eight states, which say what a node does about a peer. People, and programs that
raise an alarm, ask less: is all that is to be moved there, is it not, does the peer not answer?

The time is an argument: seconds on one monotonic clock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Generic, TypeVar

from mesh.core.digest import Digest
from mesh.core.standing import Standing, State

T = TypeVar("T")


class Verdict(StrEnum):
    """The values are what `mesh status` shows."""

    IN_SYNC = "in sync"  # the two sets are equal
    LEVEL = "level"  # they differ, and nothing is left to move in the direction that is moved
    APART = "not level"  # they differ, as far as is known
    UNREACHABLE = "unreachable"  # the peer did not answer at the last try
    FAILING = "failing"  # the peer answered, and the round failed: a wrong key, say
    UNKNOWN = "unknown"  # not compared yet, or something has come between
    PAUSED = "paused"  # by an order, so nothing is known of it and nothing is moved
    IGNORED = "ignored"  # it is this node itself, or another address of a listed peer


GOOD = frozenset({Verdict.IN_SYNC, Verdict.LEVEL})
"""What says that nothing is left to move."""


def judge(standing: Standing, ours: Digest | None) -> Verdict:
    """The verdict on a peer, beside our root `ours`; None while we have none."""
    if not standing.counts:
        return Verdict.IGNORED
    if standing.paused:
        return Verdict.PAUSED
    if standing.state is State.FAILING:
        return Verdict.UNREACHABLE if standing.unreachable else Verdict.FAILING
    if standing.in_sync(ours):
        return Verdict.IN_SYNC
    if standing.level(ours):
        return Verdict.LEVEL
    known = ours is not None and standing.root is not None
    return Verdict.APART if known and standing.root != ours else Verdict.UNKNOWN


class Since(Generic[T]):
    """A value that is looked at now and then, and when it was first seen to be what it is."""

    def __init__(self, value: T) -> None:
        self.value = value
        self.at: float | None = None
        """None before the first look."""

    def look(self, value: T, now: float) -> None:
        """It is `value` now."""
        if self.at is None or value != self.value:
            self.value, self.at = value, now
