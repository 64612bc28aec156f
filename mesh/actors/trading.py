"""Fetching a large blob while other nodes fetch it too: parts are taken from them as well.

The blob comes in order from the peer of the round, by one request, as long as nobody else fetches
it. Meanwhile all other peers are asked how far they are with it. When one is found that fetches it,
the stream is left, and the plan of core/trade.py says which stretch to ask of whom. This carries
it out: requests, their failures, and writing what came in order.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import anyio
from anyio import create_task_group

from mesh.actors.arrivals import PATIENCE, Arrival, Arrivals
from mesh.actors.fetcher import Candidate
from mesh.core.digest import Digest
from mesh.core.holder import bringer
from mesh.core.partial import Bringer, traded
from mesh.core.trade import STRETCH, Ask, Trade
from mesh.errors import MeshError, Misbehaved, PeerError, Refused, Stalled, Unreachable, one_line
from mesh.wire.messages import PartsRequest

log = logging.getLogger("mesh")

# How long a peer may wait before it says that nothing has changed, in seconds. The connection is
# idle meanwhile; proxies cut those that are idle for a minute.
_WAIT = 10.0

# A peer that answered nothing new, or not at all, is asked again after so many seconds.
_PAUSE = 1.0

# A part from anybody but the source may take so many times what the slowest one from the source
# took: it may have to come there first, over a link as busy as ours.
_SLOWER = 4.0

# Bytes of a part that are kept in one piece at least: a peer may send two at a time, and each piece
# costs some fifty bytes of memory more.
_PIECE = 64 * 1024

# Seconds for a part while none has come from the source to compare with: as in transport/pace.
_FIRST = 30.0

# Seconds between two questions to one peer, whatever it answers. When 16 MiB come in less, that
# is known a little late.
_BREATH = 0.05

# Seconds for which the first answers of all peers are waited for, before the source is asked for
# everything: they come within some ms, and a blob that is traded takes 0.3 s at least.
_FIRST_WORDS = 0.1

# What a peer answers that does not know the question.
_UNKNOWN = (400, 404, 405)


class Taking(Protocol):
    """The blob as it is written; see actors.large."""

    digest: Digest
    size: int

    @property
    def here(self) -> int:
        """Bytes so far."""

    async def put(self, chunk: bytes, bringer: Bringer | None = None) -> None:
        """Take the next bytes."""

    async def save(self) -> None:
        """Bring what has been put to the disk."""

    def alive(self) -> None:
        """Bytes have come, which are not written yet."""


class Trading:
    """One blob. `run` ends when all its bytes are here, or raises why they are not."""

    def __init__(
        self,
        taking: Taking,
        arrival: Arrival,
        arrivals: Arrivals,
        source: Candidate,
        others: Sequence[Candidate],
        stream: Callable[[Callable[[], bool]], Awaitable[None]],
    ) -> None:
        """`source`: the peer of the round, which has the whole.

        `stream` brings the bytes from it in order, until the given function says that it is enough.
        """
        self._taking = taking
        self._arrival = arrival
        self._arrivals = arrivals
        self._source = source
        self._candidates = {each.holder: each for each in (source, *others)}
        self._stream = stream
        self._plan = Trade(taking.digest, taking.size, arrivals.node, taking.here)
        self._changed = anyio.Event()
        self._slowest: float | None = None
        self._brought: dict[int, Bringer] = {}
        self._limited: dict[int, tuple[anyio.CancelScope, float]] = {}
        self._unheard = set(self._candidates)
        self._left = -1  # where the last trade ended

    async def run(self) -> None:
        """Fetch what is missing. Raises MeshErrors, as the stream does."""
        failure: MeshError | None = None
        async with create_task_group() as group:
            for each in self._candidates.values():
                group.start_soon(self._heard, each)
            try:
                await self._fetched()
            except MeshError as error:
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _fetched(self) -> None:
        with anyio.move_on_after(_FIRST_WORDS):
            while self._unheard:
                await self._changed.wait()
        while self._taking.here < self._taking.size:
            await self._stream(self._enough)
            self._plan.written(self._taking.here)
            if self._taking.here < self._taking.size:
                await self._trade()

    def _enough(self) -> bool:
        """Whether to leave the stream, and trade."""
        self._plan.written(self._taking.here)
        # A trade that brought nothing is not begun again at the same place.
        moved = self._taking.here > self._left
        return moved and self._plan.worth

    # --- who else fetches it -----------------------------------------------------------------

    async def _heard(self, peer: Candidate) -> None:
        await self._listen(peer)
        self._answered(peer)

    def _answered(self, peer: Candidate) -> None:
        """It has said something, or will say nothing."""
        self._unheard.discard(peer.holder)
        self._notify()

    async def _listen(self, peer: Candidate) -> None:
        """Keep track of how far a peer is, until it has the whole or does not trade."""
        known: int | None = None
        while True:
            before = known
            request = PartsRequest(
                digest=self._taking.digest, known=known, wait=round(1000 * _WAIT)
            )
            try:
                reply = await peer.replica.parts(request)
            except PeerError as error:
                self._plan.gone(peer.holder)
                if isinstance(error, Misbehaved):
                    return
                if isinstance(error, Refused) and error.status in _UNKNOWN:
                    return
                known = None
            else:
                if reply is None or reply.node == self._arrivals.node:
                    return
                if reply.size is None:
                    self._plan.gone(peer.holder)
                    known = 0
                elif reply.size != self._taking.size or reply.front > reply.size:
                    return  # one of us was told a wrong size
                else:
                    self._plan.heard(peer.holder, reply.node, reply.front, reply.window)
                    if reply.front == reply.size:
                        return
                    known = max(reply.front, 1)
            self._answered(peer)
            if known is None or (before is not None and known == before):
                await anyio.sleep(_PAUSE)
            elif before is not None:
                await anyio.sleep(_BREATH)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # --- trading -----------------------------------------------------------------------------

    async def _trade(self) -> None:
        """Take stretches from several until nobody is left to trade with."""
        failure: MeshError | None = None
        # What others may be told to be here has to be on the disk, where they are served from.
        await self._taking.save()
        self._arrival.trading = True
        async with create_task_group() as group:
            try:
                await self._traded(lambda ask: group.start_soon(self._ask, ask))
            except MeshError as error:
                failure = error
            finally:
                self._source.replica.brought(self._taking.digest, None)
            group.cancel_scope.cancel()
        self._arrival.trading = False
        self._left = self._taking.here
        self._arrival.drop_after(self._left)
        self._brought.clear()
        self._limited.clear()
        self._plan.left()
        if failure is not None:
            raise failure

    async def _traded(self, start: Callable[[Ask], object]) -> None:
        while self._taking.here < self._taking.size:
            while (ask := self._plan.next()) is not None:
                start(ask)
            if await self._write():
                continue
            if not self._plan.waiting:
                return  # nobody is left to share it with: it goes on in order
            await self._changed.wait()

    async def _write(self) -> bool:
        """Write the part that comes next, if it is here."""
        start = self._taking.here
        who = self._brought.pop(start, None)
        if who is None:
            return False
        for chunk in self._arrival.held[start]:
            await self._taking.put(chunk, who)
        if start % STRETCH:
            # The rest of a stretch, which the stream began. The disk has all before it, and no
            # piece across the seam can be read before its other half is there as well.
            await self._taking.save()
        self._plan.written(self._taking.here)
        self._arrival.grown()
        self._source.replica.brought(self._taking.digest, self._taking.here)
        return True

    async def _ask(self, ask: Ask) -> None:
        """One request for one stretch."""
        began = anyio.current_time()
        error: PeerError | None = None
        chunks: list[bytes] = []
        with anyio.CancelScope() as scope:
            if ask.giver != self._source.holder:
                self._limited[ask.number] = scope, began
                self._limit()
            try:
                await self._receive(ask, chunks)
            except PeerError as met:
                error = met
        self._limited.pop(ask.number, None)
        if scope.cancelled_caught:
            error = Stalled(f"{ask.giver.url} did not give a part in time")
        if error is None:
            taken = anyio.current_time() - began
            # The source's pace alone, and that of whole stretches: a slow peer that says to have
            # the whole would give itself more time with each part, and a short part comes at once.
            if ask.giver == self._source.holder and ask.stop - ask.start == STRETCH:
                self._slowest = max(taken, self._slowest or 0.0)
                self._limit()
            self._brought[ask.start] = bringer(ask.giver) if ask.whole else traded(ask.giver.url)
            self._arrival.hold(ask.start, chunks)
            self._plan.came(ask)
        else:
            log.debug("blob %s: %s", self._taking.digest.hex(), one_line(error))
            self._plan.failed(ask, fatal=_is_fatal(ask, error))
        self._notify()

    def _limit(self) -> None:
        """Say how long those may take that are not the source: see _SLOWER."""
        own = _FIRST if self._slowest is None else _SLOWER * self._slowest
        for scope, began in self._limited.values():
            scope.deadline = began + 2 * PATIENCE + own

    async def _receive(self, ask: Ask, chunks: list[bytes]) -> None:
        """The bytes of one stretch, all of them."""
        left = ask.stop - ask.start
        small = bytearray()
        replica = self._candidates[ask.giver].replica
        async with replica.fetch_part(self._taking.digest, ask.start, ask.stop) as stream:
            async for chunk in stream:
                left -= len(chunk)
                if left < 0:
                    raise Misbehaved(f"{ask.giver.url} gave more than the part that was asked for")
                small += chunk
                if len(small) >= _PIECE or not left:
                    chunks.append(bytes(small))
                    small.clear()
                self._taking.alive()
        if left:
            raise Unreachable(f"{ask.giver.url} gave {left} bytes less than was asked for")


def _is_fatal(ask: Ask, error: PeerError) -> bool:
    """Whether a giver is not asked for more of this blob.

    Somebody who fetches the blob as well may say no when a part is late; one with the whole when it
    is busy. A whole holder's connection may break, and then it is asked again.
    """
    if isinstance(error, Refused):
        return ask.whole and error.retry_after is None
    if isinstance(error, Stalled | Misbehaved):
        return True
    return not ask.whole
