"""One round with one peer whose set differs: compare, fetch what is missing here, push the rest.

    compare --windows of digests--> fetchers --large ones--> large fetchers
        \\--what only we have--> pusher

Everything between them is bounded, so a slow link slows the comparison down instead of filling
memory. The first error ends the part that met it; the others finish what they have in hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field

import anyio
from anyio import create_memory_object_stream, create_task_group
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from mesh.actors.keeper import Keeper
from mesh.actors.large import fetch_large
from mesh.actors.transfer import Intake, Tally, push
from mesh.core.digest import Digest
from mesh.core.holder import Configured
from mesh.core.reconcile import Difference, OnlyHere
from mesh.core.tree import Tree
from mesh.errors import Full, MeshError, Misbehaved, PeerError, Refused, one_line
from mesh.offload import Offload
from mesh.transport.base import Meeting, Replica
from mesh.wire.frames import Frame, Kind
from mesh.wire.messages import Hello

# Digests of one batch request. Smaller than the protocol allows, so that several requests share
# what there is, and one that is cut loses little.
_WINDOW = 1024

# Fewer than this wait for more to be found, so that a comparison of many small differences does
# not become a request each.
_ENOUGH = 256

_FETCHERS = 3  # batches at a time from one peer: one arrives while others are being committed
_LARGE_FETCHERS = 4  # large blobs at a time from one peer, beside the batches: neither starves
_LARGE_WAITING = 1000  # large blobs known and not begun; what is beyond, the next round finds

# Beyond so many that found no place in that line, comparing on is of no use in this round.
_PUT_OFF = 4000

# A peer that lists blobs and then does not deliver them, in whatever way: tolerated while it
# delivers as well.
_UNDELIVERED = 1000

_RENEW = 2.0  # seconds between renewals of claims on what is arriving; a lease has 10


@dataclass(frozen=True)
class Limits:
    """What all rounds of a node share."""

    work: Offload
    max_replica_bytes: int
    # Rounds that found a difference, batches beyond the first of each round, and large blobs at a
    # time. A batch holds up to 6 MiB, a large blob 1 MiB: 190 MiB if all of them are full at once.
    # A peer that hangs holds its places until the no-progress rule ends it.
    rounds: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(16))
    fetches: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(12))
    large: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(8))


class Round:
    """See the module; `run` once, then read the fields. They may be read while it runs."""

    def __init__(
        self,
        keeper: Keeper,
        replica: Replica,
        holder: Configured,
        limits: Limits,
        *,
        pulling: bool = True,
    ) -> None:
        """`holder`: under whose name blobs of this peer are claimed. `pulling`: fetch at all."""
        self._pulling = pulling
        self._keeper = keeper
        self._replica = replica
        self._holder = holder
        self._limits = limits
        self.tally = Tally()
        self.error: MeshError | None = None
        self.proven = False
        self.root: Digest | None = None
        self.hello: Hello | None = None
        # Found by the comparison; and of those missing here, how many were settled, and how many
        # of them are still not here.
        self.missing_here = 0
        self.missing_there = 0
        self.baseline_there = 0
        self._settled = 0
        self._left = 0
        self._large_left: set[Digest] = set()
        self._undelivered = 0
        self._put_off = 0
        # Whether something missing here was left to another peer, which had claimed it.
        self.elsewhere = False

    @property
    def more(self) -> bool:
        """Whether there was more to do than this round took on."""
        return self._put_off > 0

    @property
    def left_here(self) -> int:
        """How many of the blobs found missing here are missing still."""
        return max(0, self.missing_here - self._settled) + self._left

    async def run(self, meeting: Meeting, hello: Hello | None, baseline: Tree | None) -> None:
        """Level the two sets. With `hello`, push too; without, only fetch.

        `baseline_there` counts what the peer lacks of `baseline`.
        """
        wants_in, wants = create_memory_object_stream[list[Digest]](_FETCHERS)
        large_in, large = create_memory_object_stream[tuple[Digest, int]](_LARGE_WAITING)
        surplus_in, surplus = create_memory_object_stream[OnlyHere](64)
        async with self._limits.rounds, create_task_group() as group:
            for number in range(_FETCHERS):
                # One batch at a time is every peer's own: slow peers must not hold all places.
                place = self._limits.fetches if number else None
                group.start_soon(self._fetch, wants.clone(), large_in.clone(), place)
            for _ in range(_LARGE_FETCHERS):
                group.start_soon(self._fetch_large, large.clone())
            if hello is not None:
                group.start_soon(self._push, surplus.clone(), hello)
            for stream in (wants, large_in, large, surplus):
                stream.close()
            async with wants_in, surplus_in:
                await self._compare(meeting, wants_in, surplus_in, baseline)

    def _fail(self, error: MeshError) -> None:
        if self.error is None or (
            isinstance(error, Misbehaved) and not isinstance(self.error, Misbehaved)
        ):
            self.error = error

    # --- comparing ---------------------------------------------------------------------------

    async def _compare(
        self,
        meeting: Meeting,
        wants: MemoryObjectSendStream[list[Digest]],
        surplus: MemoryObjectSendStream[OnlyHere],
        baseline: Tree | None,
    ) -> None:
        comparison = self._replica.compare(self._keeper.ready_tree, meeting)
        found: list[Digest] = []
        restarts = 0
        try:
            async with aclosing(aiter(comparison)) as pieces:
                async for piece in pieces:
                    if comparison.restarts != restarts:
                        restarts = comparison.restarts
                        self._restart()
                    self._count(piece, baseline)
                    if self._pulling:
                        found += piece.missing_here
                    while len(found) >= _ENOUGH:
                        await wants.send(found[:_WINDOW])
                        del found[:_WINDOW]
                    for extra in piece.missing_there:
                        await _unless_gone(surplus, extra)
                    if isinstance(self.error, Misbehaved) or self._put_off > _PUT_OFF:
                        return
            if found:
                await wants.send(found)
        except MeshError as error:
            self._fail(error)
        except anyio.BrokenResourceError:
            return  # every fetcher has ended with an error; it is recorded
        self.proven = comparison.proven and self.error is None
        self.root = comparison.root

    def _restart(self) -> None:
        """The peer's set has changed: everything is found anew."""
        self.missing_here = self.missing_there = self.baseline_there = 0
        self._settled = self._left = 0
        self._large_left.clear()

    def _count(self, piece: Difference, baseline: Tree | None) -> None:
        self.missing_here += len(piece.missing_here)
        for extra in piece.missing_there:
            self.missing_there += extra.count
            if baseline is not None:
                self.baseline_there += sum(1 for digest in extra if digest in baseline)

    # --- fetching ----------------------------------------------------------------------------

    async def _fetch(
        self,
        wants: MemoryObjectReceiveStream[list[Digest]],
        large: MemoryObjectSendStream[tuple[Digest, int]],
        place: anyio.CapacityLimiter | None,
    ) -> None:
        async with wants, large:
            async for window in wants:
                todo = granted = self._keeper.claim(self._holder, window)
                if len(granted) < len(window):
                    self.elsewhere |= self._keeper.awaited({*window}.difference(granted))
                waiting: set[Digest] = set()
                try:
                    while todo:
                        async with place or nullcontext():
                            todo = await self._batch(todo, large, waiting)
                except MeshError as error:
                    self._fail(error)
                    return
                finally:
                    self._keeper.release(self._holder, [d for d in granted if d not in waiting])
                    self._settle(window, waiting)

    def _settle(self, window: Sequence[Digest], waiting: set[Digest]) -> None:
        """All that can be done for a window was done, but for large ones that wait their turn."""
        tree = self._keeper.ready_tree()
        absent = [digest for digest in window if digest not in tree]
        self._large_left.update(waiting.intersection(absent))
        self._settled += len(window)
        self._left += len(absent)

    async def _batch(
        self,
        digests: list[Digest],
        large: MemoryObjectSendStream[tuple[Digest, int]],
        waiting: set[Digest],
    ) -> list[Digest]:
        """One batch request; what the peer asks us to ask for again."""
        asked = set(digests)
        later: list[Digest] = []
        intake = Intake(self._keeper, self._holder, self._limits.work, self.tally)
        renewed = anyio.current_time()
        try:
            async with self._replica.fetch(digests) as groups:
                async for frames in groups:
                    blobs = [f for f in frames if self._note(f, asked, large, waiting, later)]
                    await intake.add(blobs)
                    if anyio.current_time() - renewed > _RENEW:
                        renewed = anyio.current_time()
                        self._keeper.renew(self._holder, digests)
        except PeerError:
            await intake.flush()  # what came before is as good as ever
            raise
        bad = self.tally.failed
        await intake.flush()
        self._missed([*asked], self.tally.failed - bad)
        if len(later) == len(digests):
            raise Misbehaved("the peer puts off every blob that it is asked for")
        return later

    def _missed(self, digests: Sequence[Digest], bad: int = 0) -> None:
        """The peer listed these and did not deliver them; nor `bad` more, which were others."""
        self._keeper.failed(self._holder, digests)
        self._undelivered += len(digests) + bad
        if self._undelivered > _UNDELIVERED + self.tally.fetched:
            raise Misbehaved(
                f"the peer listed {self._undelivered} blobs that it did not deliver; it is tried "
                "again later"
            )

    def _note(
        self,
        item: Frame,
        asked: set[Digest],
        large: MemoryObjectSendStream[tuple[Digest, int]],
        waiting: set[Digest],
        later: list[Digest],
    ) -> bool:
        """One frame of an answer; whether it is a blob to take.

        Each digest that was asked for may be answered once.
        """
        if item.digest not in asked:
            raise Misbehaved(f"the peer sent blob {item.digest.hex()}, which nobody asked for")
        asked.discard(item.digest)
        if item.kind == Kind.LATER:
            later.append(item.digest)
        elif item.kind == Kind.LARGE:
            try:
                large.send_nowait((item.digest, item.length))
                waiting.add(item.digest)
            except (anyio.WouldBlock, anyio.BrokenResourceError):
                # Released with the window; the next round finds it again.
                self._put_off += 1
        elif item.kind == Kind.ABSENT:
            self._missed([item.digest])
        elif item.length > self._limits.max_replica_bytes:
            self.tally.over_limit += 1
        else:
            return True
        return False

    async def _fetch_large(self, large: MemoryObjectReceiveStream[tuple[Digest, int]]) -> None:
        async with large:
            async for digest, size in large:
                try:
                    async with self._limits.large:
                        await self._one_large(digest, size)
                except (Refused, Misbehaved) as error:
                    if isinstance(error, Refused) and error.retry_after is not None:
                        # It will have it later, and does nothing wrong: it verifies it, say.
                        self._put_off += 1
                    elif not self._blame(digest, error):
                        return
                except Full as error:
                    # A smaller one may have room.
                    self._keeper.disk.met(error)
                    self.tally.refusal = one_line(error)
                except MeshError as error:
                    self._fail(error)
                    return
                finally:
                    self._keeper.release(self._holder, [digest])

    def _blame(self, digest: Digest, error: PeerError) -> bool:
        """One blob that this peer cannot deliver: remembered, and nothing else delayed.

        False when it was one too many.
        """
        self.tally.failed += 1
        self._fail(error)
        try:
            self._missed([digest])
        except Misbehaved as last:
            self._fail(last)
            return False
        return True

    async def _one_large(self, digest: Digest, size: int) -> None:
        if size > self._limits.max_replica_bytes:
            self.tally.over_limit += 1
            return
        if not self._keeper.hold(self._holder, digest):
            return  # it has come from another peer, or is on its way, since it was put in line
        fresh, got = await fetch_large(self._keeper, self._replica, self._holder, digest, size)
        if digest in self._large_left:
            self._large_left.discard(digest)
            self._left -= 1
        if fresh:
            self.tally.fetched += 1
            self.tally.fetched_bytes += got

    # --- pushing -----------------------------------------------------------------------------

    async def _push(self, surplus: MemoryObjectReceiveStream[OnlyHere], hello: Hello) -> None:
        window: list[Digest] = []
        async with surplus:
            try:
                async for extra in surplus:
                    for digest in extra:
                        window.append(digest)
                        if len(window) >= _WINDOW:
                            await self._offer(window, hello)
                            window = []
                if window:
                    await self._offer(window, hello)
            except MeshError as error:
                self._fail(error)

    async def _offer(self, window: list[Digest], hello: Hello) -> None:
        offered = await self._replica.offer(hello, window, more=False)
        theirs = offered.hello
        if offered.wants:
            theirs = await push(self._keeper, self._replica, offered, self.tally)
        self.hello = theirs or self.hello


async def _unless_gone(stream: MemoryObjectSendStream[OnlyHere], item: OnlyHere) -> None:
    """Hand over what only we have, unless nobody pushes, or the pusher met an error."""
    try:
        await stream.send(item)
    except anyio.BrokenResourceError:
        return
