"""Which peer is due for a round, and when: interval, jitter, backoff, hints.

A plain value that is told the time and given a random source; the scheduler actor owns one.
All times are seconds on one monotonic clock.
"""

from __future__ import annotations

from random import Random
from typing import Generic, TypeVar

K = TypeVar("K")

JITTER = 0.2  # ±20 % on every interval, so that nodes started together drift apart
# First rounds come at random within a time that grows with the number of peers that begin together.
# A node beside one or two is at work at once. Fifty nodes that all list one another would otherwise
# ask whoever stands first in their lists fifty times at the same moment.
FIRST_EACH = 0.1
FIRST_WITHIN = 5.0  # however many there are: people wait for the first round
BACKOFF_BASE = 1.0
BACKOFF_CAP = 300.0  # a peer that is down for a day still costs only some hundred tries
# Hints ("I have something new") come in bursts while a peer is being filled; a round a second
# follows them closely enough, since each round takes all there is.
HINT_SPACING = 1.0

# Being contacted brings the next round forward no more often than this. A Hello proves nothing:
# whoever says one in a peer's name again and again would otherwise make us try that peer all the
# time. A peer that is back says so with every round of its own, which come every 30 s.
CONTACT_SPACING = 10.0


class _Entry:
    __slots__ = ("contacted", "due", "earliest", "failures", "finished", "hinted", "running")

    def __init__(self, due: float) -> None:
        self.due = due
        # A busy peer's own wish: nothing brings the next round before it.
        self.earliest = float("-inf")
        self.failures = 0
        self.running = False
        # Seconds after the end of the round that is running, when another one is wanted then.
        self.hinted: float | None = None
        self.finished = float("-inf")
        # When being contacted last brought a round forward.
        self.contacted = float("-inf")


class Schedule(Generic[K]):
    """The due times of a set of peers."""

    def __init__(self, interval: float, random: Random) -> None:
        """`interval`: seconds between the rounds of a healthy peer."""
        self._interval = interval
        self._random = random
        self._entries: dict[K, _Entry] = {}

    def add(self, peer: K, now: float, among: int = 1) -> None:
        """Unless it is there: a peer, one of `among` that begin together.

        Its first round is due within 0.1 s for each of them, 5 s and the interval at most.
        """
        if peer not in self._entries:
            within = min(self._interval, FIRST_WITHIN, FIRST_EACH * among)
            first = self._random.uniform(0.0, within)
            self._entries[peer] = _Entry(now + first)

    def remove(self, peer: K) -> None:
        """A peer that is gone for good."""
        self._entries.pop(peer, None)

    def next_due(self) -> float:
        """When `take_due` will next have something; infinity when never."""
        return min((e.due for e in self._entries.values() if not e.running), default=float("inf"))

    def take_due(self, now: float) -> list[K]:
        """The peers whose round begins now; each is running until `succeeded` or `failed`."""
        due = [peer for peer, e in self._entries.items() if not e.running and e.due <= now]
        for peer in due:
            self._entries[peer].running = True
            self._entries[peer].hinted = None
        return due

    def succeeded(self, peer: K, now: float) -> None:
        """The peer's round ended well."""
        if entry := self._entries.get(peer):
            entry.failures = 0
            spread = self._random.uniform(1.0 - JITTER, 1.0 + JITTER)
            self._finish(entry, now, now + self._interval * spread)

    def failed(self, peer: K, now: float, retry_after: float | None = None) -> None:
        """The peer's round failed: exponential backoff with full jitter, up to BACKOFF_CAP.

        Full jitter as in "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015): the
        whole delay is random, since that spreads a herd best. A peer's own wish is a lower bound.
        """
        if entry := self._entries.get(peer):
            entry.failures += 1
            ceiling = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(entry.failures, 16))
            wish = min(retry_after or 0.0, BACKOFF_CAP)
            delay = max(self._random.uniform(0.0, ceiling), wish)
            self._finish(entry, now, now + delay)
            entry.earliest = now + wish

    def hint(self, peer: K, now: float, after: float = HINT_SPACING) -> None:
        """There is something for a round with the peer; soon, but not a storm of them.

        `after`: seconds from the end of the round before it, at least; 0 for a round at once,
        which is for what happens once, as doubt about a peer that was thought to be in sync.
        """
        if entry := self._entries.get(peer):
            entry.hinted = after if entry.hinted is None else min(entry.hinted, after)
            if not entry.running:
                soon = max(now, entry.finished + after, entry.earliest)
                entry.due = min(entry.due, soon)

    def contacted(self, peer: K, now: float) -> None:
        """Somebody who may be the peer reached us: what kept us from it may be over."""
        entry = self._entries.get(peer)
        if entry and entry.failures and now >= entry.contacted + CONTACT_SPACING:
            entry.failures = 0
            entry.contacted = now
            soon = max(now + self._random.uniform(0.0, BACKOFF_BASE), entry.earliest)
            entry.due = min(entry.due, soon)

    def failures(self, peer: K) -> int:
        """How many rounds in a row have failed."""
        entry = self._entries.get(peer)
        return entry.failures if entry else 0

    def _finish(self, entry: _Entry, now: float, due: float) -> None:
        entry.running = False
        entry.finished = now
        entry.due = due
        if entry.hinted is not None:
            # What came while the round ran may have been missed by it.
            after, entry.hinted = entry.hinted, None
            if not entry.failures:
                entry.due = min(due, now + after)
