"""How the disk stands: asked again and again, told by whoever meets an error, owned by the keeper.

It also looks after the large blobs of which a part has come, which are the only thing that a node
gives up by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio

from mesh.core.condition import OK, Condition, State, judged, reserve_of
from mesh.core.digest import Digest
from mesh.core.partial import Shelf
from mesh.errors import Full, Gone, ReadOnly, StoreError, TooLarge, one_line, printable
from mesh.status import StoreStatus
from mesh.store.base import BlobStore, Room

log = logging.getLogger("mesh")

# Seconds between two looks at a disk that is well: a fast link brings 0.5 GB meanwhile, half of the
# default reserve.
_LOOK = 5.0

# And at one that is not: whoever has made room waits no longer than this. Such a look also writes
# 4 KiB, to see whether that works again.
_LOOK_AGAIN = 1.0


class DiskWatch:
    """The condition of the store. Changed by plain calls on the event loop of the keeper."""

    def __init__(
        self, store: BlobStore, reserve: int | None, on_recovery: Callable[[], None]
    ) -> None:
        """See Keeper."""
        self.condition: Condition = OK
        self._store = store
        self._reserve = reserve
        self._on_recovery = on_recovery
        self._room: Room | None = None
        self._shelf = Shelf()
        self._partial = (0, 0)
        self._look = anyio.Event()

    def status(self) -> StoreStatus:
        """As it is now."""
        room = self._room
        return StoreStatus(
            state=self.condition.state,
            reason=self.condition.reason,
            free_bytes=room.free if room is not None else None,
            reserve_bytes=self._kept_free if room is not None else None,
            partial_blobs=self._partial[0],
            partial_bytes=self._partial[1],
        )

    def admit(self, size: int) -> None:
        """Raise Full or ReadOnly unless the store takes a new blob of `size` bytes now.

        One that is failing is tried: it says itself what is wrong.
        """
        state, reason = self.condition.state, self.condition.reason
        if state is State.READ_ONLY:
            raise ReadOnly(f"the store takes no writes: {reason}")
        if state is State.FULL:
            raise Full(f"the disk is full: {reason}; make room")
        left = self._room.free - self._kept_free if self._room is not None else size
        if size > left:
            raise TooLarge(f"no room for a blob of {size} bytes: {max(0, left)} may be filled")

    def vouch(self) -> None:
        """Raise StoreError unless what is here already may be acknowledged once more.

        A store that is failing may have lost its directory, and its blobs with it.
        """
        if self.condition.state is State.FAILING:
            raise StoreError(f"the store is failing: {self.condition.reason}")

    def present(self) -> None:
        """Raise Gone when nothing can be said of our set: the directory that holds it is gone.

        The tree is in memory and knows nothing of that. Peers that went by it would call a node
        level that has nothing any more.
        """
        if self.condition.gone:
            raise Gone(f"the data directory is gone: {self.condition.reason}")

    def met(self, error: StoreError) -> None:
        """A write failed. What that means is found out at once, or soon where room is short: a
        small write may still fit where a large one did not.
        """
        if isinstance(error, TooLarge):
            return
        if isinstance(error, Full):
            state = State.FULL
        else:
            state = State.READ_ONLY if isinstance(error, ReadOnly) else State.FAILING
        if self.condition.good:
            self._becomes(Condition(state, one_line(error), isinstance(error, Gone)))
        if state is not State.FULL:
            self._look.set()

    async def run(self, has: Callable[[Digest], bool]) -> None:
        """Look every few seconds, until cancelled. `has`: whether a blob is here."""
        while True:
            self._look = anyio.Event()
            try:
                self._room = await self._store.room(trial=not self.condition.good)
                self._becomes(judged(self._room.free, self._kept_free, self.condition))
            except Full as error:
                self._becomes(Condition(State.FULL, one_line(error)))
            except ReadOnly as error:
                self._becomes(Condition(State.READ_ONLY, one_line(error)))
            except StoreError as error:
                gone = isinstance(error, Gone)
                self._becomes(Condition(State.FAILING, one_line(error), gone))
            if self.condition.good:
                await self._tidy(has)
            with anyio.move_on_after(_LOOK if self.condition.good else _LOOK_AGAIN):
                await self._look.wait()

    @property
    def _kept_free(self) -> int:
        return reserve_of(self._room.total if self._room is not None else 0, self._reserve)

    def _becomes(self, now: Condition) -> None:
        before, self.condition = self.condition, now
        if before.state == now.state:
            return
        if now.good:
            log.info("the store takes blobs again")
            self._on_recovery()
        else:
            log.error("the store is %s: %s", now.state, printable(now.reason))

    async def _tidy(self, has: Callable[[Digest], bool]) -> None:
        try:
            kept = await self._store.partials()
            self._partial = (len(kept), sum(each.size for each in kept))
            gone = set(self._shelf.look(kept, anyio.current_time()))
            gone |= {each.digest for each in kept if not each.busy and has(each.digest)}
            for digest in gone:
                await self._store.drop_partial(digest)
        except StoreError as error:
            log.warning("%s", one_line(error))
