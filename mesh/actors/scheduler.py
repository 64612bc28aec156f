"""The scheduler: wakes when a peer is due and asks it for a round."""

from __future__ import annotations

from random import Random
from typing import Protocol

import anyio

from mesh.core.schedule import HINT_SPACING, Schedule


class Scheduled(Protocol):
    """What the scheduler knows of a peer."""

    def due(self) -> None:
        """Begin a round; must not block. `Scheduler.ended` is called when it is over."""


class Scheduler:
    """Owns the Schedule; every change wakes the loop."""

    def __init__(self, interval: float, random: Random) -> None:
        """`interval`: seconds between the rounds of a healthy peer."""
        self._schedule: Schedule[Scheduled] = Schedule(interval, random)
        self._changed = anyio.Event()

    def add(self, peer: Scheduled, among: int = 1) -> None:
        """A new peer, one of `among` that begin together."""
        self._schedule.add(peer, anyio.current_time(), among)
        self._changed.set()

    def remove(self, peer: Scheduled) -> None:
        """A peer that gets no more rounds, unless it is added again."""
        self._schedule.remove(peer)

    def ended(self, peer: Scheduled, *, failed: bool, retry_after: float | None = None) -> None:
        """The peer's round is over."""
        if failed:
            self._schedule.failed(peer, anyio.current_time(), retry_after)
        else:
            self._schedule.succeeded(peer, anyio.current_time())
        self._changed.set()

    def hint(self, peer: Scheduled, after: float = HINT_SPACING) -> None:
        """There is something for a round with the peer, `after` seconds from its last one."""
        self._schedule.hint(peer, anyio.current_time(), after)
        self._changed.set()

    def contacted(self, peer: Scheduled) -> None:
        """The peer reached us."""
        self._schedule.contacted(peer, anyio.current_time())
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._changed = anyio.Event()
            for peer in self._schedule.take_due(anyio.current_time()):
                peer.due()
            with anyio.CancelScope(deadline=self._schedule.next_due()):
                await self._changed.wait()
