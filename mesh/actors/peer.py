"""The peer actor: one for each configured peer; runs its rounds one at a time, knows its state."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import anyio
import msgspec
from anyio import create_memory_object_stream

from mesh.actors.actor import Reply
from mesh.actors.announcer import Announcer
from mesh.actors.fetcher import Source
from mesh.actors.keeper import Holder, Keeper
from mesh.actors.roster import Roster
from mesh.actors.round import Limits, Round
from mesh.actors.scheduler import Scheduler
from mesh.config import Address
from mesh.core.claims import LEASE
from mesh.core.digest import Digest
from mesh.core.tree import Tree
from mesh.errors import MeshError, PeerError, Refused, one_line, printable
from mesh.status import PeerStatus, RoundStats
from mesh.transport.base import Meeting, Replica
from mesh.wire.messages import Hello

log = logging.getLogger("mesh")

# Rounds asked for and not begun; each asker waits for a round that began after it asked.
_MAILBOX = 16

# A peer that has not pulled from us for this many intervals does not list us, or cannot reach
# us: then what it lacks is pushed.
_SILENT_INTERVALS = 3


# Seconds that other peers have for what a failed one had claimed, before it is tried again: their
# rounds begin within one.
_HEAD_START = 5.0


@dataclass(frozen=True)
class Host:
    """The node, as its peers need it.

    `released` is told of a peer that failed while blobs were still to come from it, asks the
    others, and says whether there are any.
    """

    keeper: Keeper
    limits: Limits
    scheduler: Scheduler
    roster: Roster[Peer]
    hello: Callable[[], Hello]
    interval: float
    released: Callable[[Peer], bool]


class _Request:
    __slots__ = ("asked", "baseline", "push", "reply", "scheduled")

    def __init__(self, *, push: bool, baseline: Tree | None, scheduled: bool) -> None:
        self.push = push
        self.baseline = baseline
        self.scheduled = scheduled
        self.asked = anyio.current_time()
        self.reply: Reply[RoundStats] = Reply()


class Peer:
    """One configured peer. `run` and `announcer.run` are supervised by the node."""

    def __init__(self, address: Address, replica: Replica, host: Host) -> None:
        """`replica`: how to talk to it."""
        self.address = address
        self._replica = replica
        self._host = host
        self._in, self._mailbox = create_memory_object_stream[_Request](_MAILBOX)
        self.announcer = Announcer(host.keeper, replica, host.hello, self.heard, self._again)
        self._state = "new"
        self._hello: Hello | None = None
        self._name: str | None = None
        self._root: Digest | None = None
        self._round: Round | None = None
        self._missing: tuple[int, int] | None = None
        self._succeeded: float | None = None
        self._error: str | None = None
        self._failures = 0
        self._rounds = 0
        self._over_limit = 0
        self._head_start = 0.0
        self._failed_at = float("-inf")
        self._moved = [0, 0, 0, 0]

    # --- what others ask ---------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What it is called: as configured, else by its own name once met, else its address."""
        return self.address.name or self._name or self.address.place

    @property
    def node(self) -> Holder | None:
        """Its node id, once met."""
        return self._hello.node if self._hello is not None else None

    @property
    def counts(self) -> bool:
        """Whether it is a replica beside us: not ourselves, not another address of one."""
        return self._state not in ("self", "duplicate")

    @property
    def announced_to(self) -> bool:
        """Whether it is told of new blobs."""
        return self.counts and self.address.pushes

    @property
    def source(self) -> Source | None:
        """The way to blobs that somebody wants to read now; None where none are fetched from.

        Only nodes of a mesh: another protocol's server may ask others in its turn.
        """
        if not (self.counts and self.address.pulls and self.address.protocol == "mesh"):
            return None
        return Source(self.holder, self._replica, not self._failures)

    @property
    def pulled_seconds_ago(self) -> float | None:
        """Since we last levelled ourselves with it; None when never."""
        return None if self._succeeded is None else anyio.current_time() - self._succeeded

    def due(self) -> None:
        """The scheduler's call for a round."""
        request = _Request(push=False, baseline=None, scheduled=True)
        try:
            self._in.send_nowait(request)
        except anyio.WouldBlock:
            # Rounds that people asked for are waiting: any of them serves as well.
            self._host.scheduler.ended(self, failed=False)

    async def sync(self, *, baseline: Tree | None = None) -> RoundStats:
        """A round that begins now, both ways. Failures are in the answer, not raised."""
        request = _Request(push=True, baseline=baseline, scheduled=False)
        try:
            await self._in.send(request)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return self._stopping()
        return await request.reply.wait()

    def close(self) -> None:
        """`run` has ended for good; whoever still waits for a round is told so."""
        self._in.close()
        with suppress(anyio.EndOfStream, anyio.WouldBlock):
            while True:
                self._mailbox.receive_nowait().reply.set(self._stopping())
        self._mailbox.close()

    def _stopping(self) -> RoundStats:
        return RoundStats(peer=self.name, state=self._state, error="the node is stopping")

    def heard(self, hello: Hello) -> None:
        """The peer said how it stands."""
        if self.node == hello.node and hello.root is not None:
            self._root = Digest(hello.root)
            self._acquainted(hello)

    def _acquainted(self, hello: Hello) -> None:
        known, self._hello = self._hello, hello
        if known is not None and known.instance != hello.instance:
            self._host.keeper.abandon(hello.node)

    def status(self, root: Digest | None) -> PeerStatus:
        """A snapshot; `root` is ours."""
        reached = self._failures == 0 and self._succeeded is not None
        in_sync = reached and root is not None and self._root == root
        here, there = self._missing if self._missing is not None else (None, None)
        if in_sync:
            here, there = 0, 0  # what was found missing has come, from wherever
        moved = list(self._moved)
        if self._round is not None:
            here, there = self._round.ledger.left_here, self._round.ledger.missing_there
            for at, value in enumerate(_moved(self._round)):
                moved[at] += value
        return PeerStatus(
            name=self.name,
            url=self.address.url,
            state=self._state,
            in_sync=in_sync,
            node_id=self._hello.node.hex() if self._hello is not None else None,
            root=self._root.hex() if self._root is not None else None,
            blobs=self._hello.count if self._hello is not None else None,
            missing_here=here,
            missing_there=there,
            last_success_seconds_ago=self.pulled_seconds_ago,
            last_error=self._error or self._host.keeper.lies.get(self.holder),
            failures=self._failures,
            rounds=self._rounds,
            fetched_blobs=moved[0],
            fetched_bytes=moved[1],
            sent_blobs=moved[2] + self.announcer.tally.sent,
            sent_bytes=moved[3] + self.announcer.tally.sent_bytes,
            over_limit=self._over_limit,
        )

    def _again(self) -> None:
        """Another round soon."""
        self._host.scheduler.hint(self)

    # --- the actor ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Rounds as they are asked for, until cancelled."""
        async for request in self._mailbox:
            if request.scheduled and self._failed_at >= request.asked:
                continue  # it was due before a round failed; the schedule has moved it back since
            self._head_start = 0.0
            failure = RoundStats(
                peer=self.name, state="failing", error="the round crashed; see the log of the node"
            )
            retry_after: float | None = None
            stats: RoundStats | None = None
            try:
                stats = await self._one(request)
                self._succeeded_now(stats)
            except MeshError as error:
                wish = error.retry_after if isinstance(error, Refused) else None
                retry_after = max(wish or 0.0, self._head_start) or None
                failure = self._failed_now(error)
            finally:
                self._round = None
                request.reply.set(stats or failure)
                self._host.scheduler.ended(self, failed=stats is None, retry_after=retry_after)

    async def _one(self, request: _Request) -> RoundStats:
        keeper = self._host.keeper
        await keeper.built()
        began = anyio.current_time()
        self._rounds += 1
        meeting = await self._replica.meet(self._host.hello())
        state = self._met(meeting)
        if state in ("self", "duplicate", "building"):
            self._state = state
            return RoundStats(peer=self.name, state=state)
        if meeting.equal:
            self._missing = (0, 0)
            self._over_limit = 0
            self._state = "idle"
            return RoundStats(
                peer=self.name,
                state="idle",
                proven=True,
                level=True,
                seconds=anyio.current_time() - began,
            )
        self._state = "syncing"
        self._round = run = Round(
            keeper,
            self._replica,
            self.holder,
            self._host.limits,
            pulling=self.address.pulls,
        )
        pushing = self.address.pushes and (request.push or self._never_pulls(meeting))
        hello = self._host.hello() if pushing else None
        await run.run(meeting, hello, request.baseline)
        return self._ended(run, meeting, began)

    def _met(self, meeting: Meeting) -> str:
        """Take in what the peer said of itself; what it turned out to be."""
        hello = meeting.hello
        self._root = meeting.root
        if hello is None:
            return "peer" if meeting.ready else "building"
        known = self._hello
        self._acquainted(hello)
        if hello.name is not None:  # it is told once
            self._name = printable(hello.name) or None
        elif known is not None and known.node != hello.node:
            self._name = None  # another node has taken the place
        what = self._host.roster.recognise(self, hello)
        if what in ("clone", "twin"):
            whose = "this node's" if what == "clone" else "another peer's"
            raise Refused(
                f"{self.address.place} has {whose} id {hello.node.hex()}: one data directory is a "
                "copy of the other; delete node.json in one of them and restart that node"
            )
        if what != "peer":
            if self._state != what:
                log.warning("peer %s is %s; ignoring it", self.address.place, _EXPLAINED[what])
            return what
        return "peer" if meeting.ready else "building"

    @property
    def holder(self) -> Holder:
        """Under which name it brings blobs."""
        return self.node or self.address.url.encode()

    def _never_pulls(self, meeting: Meeting) -> bool:
        silence = _SILENT_INTERVALS * self._host.interval
        return meeting.pulled is None or meeting.pulled > silence

    def _ended(self, run: Round, meeting: Meeting, began: float) -> RoundStats:
        """Sum up a round; raises its error after what it did has been counted."""
        for at, value in enumerate(_moved(run)):
            self._moved[at] += value
        ledger = run.ledger
        self._over_limit = ledger.tally.over_limit
        self._root = run.root
        if run.hello is not None:
            self.heard(run.hello)
        there = 0 if self._root == self._host.keeper.known().root else ledger.missing_there
        if run.proven:
            self._missing = (ledger.left_here, there)
        if ledger.error is not None:
            if ledger.left_here and self._host.released(self):
                # What was claimed here is free again: others come first, or this peer might
                # claim it all anew and hang with it for ever.
                self._head_start = _HEAD_START
            raise ledger.error
        if ledger.more:
            self._again()
        elif ledger.elsewhere and ledger.left_here:
            # Should the other one hang, its claims are over by then.
            self._host.scheduler.hint(self, LEASE)
        self._state = "idle"
        if meeting.hello is None and ledger.tally.sent:
            # A peer that cannot tell how it stands afterwards is asked again soon.
            self._again()
        return RoundStats(
            peer=self.name,
            state="idle",
            proven=run.proven,
            missing_here=ledger.left_here,
            missing_there=there,
            baseline_there=ledger.baseline_there,
            seconds=anyio.current_time() - began,
            level=not there and not ledger.left_here,
            reasons=ledger.reasons(),
            **msgspec.structs.asdict(ledger.tally),
        )

    def _succeeded_now(self, stats: RoundStats) -> None:
        if self._failures:
            log.info("peer %s is back", self.name)
        self._failures = 0
        # What passes by itself is no error: blobs on their way, with something moved already.
        lasts = stats.useless or stats.refusal or not self._host.keeper.disk.condition.good
        self._error = ("; ".join(stats.reasons) or None) if lasts and not stats.level else None
        if stats.proven:
            self._succeeded = anyio.current_time()
        if stats.fetched or stats.sent:
            log.info("round with %s: %d blobs here, %d there", self.name, stats.fetched, stats.sent)
        if self._over_limit:
            self._state = "over limit"
            self._error = (
                f"{self._over_limit} blobs are larger than max_replica_bytes "
                f"({self._host.limits.max_replica_bytes}); raise it on this node"
            )

    def _failed_now(self, error: MeshError) -> RoundStats:
        text = one_line(error)
        if not self._failures or self._error != text:
            log.warning("peer %s: %s", self.name, text)
        self._failures += 1
        self._failed_at = anyio.current_time()
        self._error = text
        self._state = "failing"
        if isinstance(error, PeerError):
            self._host.roster.forget(self)
        done = _moved(self._round) if self._round is not None else (0, 0, 0, 0)
        return RoundStats(
            peer=self.name,
            state="failing",
            error=text,
            fetched=done[0],
            fetched_bytes=done[1],
            sent=done[2],
            sent_bytes=done[3],
        )


_EXPLAINED = {"self": "this node itself", "duplicate": "another address of a peer already listed"}


def _moved(run: Round) -> tuple[int, int, int, int]:
    tally = run.ledger.tally
    return tally.fetched, tally.fetched_bytes, tally.sent, tally.sent_bytes
