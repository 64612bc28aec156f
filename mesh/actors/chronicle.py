"""The chronicle: the latest events of a node, and who listens to them.

There is one buffer of bounded size, in which the newest events take the place of the oldest, and a
mark in it for each listener. So telling an event costs the same however many listen, nobody who
listens can hold up the node, and one that is too slow learns how many events it has missed.

While nobody listens, no event is made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from weakref import WeakSet

import anyio

from mesh.core.digest import Digest
from mesh.core.holder import Client, Configured, Holder
from mesh.errors import printable
from mesh.events import Began, Damaged, Dropped, Event, Healed, PeerEvent, RoundEvent, Stored
from mesh.status import RoundStats
from mesh.store.base import Damage, Item

# Two commits of the largest size, of 4,096 blobs each: what may come before a listener gets its
# turn. An event takes some 300 bytes.
_MOST = 8192

# Damaged blobs of which it is remembered that they were told of; of others no return is told.
_DAMAGED = 10_000


class Chronicle:
    """See the module. All but listening are plain calls, on the event loop of the keeper."""

    def __init__(self, most: int = _MOST) -> None:
        """`most`: how many events are kept."""
        self._events: deque[Event] = deque(maxlen=most)
        self.told = 0
        """How many events there were."""
        self.closed = False
        self._listeners: WeakSet[Listener] = WeakSet()
        self._more = anyio.Event()
        self._damaged: set[Digest] = set()
        self._standing: dict[str, tuple[str, str | None]] = {}

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def listen(self, began: Began) -> Listener:
        """Listen from now on; `began` is the first event."""
        listener = Listener(self, began)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """One of them does not listen any more."""
        self._listeners.discard(listener)
        self._wake()

    def close(self) -> None:
        """The node has ended, and tells nothing more."""
        self.closed = True
        self._wake()

    # --- what happens ------------------------------------------------------------------------

    def stored(self, holder: Holder, items: Iterable[Item]) -> None:
        """`holder` brought what is new here."""
        bringer = "push"
        if isinstance(holder, Client):
            bringer = "client"
        elif isinstance(holder, Configured):
            bringer = "peer"
        if self._listeners:
            self._tell(
                Stored(digest=item.digest.hex(), size=item.size, bringer=bringer) for item in items
            )
        if self._damaged:
            back = self._damaged.intersection(item.digest for item in items)
            self._damaged -= back
            self._tell(Healed(digest=digest.hex()) for digest in sorted(back))

    def damaged(self, damages: Iterable[Damage]) -> None:
        """These blobs were set aside."""
        for digest, reason, _ in damages:
            if len(self._damaged) < _DAMAGED:
                self._damaged.add(digest)
            self._tell([Damaged(digest=digest.hex(), reason=printable(reason))])

    def peer(self, name: str, url: str, state: str, why: str | None) -> None:
        """A peer stands so; it is told only if that is new."""
        if self._standing.get(url) != (state, why):
            self._standing[url] = (state, why)
            self._tell([PeerEvent(peer=name, url=url, state=state, why=why)])

    def forget(self, url: str) -> None:
        """There is no peer at this address any more; what one there says next is told anew."""
        self._standing.pop(url, None)

    def round(self, stats: RoundStats) -> None:
        """A round is over."""
        if self._listeners:
            self._tell(
                [
                    RoundEvent(
                        peer=stats.peer,
                        seconds=stats.seconds,
                        fetched=stats.fetched,
                        fetched_bytes=stats.fetched_bytes,
                        sent=stats.sent,
                        sent_bytes=stats.sent_bytes,
                        missing_here=stats.missing_here,
                        missing_there=stats.missing_there,
                        error=stats.error,
                    )
                ]
            )

    def _tell(self, events: Iterable[Event]) -> None:
        if self._listeners:
            for event in events:
                self._events.append(event)
                self.told += 1
            self._wake()

    # --- for listeners -----------------------------------------------------------------------

    def since(self, mark: int) -> Sequence[Event]:
        """The events behind the first `mark` ones, of which the oldest may be gone."""
        new = min(self.told - mark, len(self._events))
        return list(islice(self._events, len(self._events) - new, None))

    async def beyond(self, mark: int, listener: Listener) -> None:
        """Wait until there are more events than `mark`, or none will come."""
        while self.told == mark and not self.closed and listener in self._listeners:
            await self._more.wait()

    def _wake(self) -> None:
        self._more.set()
        self._more = anyio.Event()


class Listener:
    """One who listens: an asynchronous iterator of events, for one task."""

    def __init__(self, chronicle: Chronicle, began: Began) -> None:
        """See Chronicle.listen."""
        self._chronicle = chronicle
        self._mark = chronicle.told
        self._left = False
        self._ready: deque[Event] = deque([began])

    def __aiter__(self) -> Listener:
        """Itself."""
        return self

    async def __anext__(self) -> Event:
        """The next event; the end when the node has ended."""
        if not self._ready:
            self._ready.extend(await self.some())
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.popleft()

    async def some(self) -> list[Event]:
        """All that there is, at least one event; none when no more will come."""
        if self._left:
            return []
        if self._ready:
            ready, self._ready = list(self._ready), deque()
            return ready
        await self._chronicle.beyond(self._mark, self)
        found = list(self._chronicle.since(self._mark))
        missed = self._chronicle.told - self._mark - len(found)
        self._mark = self._chronicle.told
        return [Dropped(count=missed), *found] if missed else found

    async def aclose(self) -> None:
        """Listen no more."""
        self._left = True
        self._chronicle.leave(self)
        self._ready.clear()
