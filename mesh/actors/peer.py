"""The peer actor: one for each configured peer; it runs the rounds with the peer, one at a time.

**Theory.** The actor is a shell around two values. `core.standing` decides where the peer stands
and what is known of it; `actors.round` moves blobs. What is left for the actor:

- It takes requests for rounds from its mailbox: from the scheduler (`due`), or from a person
  (`sync`), who gets an answer in any case. One round runs at a time, so that two of them never
  ask the peer for the same blobs.
- It tells the standing what happened, in the order in which it happened: what the greeting showed,
  how the round ended, what became of announcements, what the peer said by itself.
- It tells the scheduler when a round is over, how it went, and when to look again.
- It remembers who the peer is (`actors.acquaintance`), since an address is only a hint.

A round has four parts: `_greet` (one request, which ends most rounds), `Round.run`, `_summary` and
the report to the scheduler. An error anywhere ends the round, and is shown as the last error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import msgspec

from mesh.actors.acquaintance import IGNORED, Acquaintance
from mesh.actors.actor import Mailbox
from mesh.actors.announcer import Announcer
from mesh.actors.differing import Differences
from mesh.actors.fetcher import Candidate
from mesh.actors.keeper import Keeper
from mesh.actors.metered import Metered
from mesh.actors.roster import Role, Roster
from mesh.actors.round import Limits, Round
from mesh.actors.scheduler import Scheduler
from mesh.actors.showing import Showing
from mesh.actors.summing import kind_of, next_round, outcome
from mesh.config import Address
from mesh.core.digest import Digest
from mesh.core.failing import Side
from mesh.core.holder import Anonymous, Caller, Configured, Holder
from mesh.core.standing import Event, Standing
from mesh.core.tree import Tree
from mesh.dates import Dates
from mesh.errors import MeshError, PeerError, Refused, one_line
from mesh.status import ErrorRow, PeerStatus, RoundStats
from mesh.transport.base import Meeting, Replica
from mesh.wire.messages import Hello, StandingReply, StandingRequest

log = logging.getLogger("mesh")

# Rounds that the scheduler has asked for and that have not begun. It asks for the next one when the
# one before is over, so there is one at most.
_ROOM = 1

# A peer that has not pulled from us for this many intervals does not list us, or cannot reach
# us: then what it lacks is pushed.
_SILENT_INTERVALS = 3


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


@dataclass(frozen=True, slots=True)
class _Wish:
    """A round: asked for by a person, or at a time by the scheduler.

    A person's round pushes, and counts what the peer lacks of `baseline`.
    """

    baseline: Tree | None = None
    scheduled_at: float | None = None


class Peer:
    """One configured peer. `run` and `announcer.run` are supervised by the node."""

    def __init__(
        self, address: Address, replica: Replica, host: Host, *, paused: bool = False
    ) -> None:
        """`replica`: how to talk to it. `paused`: see `pause`."""
        self.address = address
        self.removed = False
        """Whether it is no peer any more."""
        self.successor: Peer | None = None
        """Of a peer that is removed: the one with another address or key in its place, if any."""
        self.holder = Configured(address.url)
        """Under which name it brings blobs: its address is all that is proven about it."""
        self.standing = Standing(pulls=address.pulls, pushes=address.pushes)
        self.standing.paused = paused
        self._replica = metered = Metered(replica)
        self.announcer = Announcer(host.keeper, metered, host.hello, self)
        self._showing = Showing(self.standing, metered)
        self._host = host
        self._mailbox: Mailbox[_Wish, RoundStats] = Mailbox(
            f"the peer actor of {address.place}", _ROOM, MeshError
        )
        self._who = Acquaintance(address)
        self._called_from: str | None = None
        self._shows: str | None = None  # the name of the key that it shows us
        self._round: Round | None = None
        # Of the round that runs, if one does: what cancels it, and what tells that it is over.
        self._scope = anyio.CancelScope()
        self._over = anyio.Event()
        self._over.set()

    # --- who it is ---------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What it is called: as configured, else by its own name once met, else its address."""
        return self._who.name

    @property
    def node(self) -> bytes | None:
        """Its node id, once met."""
        return self._who.node

    @property
    def counts(self) -> bool:
        """Whether it is a replica beside us: not ourselves, not another address of one."""
        return self.standing.counts

    @property
    def paused(self) -> bool:
        """Whether no rounds are run with it, and nothing is announced to it or read from it."""
        return self.standing.paused

    @property
    def active(self) -> bool:
        """Whether this node deals with it at all now: it counts, and is neither paused nor gone."""
        return self.counts and not self.paused and not self.removed

    @property
    def state(self) -> str:
        """Where it stands, as `mesh status` shows it: a State, or "paused"."""
        return "paused" if self.paused else self.standing.state

    @property
    def direction(self) -> str:
        """Which way blobs are moved: both, pull or push."""
        if self.address.pulls and self.address.pushes:
            return "both"
        return "pull" if self.address.pulls else "push"

    @property
    def announced_to(self) -> bool:
        """Whether it is told of new blobs."""
        return self.active and self.address.pushes

    @property
    def candidate(self) -> Candidate | None:
        """The way to blobs that somebody wants to read now; None where none are fetched from.

        Only nodes of a mesh: another protocol's server may ask others in its turn.
        """
        if not (self.active and self.address.pulls and self.address.protocol == "mesh"):
            return None
        return Candidate(self.holder, self._replica, not self.standing.failures)

    @property
    def pulled_seconds_ago(self) -> float | None:
        """Since a round last fetched all that it found missing here; None when none ever did."""
        return _since(self.standing.pulled)

    def status(self, root: Digest | None, dates: Dates) -> PeerStatus:
        """As it is now; `root` is ours."""
        self._look()
        shown = self._showing.status(
            self.name,
            self.address.url,
            self.direction,
            self._who.hello,
            self._round,
            self.announcer.tally,
            root,
            dates,
        )
        return msgspec.structs.replace(
            shown, state=self.state, calls_from=self.calls_from, key=self._shows
        )

    def _look(self) -> None:
        """Something has happened: see Showing."""
        tree = self._host.keeper.tree
        root = tree.root if tree is not None else None
        self._showing.look(root, self._host.keeper.lies.get(self.holder), anyio.current_time())
        self._tell(root)

    def _tell(self, root: Digest | None) -> None:
        """Where it stands, to whoever listens."""
        if not self.counts or self.removed:
            return
        standing, why = self.standing, None
        if self.paused:
            state = "paused"
        elif standing.failures:
            state, why = "failing", standing.error
        else:
            state = "in sync" if standing.in_sync(root) else "not in sync"
        self._host.keeper.events.peer(self.name, self.address.url, state, why)

    def _forget_what_is_level(self) -> None:
        """A round is over: where nothing is missing, nothing keeps failing."""
        keeper = self._host.keeper
        root = keeper.tree.root if keeper.tree is not None else None
        for side, left in zip(Side, self.standing.missing(root), strict=True):
            if left == 0:
                keeper.failing.level(side, self.holder)

    def trouble(self, dates: Dates) -> ErrorRow | None:
        """What is wrong when rounds with it fail; None when they do not."""
        return self._showing.trouble(self.name, dates)

    @property
    def last_error(self) -> str | None:
        """What went wrong last, and still matters."""
        return self.standing.error or self._host.keeper.lies.get(self.holder)

    @property
    def calls_from(self) -> str | None:
        """From where its node has called since it ceased to answer at its address; unproven."""
        return self._called_from if self.standing.failures else None

    # --- what others ask ---------------------------------------------------------------------

    def due(self) -> None:
        """The scheduler's call for a round."""
        if not self._mailbox.tell(_Wish(scheduled_at=anyio.current_time())):
            # Rounds that people asked for are waiting: any of them serves as well.
            self._host.scheduler.ended(self, failed=False)

    async def sync(self, *, baseline: Tree | None = None) -> RoundStats:
        """A round that begins now, both ways. Failures are in the answer, not raised."""
        if self.paused:
            return self._stats(error=self._why_paused)
        try:
            return await self._mailbox.ask(_Wish(baseline))
        except MeshError as error:  # the node is stopping, or a bug ended the round
            return RoundStats(
                peer=self.name,
                state=self.state,
                direction=self.direction,
                error=one_line(error),
            )

    async def pause(self) -> None:
        """End the round that runs, and begin none until `resume`; returns when it has ended.

        The peer's own rounds with this node go on: it is for its own node to pause them.
        """
        self.standing.pause()
        self._host.scheduler.remove(self)
        self._scope.cancel()
        self.announcer.mute()
        await self._over.wait()
        self.standing.pause()  # whatever the round has said while it ended
        self._look()
        self._host.keeper.forget(self.holder)

    def resume(self) -> None:
        """Deal with it again; the next round begins soon."""
        self.standing.paused = False
        self._look()
        self.announcer.unmute()
        self._host.scheduler.add(self)

    @property
    def _why_paused(self) -> str:
        return f"{self.name} is paused here; `mesh peers resume {self.name}` ends that"

    def forgive(self) -> None:
        """What it, or a proxy before it, refused for its size may be sent again at once."""
        self._replica.load.forgive()

    def differences(self) -> Differences:
        """What differs, to be found without moving any of it."""
        return Differences(self._host.keeper, self._replica, self._host.hello, self.address.place)

    async def tell(self, request: StandingRequest) -> StandingReply | None:
        """What the peer says of its own peers; None when its protocol has no such question.

        Raises PeerErrors.
        """
        return await self._replica.standing(request)

    async def holding(self, digests: Sequence[Digest]) -> set[Digest] | None:
        """Those of `digests` that the peer has; None when its protocol has no such question.

        Raises PeerErrors.
        """
        return await self._replica.holding(self._host.hello(), digests)

    def close(self) -> None:
        """The node is stopping, and `run` has ended; whoever still waits for a round is told so."""
        self._mailbox.close()

    def remove(self) -> None:
        """It is no peer any more, and `run` has ended: nothing about it stays here."""
        self.removed = True
        self._mailbox.close(f"{self.name} is not a peer of this node any more")
        self._host.scheduler.remove(self)
        self._host.roster.forget(self)
        self._host.keeper.forget(self.holder)
        self._host.keeper.events.forget(self.address.url)

    # --- what happens outside of rounds ------------------------------------------------------

    def called(self, caller: Caller) -> None:
        """A node that says this peer's id called us.

        Where from is shown to people while the peer does not answer, and followed by nobody: see
        the design. Which key it showed is shown always.
        """
        if caller.key is not None:
            self._shows = caller.key
        if caller.address is not None:
            self._called_from = caller.address if self.standing.failures else None

    def seems_level(self, hello: Hello) -> bool:
        """Whether somebody says in this peer's name that it has what is here, and it is news.

        A peer that fetched all that we have says so when it has it. Without a look at it, it would
        be shown as not level until our own next round.
        """
        tree = self._host.keeper.tree
        if tree is None or hello.root != tree.root or not self.active:
            return False
        return not self.standing.in_sync(tree.root)

    def brought(self, holder: Holder) -> bool:
        """Whether `holder` is this peer, as far as we can tell; see Anonymous.label."""
        return holder == self.holder or (
            isinstance(holder, Anonymous) and holder.label == self.node
        )

    def announce(self, digests: Sequence[Digest], holder: Holder) -> None:
        """`holder` brought new blobs: offer them to this peer."""
        self._showing.grown(anyio.current_time())
        if self.announced_to:
            self.announcer.note(digests, theirs=self.brought(holder))

    def heard(self, hello: Hello) -> None:
        """The peer said how it stands, in an answer to a request of ours."""
        if self._who.changed(hello) and self.standing.restarted():
            self._look_again()
        if self.node != hello.node:
            return  # the next round makes its acquaintance
        self._who.spoke(hello)
        if hello.root is not None:
            self.standing.heard(Digest(hello.root))
        self._look()

    def answered(self, hello: Hello | None, refusal: str, *, more: bool) -> None:
        """See Listener: an announcement was answered."""
        if hello is not None:
            self.heard(hello)
        if refusal:
            self.standing.noted(refusal)
            self._look()
        if more and self.standing.root != self._host.keeper.ready_tree().root:
            self._host.scheduler.hint(self)

    def unanswered(self, error: PeerError) -> None:
        """See Listener: an announcement was lost."""
        if self.standing.unannounced(f"an announcement was lost: {one_line(error)}"):
            self._look_again()
        self._look()

    def _look_again(self) -> None:
        """A round at once: the peer was thought to be well, and maybe is not."""
        self._host.scheduler.hint(self, 0.0)

    # --- the actor ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Rounds as they are asked for, until cancelled."""
        while True:
            with self._mailbox.turn() as turn:
                request = await turn.take()
                wish = request.question
                if self.paused:
                    request.reply.set(self._stats(error=self._why_paused))
                    continue
                if wish.scheduled_at is not None and self.standing.outdated(wish.scheduled_at):
                    continue  # a round failed since, and the schedule has moved this one back
                request.reply.set(await self._taken(wish))

    async def _taken(self, wish: _Wish) -> RoundStats:
        """One round, of which the scheduler and the standing learn however it ends."""
        stats: RoundStats | None = None
        failed = True
        retry_after: float | None = None
        self._over = anyio.Event()
        try:
            with anyio.CancelScope() as self._scope:
                stats = await self._one(wish)
            if stats is None:
                stats = self._cut_short()
            failed = False
        except MeshError as error:
            stats, retry_after = self._failed(error)
        finally:
            if stats is None:  # a bug, which the supervisor logs; or the node is stopping
                text = "the round crashed; see the log of the node"
                self.standing.failed(Event.BROKEN, text, anyio.current_time())
            self._round = None
            self._look()
            self._forget_what_is_level()
            self._over.set()
            self._host.scheduler.ended(self, failed=failed, retry_after=retry_after)
        self._host.keeper.events.round(stats)
        return stats

    def _cut_short(self) -> RoundStats:
        """A pause ended the round: what it moved counts all the same."""
        if self._round is not None:
            self._showing.ended(self._round)
        return self._stats(error=self._why_paused)

    async def _one(self, wish: _Wish) -> RoundStats:
        keeper = self._host.keeper
        await keeper.built()
        began = anyio.current_time()
        self.standing.begins(began)
        meeting = await self._replica.meet(self._host.hello())
        failures = self.standing.failures
        event = self._greet(meeting)
        if event is Event.DIFFERS:
            self._round = run = Round(
                keeper,
                self._replica,
                self.holder,
                self._host.limits,
                pulling=self.address.pulls,
            )
            asked = wish.scheduled_at is None
            pushing = self.address.pushes and (asked or self._never_pulls(meeting))
            hello = self._host.hello() if pushing else None
            await run.run(meeting, hello, wish.baseline)
            stats = self._summary(run, meeting, began)
        else:
            seconds = anyio.current_time() - began
            stats = self._stats(proven=event is Event.EQUAL, seconds=seconds)
        if failures:
            log.info("peer %s is back", self.name)
        return stats

    # --- the greeting ------------------------------------------------------------------------

    def _greet(self, meeting: Meeting) -> Event:
        """Take in what the peer said of itself, and what it turned out to be."""
        role = Role.PEER
        if meeting.hello is not None:
            if self._who.introduced(meeting.hello):
                self.standing.restarted()  # and looked at right now
            role = self._host.roster.recognise(self, meeting.hello)
        event = self._who.shown(role, meeting)
        if event in IGNORED and self.standing.state != event.value:
            log.warning("peer %s is %s; ignoring it", self.address.place, IGNORED[event])
        self.standing.met(event, meeting.root, anyio.current_time())
        self._look()
        return event

    def _never_pulls(self, meeting: Meeting) -> bool:
        silence = _SILENT_INTERVALS * self._host.interval
        return meeting.pulled is None or meeting.pulled > silence

    # --- the end of a round ------------------------------------------------------------------

    def _summary(self, run: Round, meeting: Meeting, began: float) -> RoundStats:
        """Sum up a round; raises its error after what it did has been counted."""
        self._showing.ended(run)
        theirs, count = run.root, run.count
        # What was compared was the set of the run that greeted us. Another one may have lost it.
        proven = run.proven
        if run.hello is not None:
            proven = proven and not self._who.changed(run.hello)
            if run.hello.node == self.node and run.hello.root is not None:
                self._who.spoke(run.hello)
                theirs, count = Digest(run.hello.root), run.hello.count
        ledger, tally = run.ledger, run.ledger.tally
        if ledger.error is not None:
            raise ledger.error
        found = outcome(run, self._host.keeper, theirs, count, proven=proven)
        unproven = self.standing.ended(found, anyio.current_time())
        mute = meeting.hello is None
        again = next_round(ledger, unproven=unproven, mute=mute)
        if again is not None:
            self._host.scheduler.hint(self, again)
        if tally.fetched or tally.sent:
            log.info("round with %s: %d blobs here, %d there", self.name, tally.fetched, tally.sent)
        return self._stats(
            proven=proven,
            missing_here=found.left_here,
            missing_there=found.left_there,
            baseline_there=ledger.baseline_there,
            seconds=anyio.current_time() - began,
            reasons=ledger.reasons(),
            **msgspec.structs.asdict(tally),
        )

    def _failed(self, error: MeshError) -> tuple[RoundStats, float | None]:
        """A round failed: what it did nevertheless, and how long to wait for the next."""
        text = one_line(error)
        if not self.standing.failures or self.standing.error != text:
            log.warning("peer %s: %s", self.name, text)
        # What was claimed here is free again. Other peers come first, or this one might claim
        # it all anew and hang with it for ever.
        left = self._round is not None and self._round.ledger.left_here
        retry_after = self.standing.failed(
            kind_of(error),
            text,
            anyio.current_time(),
            wish=error.retry_after if isinstance(error, Refused) else None,
            released=bool(left) and self._host.released(self),
        )
        if isinstance(error, PeerError):
            self._host.roster.forget(self)
        return self._stats(error=text), retry_after

    def _stats(self, *, error: str | None = None, **facts: Any) -> RoundStats:
        """How a round ended; of one that failed, what it moved before."""
        if self._round is not None and error is not None:
            facts = msgspec.structs.asdict(self._round.ledger.tally)
        return RoundStats(
            peer=self.name,
            state=self.state,
            direction=self.direction,
            error=error,
            **facts,
        )


def _since(moment: float | None) -> float | None:
    return None if moment is None else anyio.current_time() - moment
