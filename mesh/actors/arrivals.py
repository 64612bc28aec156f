"""The large blobs that are arriving here, as other nodes see them: how far each is, and its parts.

A blob that is arriving is shown to peers only, never to clients: nobody has seen the whole, so
nobody knows yet whether it is what its name says. See core/trade.py for what peers do with it, and
actors/trading.py for how this node takes parts from others.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager

import anyio
import anyio.lowlevel

from mesh.actors.fetcher import Candidate
from mesh.actors.transfer import CHUNK
from mesh.core.digest import Digest
from mesh.core.holder import Configured
from mesh.core.partial import Bringer, traded
from mesh.core.trade import REACH, STRETCH, WINDOW
from mesh.store.base import Resumed

# Blobs that are traded at a time. Each holds a WINDOW of stretches that came early, 32 MiB, and
# those of KEPT, 16 MiB. More large blobs are fetched beside them as if nobody else fetched them.
_PLACES = 2

# Stretches that stay in memory after they were written. Others ask for them about then; and the
# last MiB that were written are not on the disk yet.
_KEPT = 4

# Seconds that somebody who asks for a part waits for it here, before it is told to look elsewhere.
# A part that is under way comes within that on 16 Mbit/s. On slower links whoever waits loses
# more by waiting than the source by sending the part once more.
PATIENCE = 2.0

# A change of so many bytes is worth an answer to whoever wants to know how far a blob is: half a
# window. At a quarter these answers took a tenth of the event loop. See REACH.
_CLEARLY = WINDOW // 2 * STRETCH

# Requests that wait for a blob to grow: some for each peer. One more is answered at once.
_WAITING = 64
_LONGEST = 10.0  # seconds that one of them waits

# Peers whose parts were wrong, and seconds for which nothing is traded with them. They are not
# blamed: they may have been told wrong bytes.
_SHUNNED = 1000
_SHUN_SECONDS = 600.0


class Arrival:
    """One large blob of `size` bytes that is arriving."""

    def __init__(self, size: int, resumed: Resumed, moved: Callable[[], None]) -> None:
        self.size = size
        self.front = 0
        """So many bytes from the beginning can be had here."""
        self.trading = False
        """Whether stretches may come in any order, and are held in memory."""
        self.closed = False
        self.window = 0
        """So many stretches behind that may come here in any order."""
        self.held: dict[int, list[bytes]] = {}
        """What came early or lately, by its offset."""
        self._resumed = resumed
        self._moved = moved
        self._changed = anyio.Event()

    def grown(self) -> None:
        """More has been written, or all was dropped."""
        here = self._resumed.progress.size
        # Without trade the last bytes are in some buffer on their way to the disk.
        safe = here if self.trading else (here // STRETCH - 1) * STRETCH
        front = max(self.front, safe)
        for start in [at for at in self.held if at < here - _KEPT * STRETCH]:
            del self.held[start]
        if front != self.front:
            self.front = front
            self.notify()

    def dropped(self) -> None:
        """What has come was wrong, and comes anew, in order."""
        self.held.clear()
        self.front = self.window = 0
        self.notify()

    def drop_after(self, here: int) -> None:
        """What came early is not needed."""
        for start in [at for at in self.held if at >= here]:
            del self.held[start]

    def hold(self, start: int, chunks: list[bytes]) -> None:
        """A part has come that begins at `start`."""
        self.held[start] = chunks
        self.notify()

    def notify(self) -> None:
        """Whoever waits is to look again."""
        self._changed.set()
        self._changed = anyio.Event()
        self._moved()

    async def has(self, start: int, stop: int) -> bool:
        """Whether a part is here, once it has come; False when it does not come soon.

        False also for a part that no stretch can be.
        """
        if not start < stop <= self.size or stop - start > STRETCH:
            return False
        with anyio.move_on_after(PATIENCE):
            while not self.closed and not self._there(start, stop):
                await self._changed.wait()
        return not self.closed and self._there(start, stop)

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """A part that is here."""
        at = start
        while at < stop:
            chunk = self._from_memory(at, stop)
            if chunk is None:
                chunk = await self._resumed.read(at, min(at + CHUNK, stop, self._next(at)))
            else:
                await anyio.lowlevel.checkpoint()
            at += len(chunk)
            yield chunk

    def _there(self, start: int, stop: int) -> bool:
        """Whether a part has been written, or is in memory but for what was written."""
        return stop <= self.front or any(
            at <= max(start, self.front) and stop <= at + sum(map(len, chunks))
            for at, chunks in self.held.items()
        )

    def _from_memory(self, at: int, stop: int) -> bytes | None:
        """Bytes from `at` on, not beyond `stop`; None when they are not in memory."""
        for start, chunks in self.held.items():
            if start <= at < start + sum(map(len, chunks)):
                return _joined(chunks, at - start, min(stop - start, at - start + CHUNK))
        return None

    def _next(self, at: int) -> int:
        """Where memory goes on behind `at`."""
        return min((start for start in self.held if start > at), default=self.size)


def _joined(chunks: list[bytes], start: int, stop: int) -> bytes:
    """The bytes [start, stop) of some chunks, or as many as there are.

    What came in pieces of some 100 KiB is sent in larger ones: each costs the server 0.2 ms.
    """
    found: list[bytes] = []
    for chunk in chunks:
        if stop <= 0:
            break
        if start < len(chunk):
            found.append(chunk[max(start, 0) : stop])
        start, stop = start - len(chunk), stop - len(chunk)
    return b"".join(found)


class Arrivals:
    """See the module. Changed by plain calls on the event loop."""

    def __init__(
        self,
        node: bytes = b"",
        candidates: Callable[[], Sequence[Candidate]] = lambda: (),
    ) -> None:
        """`node`: who we are; `candidates`: the peers that parts may be taken from."""
        self.node = node
        self._candidates = candidates
        self._open: dict[Digest, Arrival] = {}
        self._places = _PLACES
        self._waiting = 0
        self._changed = anyio.Event()
        self._shunned: dict[Bringer, float] = {}

    def others(self, but: Configured) -> list[Candidate]:
        """The peers with whom parts may be traded, without one of them."""
        now = anyio.current_time()
        return [
            each
            for each in self._candidates()
            if each.holder != but and self._shunned.get(traded(each.holder.url), now) <= now
        ]

    def shun(self, bringer: Bringer) -> None:
        """Parts that `bringer` gave were wrong."""
        self._shunned.pop(bringer, None)
        self._shunned[bringer] = anyio.current_time() + _SHUN_SECONDS
        if len(self._shunned) > _SHUNNED:
            del self._shunned[next(iter(self._shunned))]

    def find(self, digest: Digest) -> Arrival | None:
        """The blob of that name, while it is arriving."""
        return self._open.get(digest)

    @contextmanager
    def arriving(
        self, digest: Digest, size: int, resumed: Resumed, *, trades: bool
    ) -> Iterator[Arrival]:
        """Show a blob to peers while it arrives.

        `trades`: its parts may come in any order from now on, if there is a place for it.
        """
        placed = trades and self._places > 0
        self._places -= placed
        arrival = self._open[digest] = Arrival(size, resumed, self._moved)
        arrival.window = REACH if placed else 0
        # What came before a restart of this node can be had once it has been looked at.
        self._moved()
        try:
            yield arrival
        finally:
            self._places += placed
            arrival.closed = True
            del self._open[digest]
            arrival.held.clear()
            arrival.notify()

    async def grown(self, digest: Digest, known: int, seconds: float) -> None:
        """Wait until clearly more than `known` bytes of a blob are here, or it is over with it.

        With 0 known: until it begins to arrive. For some seconds at most.
        """
        if self._waiting >= _WAITING:
            return
        self._waiting += 1
        try:
            with anyio.move_on_after(min(seconds, _LONGEST)):
                while not self._is_news(digest, known):
                    await self._changed.wait()
        finally:
            self._waiting -= 1

    def _is_news(self, digest: Digest, known: int) -> bool:
        arrival = self._open.get(digest)
        if arrival is None:
            return known > 0  # it ended: it is here, or it does not come
        return not known or arrival.front >= min(known + _CLEARLY, arrival.size)

    def _moved(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
