"""A large blob from a peer: over as many connections as it takes, also over a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import anyio

from mesh.actors.arrivals import Arrival, Arrivals
from mesh.actors.fetcher import Candidate
from mesh.actors.keeper import Keeper
from mesh.actors.trading import Trading
from mesh.actors.transfer import progressed, take_large
from mesh.core.digest import Digest
from mesh.core.holder import Anonymous, Configured, Holder, bringer, peer_of
from mesh.core.limits import LARGE_BLOB
from mesh.core.partial import SAVE_BYTES, SAVE_SECONDS, Bringer, Tries, is_traded
from mesh.core.trade import LEAST
from mesh.errors import Misbehaved, Refused, Stalled, Unreachable
from mesh.store.base import Item, Resumed
from mesh.transport.base import Replica


async def fetch_large(
    keeper: Keeper,
    replica: Replica,
    holder: Configured,
    digest: Digest,
    size: int,
    arrivals: Arrivals,
) -> tuple[bool, int]:
    """Fetch and store one blob of `size` bytes, so the peer says; whether it was new, its size.

    What has come is kept whatever ends the transfer, and gone on with from whoever has the blob.
    While it comes, peers can take parts of it from `arrivals`, and it is fetched in turns with
    those that fetch it as well.

    Raises Misbehaved when the peer alone brought another blob, Unreachable when it stood still, or
    broke off and trying again at once did not help.
    """
    if keeper.has(digest):
        return False, size  # it came another way meanwhile
    async with keeper.door.resume(digest, bringer(holder)) as arriving:
        keeper.disk.admit(size - arriving.progress.size if arriving is not None else size)
        if arriving is None or size < LARGE_BLOB:
            async with replica.fetch_large(digest, 0) as chunks:
                return await take_large(keeper, holder, digest, chunks, size)
        others = arrivals.others(holder) if size >= LEAST else []
        # What was wrong once comes from one peer alone, so that it is known who lies.
        trades = bool(others) and not arriving.progress.alone
        with arrivals.arriving(digest, size, arriving, trades=trades) as arrival:
            taking = _Taking(keeper, holder, digest, size, arriving, arrivals, arrival)
            item: Item | None = None
            while item is None:
                await _brought(replica, holder, taking, arrivals, arrival, others)
                item = await taking.finish()
            return await taking.commit(item), size


async def take_pushed(
    keeper: Keeper,
    holder: Anonymous,
    digest: Digest,
    size: int,
    start: int,
    chunks: AsyncIterator[bytes],
) -> bool:
    """Store one blob that is pushed from `start` on, where an earlier push may have ended.

    Whether it was new. Raises Misbehaved when strangers alone brought another blob, or the bytes
    are not `size`; Refused when the push has to begin somewhere else, or a configured peer brings
    the blob.
    """
    if keeper.has(digest):
        return False  # answered before a byte of it is read
    async with keeper.door.resume(digest, bringer(holder)) as arriving:
        keeper.disk.admit(size - arriving.progress.size if arriving is not None else size)
        here = arriving.progress.size if arriving is not None else 0
        if start > here:
            raise Refused(f"blob {digest.hex()} goes on at {here} here, not at {start}")
        if arriving is None or size < LARGE_BLOB:
            fresh, _ = await take_large(keeper, holder, digest, chunks, size, exact=True)
            return fresh
        taking = _Taking(keeper, holder, digest, size, arriving)
        await taking.begin()
        await taking.take(chunks, here - start, _never)
        taking.check_end()
        item = await taking.finish()
        if item is None:
            raise Refused(f"blob {digest.hex()} has come wrong from several; push it anew")
        return await taking.commit(item)


async def _brought(
    replica: Replica,
    holder: Configured,
    taking: _Taking,
    arrivals: Arrivals,
    arrival: Arrival,
    others: Sequence[Candidate],
) -> None:
    """All bytes: from one peer, or in turns with `others` that fetch the blob as well."""
    await taking.begin()
    arrival.grown()
    stream = partial(_fetched, replica, taking)
    if not arrival.window:
        await stream(_never)
        return
    source = Candidate(holder, replica, reachable=True)
    await Trading(taking, arrival, arrivals, source, others, stream).run()


def _never() -> bool:
    return False


async def _fetched(replica: Replica, taking: _Taking, enough: Callable[[], bool]) -> None:
    """All bytes, or as many as are `enough`, over one connection after the other."""
    tries = Tries()
    while (before := taking.here) < taking.size and not enough():
        cut: Unreachable | None = None
        try:
            async with replica.fetch_large(taking.digest, before) as chunks:
                await taking.take(chunks, 0, enough)
        except Stalled:
            raise
        except Unreachable as error:
            cut = error
        if taking.here < taking.size and not enough() and not tries.again(taking.here - before):
            if cut is not None:
                raise cut
            taking.check_end()


class _Taking:
    """One blob that arrives from one peer, in its turn."""

    def __init__(
        self,
        keeper: Keeper,
        holder: Holder,
        digest: Digest,
        size: int,
        arriving: Resumed,
        arrivals: Arrivals | None = None,
        arrival: Arrival | None = None,
    ) -> None:
        """Without `arrivals` it is shown to nobody while it arrives."""
        self.digest = digest
        self.size = size
        self._keeper = keeper
        self._holder = holder
        self._arriving = arriving
        self._arrivals = arrivals
        self._arrival = arrival
        self._saved = anyio.current_time(), 0
        self._began = self._renewed = anyio.current_time()

    @property
    def here(self) -> int:
        """Bytes so far."""
        return self._arriving.progress.size

    async def begin(self) -> None:
        """Make sure of what came earlier."""
        if self.here > self.size:
            # Somebody lies about its size; who, only the whole can tell.
            await self._restart(alone=True)
        self._saved = anyio.current_time(), self.here
        while await self._arriving.recall():
            self._renew()
        self._renew()

    async def take(
        self, chunks: AsyncIterator[bytes], skip: int, enough: Callable[[], bool]
    ) -> None:
        """Take what comes, but for the first `skip` bytes, until it is `enough`."""
        async for chunk in chunks:
            fresh = chunk[skip:]
            skip -= len(chunk) - len(fresh)
            await self.put(fresh)
            if self._arrival is not None:
                self._arrival.grown()
            if enough():
                return

    async def put(self, chunk: bytes, bringer: Bringer | None = None) -> None:
        """Take the next bytes, of this peer or of another; saved now and then."""
        if self.here + len(chunk) > self.size:
            await self._restart(alone=False)
            raise Misbehaved(
                f"blob {self.digest.hex()} is longer than the {self.size} bytes announced"
            )
        await self._arriving.write(chunk, bringer)
        saved, at = self._saved
        if self.here - at >= SAVE_BYTES or anyio.current_time() - saved > SAVE_SECONDS:
            await self.save()
        self.alive()

    async def save(self) -> None:
        """Make what has come survive a crash."""
        self._saved = anyio.current_time(), self.here
        await self._arriving.save()

    def alive(self) -> None:
        """Bytes have come."""
        if anyio.current_time() - self._renewed > 1.0:
            self._renew()

    def check_end(self) -> None:
        """Misbehaved unless everything is here."""
        if self.here < self.size:
            raise Misbehaved(
                f"blob {self.digest.hex()} ends at {self.here} of the {self.size} bytes announced"
            )

    async def finish(self) -> Item | None:
        """The blob; None when it is wrong, and nobody knows whose fault that is.

        Then it begins anew, from this peer alone. Misbehaved when the fault is this peer's.
        """
        item = await self._arriving.finish()
        if item.digest == self.digest:
            return item
        # Another one alone may have brought all of it. That is told by what this peer has.
        ours = self._arriving.progress.liar() == bringer(self._holder)
        await self._restart(alone=not ours)
        if ours:
            raise Misbehaved(f"what came as blob {self.digest.hex()} is {item.digest.hex()}")
        return None

    async def commit(self, item: Item) -> bool:
        """Commit it, and name those who brought wrong parts of it before; whether it was new."""
        for brought in await self._arriving.liars():
            if is_traded(brought) and self._arrivals is not None:
                self._arrivals.shun(brought)
            liar = peer_of(brought)
            if liar is not None:
                what = f"it brought wrong bytes of blob {self.digest.hex()}, as others showed"
                self._keeper.failed(liar, [self.digest], what)
                self._keeper.lies.note(liar, what)
        (fresh,) = await self._keeper.put([item], self._holder, self._began)
        await self._arriving.done()
        return fresh

    async def _restart(self, *, alone: bool) -> None:
        await self._arriving.restart(alone=alone)
        if self._arrival is not None:
            self._arrival.dropped()

    def _renew(self) -> None:
        self._renewed = anyio.current_time()
        progressed(self._keeper, self._holder, self.digest)
