"""The condition of the store's disk. A full disk is a state that ends, not a crash."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

# What a node leaves free unless the configuration says otherwise: 1 % of the file system, and 1 GiB
# at most, which is room for the index and for other programs on any machine.
RESERVE_SHARE = 100
RESERVE_MOST = 1024**3

# A full store takes blobs again when so much more than the reserve is free: an eighth of it, so
# that a disk that hovers around the limit does not turn on and off with every blob.
_SLACK_SHARE = 8
_SLACK_MOST = 64 * 1024**2


class State(StrEnum):
    """How the store stands; the values are what `mesh status` shows."""

    OK = "ok"
    FULL = "full"  # no room: reads and rounds go on
    READ_ONLY = "read-only"  # the file system takes no writes
    FAILING = "failing"  # a write failed in another way


class Condition(NamedTuple):
    """`reason` is for people, "" when all is well.

    `gone`: the data directory is not there, so that nothing can be said of what it holds. A disk
    that fails otherwise may still be read.
    """

    state: State
    reason: str = ""
    gone: bool = False

    @property
    def good(self) -> bool:
        """Whether blobs are taken, and fetched."""
        return self.state is State.OK


OK = Condition(State.OK)


def reserve_of(total: int, wanted: int | None) -> int:
    """Bytes to keep free of a file system of `total`; `wanted` is what the user set."""
    return min(total // RESERVE_SHARE, RESERVE_MOST) if wanted is None else wanted


def judged(free: int, reserve: int, before: Condition) -> Condition:
    """The condition of a disk that can be written, with `free` bytes left."""
    slack = min(reserve // _SLACK_SHARE, _SLACK_MOST) if before.state is State.FULL else 0
    if free >= reserve + slack:
        return OK
    return Condition(State.FULL, f"{free} bytes are free, and {reserve} are kept in reserve")
