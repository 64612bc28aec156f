"""The journal: tells in the log what happened to blobs, some seconds' worth at a time.

It owns what was gathered. Everybody else notes what happened by plain calls, on the event loop of
the keeper.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import anyio

from mesh.core.digest import Digest
from mesh.core.gathered import Gathered, Way
from mesh.core.holder import Client, Configured, Holder
from mesh.core.limits import LARGE_BLOB
from mesh.store.base import Item

log = logging.getLogger("mesh")

# The first line comes so many seconds after what it tells, so that a hundred blobs put in a row are
# one line. While more keeps happening there is one in so many seconds: a day of it has 8,640.
_FIRST = 1.0
_NEXT = 10.0


class Journal:
    """See the module. `run` is supervised by the node; the rest are plain calls."""

    def __init__(self, called: Callable[[str], str] = str) -> None:
        """`called`: what the peer at an address is called."""
        self._called = called
        self._gathered = Gathered()
        self._noted = anyio.Event()

    def came(self, holder: Holder, items: Sequence[Item], began: float | None) -> None:
        """`holder` brought what is new here; it began to at `began`, None when nobody knows."""
        way, peer, key = Way.FETCHED, "", ""
        if isinstance(holder, Configured):
            peer = holder.url
        else:
            way, key = Way.PUT if isinstance(holder, Client) else Way.PUSHED, holder.key
        now = anyio.current_time()
        since = now if began is None else began
        small = [item.size for item in items if item.size < LARGE_BLOB]
        if small:
            self._gathered.moved(way, peer, len(small), sum(small), since, now, key=key)
        for item in items if len(small) < len(items) else ():
            if item.size >= LARGE_BLOB:
                self._gathered.moved(way, peer, 1, item.size, since, now, item.digest, key)
        self._noted.set()

    def sent(
        self, holder: Configured, blobs: int, size: int, began: float, large: Digest | None = None
    ) -> None:
        """So many blobs are new at a peer, after `size` bytes went there; `large`: a single one."""
        if blobs:
            peer, now = holder.url, anyio.current_time()
            self._gathered.moved(Way.SENT, peer, blobs, size, began, now, large)
            self._noted.set()

    def announced(self, holder: Configured, blobs: int, wanted: int) -> None:
        """A peer was offered so many blobs, and wanted some of them."""
        if blobs:
            self._gathered.announced(holder.url, blobs, wanted)
            self._noted.set()

    def healed(self, blobs: int, wanted: int) -> None:
        """So many blobs that were lost are back; `wanted`: those that are not."""
        if blobs > 0:
            self._gathered.healed(blobs, wanted)
            self._noted.set()

    async def run(self) -> None:
        """Tell what is noted, until cancelled."""
        while True:
            await self._noted.wait()
            pause = _FIRST
            while self._noted.is_set():
                await anyio.sleep(pause)
                self.flush()
                pause = _NEXT
                with anyio.move_on_after(_NEXT):
                    await self._noted.wait()

    def flush(self) -> None:
        """Tell all that is noted, now."""
        self._noted = anyio.Event()
        for text, facts in self._gathered.take(self._called):
            log.info("%s", text, extra={"facts": facts})
