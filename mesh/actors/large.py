"""A large blob from a peer: over as many connections as it takes, also over a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio

from mesh.actors.keeper import Holder, Keeper
from mesh.actors.transfer import take_large
from mesh.core.digest import Digest
from mesh.core.partial import SAVE_BYTES, SAVE_SECONDS, Tries
from mesh.core.plan import LARGE_BLOB
from mesh.errors import Misbehaved, Stalled, Unreachable
from mesh.store.base import Item, Resumed
from mesh.transport.base import Replica

log = logging.getLogger("mesh")

Accuse = Callable[[Holder, str], None]
"""Told of a peer that brought wrong bytes in an earlier try, and of what it did."""

_MOST_LIARS = 1000  # the first ones go; peers are some dozen, strangers that push may be many


class Lies:
    """The last lie of each peer that was shown to have lied; said as long as the process runs."""

    def __init__(self) -> None:
        self._by: dict[Holder, str] = {}

    def note(self, liar: Holder, what: str) -> None:
        """See Accuse."""
        log.warning("peer %s lied: %s", liar.hex(), what)
        self._by.pop(liar, None)
        self._by[liar] = what
        if len(self._by) > _MOST_LIARS:
            del self._by[next(iter(self._by))]

    def get(self, holder: Holder) -> str | None:
        """What `holder` did; None for nothing."""
        return self._by.get(holder)


async def fetch_large(
    keeper: Keeper, replica: Replica, holder: Holder, digest: Digest, size: int, accuse: Accuse
) -> tuple[bool, int]:
    """Fetch and store one blob of `size` bytes, so the peer says; whether it was new, its size.

    What has come is kept whatever ends the transfer, and gone on with from whoever has the blob.
    Raises Misbehaved when the peer alone brought another blob, Unreachable when it stood still, or
    broke off and trying again at once did not help.
    """
    async with keeper.store.resume(digest, holder) as arriving:
        keeper.disk.admit(size - arriving.progress.size if arriving is not None else size)
        if arriving is None or size < LARGE_BLOB:
            async with replica.fetch_large(digest, 0) as chunks:
                return await take_large(keeper, holder, digest, chunks, size)
        fetch = _Fetch(keeper, replica, holder, digest, size, arriving)
        item = await fetch.run()
        for liar in await arriving.liars():
            keeper.failed(liar, [digest])
            accuse(liar, f"it brought wrong bytes of blob {digest.hex()}, as others showed")
        (fresh,) = await keeper.put([item], holder)
        await arriving.done()
    return fresh, size


class _Fetch:
    def __init__(
        self,
        keeper: Keeper,
        replica: Replica,
        holder: Holder,
        digest: Digest,
        size: int,
        arriving: Resumed,
    ) -> None:
        self._keeper = keeper
        self._replica = replica
        self._holder = holder
        self._digest = digest
        self._size = size
        self._arriving = arriving
        self._renewed = anyio.current_time()

    async def run(self) -> Item:
        """The blob, whole and right."""
        while True:
            if self._arriving.progress.size > self._size:
                # Somebody lies about its size; who, only the whole can tell.
                await self._arriving.restart(alone=True)
            await self._pieces()
            item = await self._arriving.finish()
            if item.digest == self._digest:
                return item
            liar = self._arriving.progress.liar()
            await self._arriving.restart(alone=liar is None)
            if liar is not None:
                raise Misbehaved(f"what came as blob {self._digest.hex()} is {item.digest.hex()}")

    async def _pieces(self) -> None:
        """All bytes, over one connection after the other."""
        while await self._arriving.recall():
            self._renew()
        tries = Tries()
        while (before := self._arriving.progress.size) < self._size:
            self._renew()
            try:
                await self._stream(before)
                cut = None
            except Stalled:
                raise
            except Unreachable as error:
                cut = error
            now = self._arriving.progress.size
            if now < self._size and not tries.again(now - before):
                raise cut or Misbehaved(
                    f"blob {self._digest.hex()} ends at {now} of the {self._size} bytes announced"
                )

    async def _stream(self, start: int) -> None:
        saved, at = anyio.current_time(), start
        async with self._replica.fetch_large(self._digest, start) as chunks:
            async for chunk in chunks:
                size = self._arriving.progress.size + len(chunk)
                if size > self._size:
                    await self._arriving.restart(alone=False)
                    raise Misbehaved(
                        f"blob {self._digest.hex()} is longer than the {self._size} bytes announced"
                    )
                await self._arriving.write(chunk)
                now = anyio.current_time()
                if size - at >= SAVE_BYTES or now - saved > SAVE_SECONDS:
                    saved, at = now, size
                    await self._arriving.save()
                if now - self._renewed > 1.0:
                    self._renew()

    def _renew(self) -> None:
        self._renewed = anyio.current_time()
        self._keeper.renew(self._holder, [self._digest])
