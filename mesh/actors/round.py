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

from mesh.actors.arrivals import Arrivals
from mesh.actors.keeper import Keeper
from mesh.actors.large import fetch_large
from mesh.actors.transfer import Intake, push
from mesh.core.digest import Digest
from mesh.core.failing import Side
from mesh.core.holder import Configured
from mesh.core.reconcile import Difference, OnlyHere
from mesh.core.round import LINE, Batch, Ledger
from mesh.core.tree import Tree
from mesh.core.weight import Weight, weighed
from mesh.errors import Full, MeshError, Misbehaved, PeerError, Refused, TooMuch, one_line
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

# What only they have, or only we have, and after how many restarts of the comparison it was found.
_Found = tuple[int, list[Digest]]
_Extra = tuple[int, OnlyHere]

_ABSENT = "the peer lists it and does not deliver it"
_TOO_LARGE = "that is more than max_replica_bytes of this node"

# What is missing there is weighed one by one, at 50 µs each: so many cost no more than a request.
_WEIGHED = 100

_RENEW = 2.0  # seconds between renewals of claims on what is arriving; a lease has 10


@dataclass(frozen=True)
class Limits:
    """What all rounds of a node share."""

    work: Offload
    max_replica_bytes: int
    # Rounds that found a difference, batches beyond the first of each round, and large blobs at a
    # time. A batch holds up to 6 MiB, a large blob 2 MiB: 198 MiB if all of them are full at once.
    # A peer that hangs holds its places until the no-progress rule ends it.
    rounds: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(16))
    fetches: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(12))
    large: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(8))
    # Two of the large ones may be traded, and hold 48 MiB each: see actors/arrivals.py.
    arrivals: Arrivals = field(default_factory=Arrivals)


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
        condition = keeper.disk.condition
        self._pulling = pulling and condition.good
        self._keeper = keeper
        self._replica = replica
        self._holder = holder
        self._limits = limits
        self.ledger = Ledger(limits.max_replica_bytes)
        self.weight = Weight(self.ledger)
        self._extras: list[OnlyHere] = []
        if pulling and not condition.good:
            self.ledger.closed(
                f"nothing is fetched, the store is {condition.state}: {condition.reason}"
            )
        self.proven = False
        # The set of the peer that was compared with ours, and how many each side had then.
        self.root: Digest | None = None
        self.count = 0
        self.own_count = 0
        self.hello: Hello | None = None
        """How the peer stood after the last push or offer; None when it did not say."""

    async def run(self, meeting: Meeting, hello: Hello | None, baseline: Tree | None) -> None:
        """Level the two sets. With `hello`, push too; without, only fetch.

        `baseline_there` counts what the peer lacks of `baseline`.
        """
        wants_in, wants = create_memory_object_stream[_Found](_FETCHERS)
        large_in, large = create_memory_object_stream[tuple[Digest, int]](LINE)
        surplus_in, surplus = create_memory_object_stream[_Extra](64)
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

    # --- comparing ---------------------------------------------------------------------------

    async def _compare(
        self,
        meeting: Meeting,
        wants: MemoryObjectSendStream[_Found],
        surplus: MemoryObjectSendStream[_Extra],
        baseline: Tree | None,
    ) -> None:
        totals = self._keeper.door.totals
        comparison = self._replica.compare(self._keeper.ready_tree, meeting)
        found: list[Digest] = []
        restarts = 0
        try:
            async with aclosing(aiter(comparison)) as pieces:
                async for piece in pieces:
                    if comparison.restarts != restarts:
                        restarts = comparison.restarts
                        self.ledger.restarted()
                        self._extras.clear()
                        found.clear()  # they are found anew, and must not count twice
                    self._count(piece, baseline)
                    if self._pulling:
                        found += piece.missing_here
                    while len(found) >= _ENOUGH:
                        await wants.send((self.ledger.epoch, found[:_WINDOW]))
                        del found[:_WINDOW]
                    for extra in piece.missing_there:
                        await _unless_gone(surplus, (self.ledger.epoch, extra))
                    if self.ledger.stop:
                        return
            if found:
                await wants.send((self.ledger.epoch, found))
            ours = totals.bytes if comparison.own_count == totals.blobs else None
            theirs = meeting.size if comparison.root == meeting.root else None
            await self._weigh(ours, theirs)
        except MeshError as error:
            self.ledger.failed(error)
        except anyio.BrokenResourceError:
            return  # every fetcher has ended with an error; it is recorded
        self.proven = self.ledger.compared = comparison.proven and self.ledger.error is None
        self.root, self.own_count, self.count = (
            comparison.root,
            comparison.own_count,
            comparison.count,
        )

    async def _weigh(self, ours: int | None, theirs: int | None) -> None:
        """Find out how many bytes are missing; `ours`, `theirs`: the bytes of the two sets."""
        missing = self.ledger.missing_here, self.ledger.missing_there
        there: int | None = None
        if missing[0] and 0 < missing[1] <= _WEIGHED:
            there = await self._keeper.door.size_of_all(d for extra in self._extras for d in extra)
        self.weight.found(*weighed(missing, (ours, theirs), there))

    def _count(self, piece: Difference, baseline: Tree | None) -> None:
        there = of_baseline = 0
        for extra in piece.missing_there:
            if self.ledger.missing_there + there <= _WEIGHED:
                self._extras.append(extra)
            there += extra.count
            if baseline is not None:
                of_baseline += sum(1 for digest in extra if digest in baseline)
        self.ledger.found(len(piece.missing_here), there, of_baseline)

    # --- fetching ----------------------------------------------------------------------------

    async def _fetch(
        self,
        wants: MemoryObjectReceiveStream[_Found],
        large: MemoryObjectSendStream[tuple[Digest, int]],
        place: anyio.CapacityLimiter | None,
    ) -> None:
        async with wants, large:
            async for epoch, window in wants:
                todo = granted = self._keeper.claim(self._holder, window)
                entry = self.ledger.window(window, self._claimed(window, granted), epoch)
                waiting: set[Digest] = set()
                try:
                    while todo:
                        async with place or nullcontext():
                            todo = await self._batch(todo, epoch, large, waiting)
                except MeshError as error:
                    self.ledger.failed(error)
                    return
                finally:
                    self._keeper.release(self._holder, [d for d in granted if d not in waiting])
                    tree = self._keeper.ready_tree()
                    self.ledger.settled(entry, [d for d in window if d not in tree])

    def _claimed(self, window: Sequence[Digest], granted: Sequence[Digest]) -> int:
        """How many of a window other peers have claimed."""
        if len(granted) == len(window):
            return 0
        return sum(map(self._keeper.coming, {*window}.difference(granted)))

    async def _batch(
        self,
        digests: list[Digest],
        epoch: int,
        large: MemoryObjectSendStream[tuple[Digest, int]],
        waiting: set[Digest],
    ) -> list[Digest]:
        """One batch request; what the peer asks us to ask for again, or was not asked yet.

        `epoch`: after how many restarts of the comparison the digests were found.
        """
        most = self._replica.load.most_items(anyio.current_time())
        digests, rest = digests[:most], digests[len(digests[:most]) :]
        batch = self.ledger.batch(digests, epoch)
        intake = Intake(self._keeper, self._holder, self._limits.work, batch)
        renewed = anyio.current_time()
        try:
            async with self._replica.fetch(digests) as groups:
                async for frames in groups:
                    blobs = [f for f in frames if self._note(f, batch, large, waiting)]
                    await intake.add(blobs)
                    self.ledger.check()
                    if anyio.current_time() - renewed > _RENEW:
                        renewed = anyio.current_time()
                        self._keeper.renew(self._holder, [*digests, *rest])
        except TooMuch:
            if len(digests) == 1:
                raise
            self._replica.load.refused_items(len(digests), anyio.current_time())
            return [*digests, *rest]
        except PeerError:
            self._keeper.failed(self._holder, batch.cut(), _ABSENT)
            await intake.flush()  # what came before is as good as ever
            raise
        await intake.flush()
        self._keeper.failed(self._holder, batch.ended(), _ABSENT)
        self.ledger.check()
        return [*batch.later, *rest]

    def _note(
        self,
        item: Frame,
        batch: Batch,
        large: MemoryObjectSendStream[tuple[Digest, int]],
        waiting: set[Digest],
    ) -> bool:
        """Tell the ledger of one frame of an answer; whether it is a blob to take."""
        if item.kind == Kind.BLOB:
            return batch.blob(item.digest, item.length)
        if item.kind == Kind.LATER:
            batch.put_off(item.digest)
        elif item.kind == Kind.ABSENT:
            batch.absent(item.digest)
        elif item.length > self._limits.max_replica_bytes:
            batch.large(item.digest, item.length)
            self._stuck(item.digest, f"it has {item.length} bytes; {_TOO_LARGE}")
        elif batch.large(item.digest, item.length):
            try:
                large.send_nowait((item.digest, item.length))
                waiting.add(item.digest)
            except (anyio.WouldBlock, anyio.BrokenResourceError):
                # Released with the window; the next round finds it again.
                self.ledger.unqueued(item.digest)
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
                        self.ledger.postponed(error, error.retry_after)
                    elif not self._blame(digest, error):
                        return
                except Full as error:
                    # A smaller one may have room.
                    self._keeper.disk.met(error)
                    self.ledger.no_room(error)
                    self._stuck(digest, one_line(error))
                except MeshError as error:
                    self.ledger.failed(error)
                    self._stuck(digest, one_line(error))
                    return
                finally:
                    self.ledger.large_done(digest)
                    self._keeper.release(self._holder, [digest])

    def _stuck(self, digest: Digest, why: str) -> None:
        """One blob does not come, and the peer is not to be blamed for it."""
        self._keeper.stuck(Side.HERE, self._holder, [digest], why)

    def _blame(self, digest: Digest, error: PeerError) -> bool:
        """One blob that this peer cannot deliver: remembered, and nothing else delayed.

        False when it was one too many.
        """
        self._keeper.failed(self._holder, [digest], one_line(error))
        self.ledger.large_failed(error)
        try:
            self.ledger.check()
        except Misbehaved as last:
            self.ledger.failed(last)
            return False
        return True

    async def _one_large(self, digest: Digest, size: int) -> None:
        if not self._keeper.hold(self._holder, digest):
            # It has come from another peer, or is on its way, since it was put in line.
            if self._keeper.has(digest):
                self.ledger.large_here(digest, size, fresh=False)
            return
        fresh, got = await fetch_large(
            self._keeper, self._replica, self._holder, digest, size, self._limits.arrivals
        )
        self.ledger.large_here(digest, got, fresh=fresh)

    # --- pushing -----------------------------------------------------------------------------

    async def _push(self, surplus: MemoryObjectReceiveStream[_Extra], hello: Hello) -> None:
        window: list[Digest] = []
        epoch = 0
        async with surplus:
            try:
                async for found, extra in surplus:
                    if found != epoch:  # the comparison was restarted, which counts anew
                        await self._offer(window, hello, epoch)
                        window, epoch = [], found
                    for digest in extra:
                        window.append(digest)
                        if len(window) >= _WINDOW:
                            await self._offer(window, hello, epoch)
                            window = []
                await self._offer(window, hello, epoch)
            except MeshError as error:
                self.ledger.failed(error)

    async def _offer(self, window: list[Digest], hello: Hello, epoch: int) -> None:
        """Offer what was found missing there in `epoch`, and push what the peer wants of it."""
        load = self._replica.load
        while window:
            part = window[: load.most_items(anyio.current_time())]
            try:
                offered = await self._replica.offer(hello, part, more=False)
            except TooMuch:
                if len(part) == 1:
                    raise
                load.refused_items(len(part), anyio.current_time())
                continue
            window = window[len(part) :]
            self.ledger.offered(part, offered.wants, epoch)
            theirs = offered.hello
            if offered.wants:
                pushing = self.ledger.push(offered.wants, epoch)
                theirs = await push(self._keeper, self._replica, self._holder, offered, pushing)
                pushing.ended()
            self.hello = theirs or self.hello


async def _unless_gone(stream: MemoryObjectSendStream[_Extra], item: _Extra) -> None:
    """Hand over what only we have, unless nobody pushes, or the pusher met an error."""
    try:
        await stream.send(item)
    except anyio.BrokenResourceError:
        return
