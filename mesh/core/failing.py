"""Which blobs keep failing to move between this node and a peer, as a value.

A row is a blob, a peer and the side that lacks the blob. It begins with the first try that fails
and counts those that follow. It ends when the blob is there, when a round shows that nothing is
missing on that side, when the peer is removed, or when nobody has tried for a day.

The rows decide nothing: who is asked when is for `core.claims` and `core.schedule`. They are for
people. The time is an argument: seconds on one monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from mesh.core.digest import Digest
from mesh.core.holder import Configured

# As many as there are penalties in core.claims; about 5 MB. A store that does not fit a peer's
# limits may fail with more; then the rows whose last try is the oldest are forgotten, and counted.
MOST = 10_000

# A row that nobody has tried for so long is forgotten. Rounds are tried again after five minutes at
# most, or after an interval; so nobody wants to move that blob any more.
OLD = 86_400.0


class Side(StrEnum):
    """Where a blob is missing."""

    HERE = "here"
    THERE = "there"


class _Key(NamedTuple):
    digest: Digest
    peer: Configured
    side: Side


class Row(NamedTuple):
    """How often a blob failed to move, when first and last, and why the last time."""

    digest: Digest
    peer: Configured
    side: Side
    reason: str
    tries: int
    first: float
    last: float


class Failing:
    """See the module."""

    def __init__(self) -> None:
        self._rows: OrderedDict[_Key, Row] = OrderedDict()  # by the time of the last try
        self._of: dict[Digest, set[_Key]] = {}
        self.forgotten = 0
        """How many rows were forgotten because there were too many, since there were none."""

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, now: float) -> list[Row]:
        """All of them, those that were tried last first."""
        self._expire(now)
        return list(reversed(self._rows.values()))

    def failed(
        self, side: Side, peer: Configured, digests: Iterable[Digest], reason: str, now: float
    ) -> None:
        """These blobs, which are missing on `side`, could not be moved, for this reason."""
        self._expire(now)
        for digest in digests:
            key = _Key(digest, peer, side)
            before = self._rows.pop(key, None)
            tries, first = (before.tries, before.first) if before else (0, now)
            self._rows[key] = Row(digest, peer, side, reason, tries + 1, first, now)
            self._of.setdefault(digest, set()).add(key)
            if len(self._rows) > MOST:
                self.forgotten += 1
                self._drop(next(iter(self._rows)))

    def arrived(self, digests: Iterable[Digest]) -> None:
        """These are here now, whoever brought them."""
        if not self._rows:
            return
        for digest in digests:
            for key in [key for key in self._of.get(digest, ()) if key.side is Side.HERE]:
                self._drop(key)

    def sent(self, peer: Configured, digests: Iterable[Digest]) -> None:
        """The peer has these now."""
        if not self._rows:
            return
        for digest in digests:
            key = _Key(digest, peer, Side.THERE)
            if key in self._rows:
                self._drop(key)

    def level(self, side: Side, peer: Configured) -> None:
        """Nothing is missing on `side`, as a round with the peer has proven."""
        self._drop_all(key for key in self._rows if (key.peer, key.side) == (peer, side))

    def forget(self, peer: Configured) -> None:
        """It is no peer any more."""
        self._drop_all(key for key in self._rows if key.peer == peer)

    def _expire(self, now: float) -> None:
        while self._rows and next(iter(self._rows.values())).last < now - OLD:
            self._drop(next(iter(self._rows)))

    def _drop_all(self, keys: Iterable[_Key]) -> None:
        for key in list(keys):
            self._drop(key)

    def _drop(self, key: _Key) -> None:
        del self._rows[key]
        left = self._of[key.digest]
        left.discard(key)
        if not left:
            del self._of[key.digest]
        if not self._rows:
            self.forgotten = 0
