"""How many bytes of files a put has in memory between reading and sending them."""

from __future__ import annotations

import anyio


class Held:
    """A budget of bytes. Who takes some waits until there is room, and gives them back later."""

    def __init__(self, size: int) -> None:
        """`size` in bytes."""
        self._size = size
        self._held = 0
        self._changed = anyio.Event()

    async def take(self, size: int) -> None:
        """Return when `size` more bytes may be held; more than there are, when nothing else is."""
        while self._held and self._held + size > self._size:
            self._changed = anyio.Event()
            await self._changed.wait()
        self._held += size

    def give(self, size: int) -> None:
        """So many bytes are held no more."""
        self._held -= size
        self._changed.set()
