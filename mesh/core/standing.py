"""Where a peer stands, as a value: a state, what is known of the peer, and what is not.

**Theory.** A node never knows what a peer holds now. It knows what the peer *said*: a root, in an
answer or a message. It also knows what was *proven*: a comparison that explains that root. From
these two follows everything that `mesh status` shows, by three rules.

1. *In sync* needs both: the root that the peer named last is ours, and nothing has cast doubt on
   that since the last proof. A request that failed, a lost announcement and a restart of the peer
   cast doubt. Only a proof takes doubt away: a greeting that was answered with an equal root, or a
   round that ended well and was proven.
2. A number that is not known is None. How many blobs are missing is known for the two roots with
   which a round ended, if the round accounts for both. It is forgotten when either of them changes,
   and when there is doubt.
3. An address that turned out to be this node itself, or another address of a listed peer, is no
   replica. It counts nowhere.

The state follows from the events by the table `LEADS`, which is the documentation. An event that
has no entry for a state changes nothing about the state. The events come from four directions:

- from the greeting that opens a round: EQUAL, DIFFERS, STARTING, SELF, DUPLICATE, CLONE, TWIN;
- from the end of a round: PROVEN, UNPROVEN, OVER_LIMIT;
- from anything in a round that went wrong: UNREACHABLE, REFUSED, BROKEN;
- from outside of rounds: UNANNOUNCED, RESTARTED, PAUSED.

What the peer names as its root outside of rounds (`heard`) is taken in, and changes no state.

The time is an argument: seconds on one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, auto

from mesh.core.digest import Digest

# Seconds that other peers have for what a failed one had claimed, before the failed one is asked
# again: the rounds of the others begin within one second.
HEAD_START = 5.0


class State(StrEnum):
    """Where a peer stands; the values are what `mesh status` shows."""

    NEW = "new"  # not reached yet
    BUILDING = "building"  # reached, but its tree is not built, so nothing can be compared
    SYNCING = "syncing"  # a round compares and moves blobs
    IDLE = "idle"  # the last round ended well, and no round is running
    UNSURE = "unsure"  # something came between: the next round looks at once
    OVER_LIMIT = "over limit"  # all is well but for blobs that are too large for this node
    FAILING = "failing"  # the last round failed
    SELF = "self"  # it is this node
    DUPLICATE = "duplicate"  # it is another address of a listed peer


class Event(StrEnum):
    """What can happen between this node and a peer."""

    EQUAL = auto()  # it answered a greeting: its root is ours
    DIFFERS = auto()  # it answered a greeting: its root is another, and a round begins to move
    STARTING = auto()  # it answered a greeting: it is still building its tree
    SELF = auto()  # it answered with the id of this run of this node
    DUPLICATE = auto()  # it answered with the id of a peer that is known under another address
    CLONE = auto()  # it answered with this node's id, but is another process: a copied directory
    TWIN = auto()  # it answered with another peer's id, but is another process
    PROVEN = auto()  # a round ended without an error, and explains the root of the peer
    UNPROVEN = auto()  # a round ended without an error, but was not proven
    OVER_LIMIT = auto()  # a round was proven, and left blobs that are too large for this node
    UNREACHABLE = auto()  # a round failed: the peer did not answer, or stopped answering
    REFUSED = auto()  # a round failed: the peer declined
    BROKEN = auto()  # a round failed in another way: the peer misbehaved, or this node's store did
    UNANNOUNCED = auto()  # an announcement of new blobs did not reach the peer
    PAUSED = auto()  # nothing is asked of the peer, or told to it, until somebody says so
    RESTARTED = auto()  # another run of its process speaks, or another node at its address


_MET: Mapping[Event, State] = {
    Event.EQUAL: State.IDLE,
    Event.DIFFERS: State.SYNCING,
    Event.STARTING: State.BUILDING,
    Event.SELF: State.SELF,
    Event.DUPLICATE: State.DUPLICATE,
    Event.CLONE: State.FAILING,
    Event.TWIN: State.FAILING,
    Event.UNREACHABLE: State.FAILING,
    Event.REFUSED: State.FAILING,
    Event.BROKEN: State.FAILING,
}
_ENDED: Mapping[Event, State] = {
    Event.PROVEN: State.IDLE,
    Event.UNPROVEN: State.UNSURE,
    Event.OVER_LIMIT: State.OVER_LIMIT,
}
_DOUBT: Mapping[Event, State] = {
    Event.PAUSED: State.UNSURE,
    Event.UNANNOUNCED: State.UNSURE,
    Event.RESTARTED: State.UNSURE,
}

LEADS: Mapping[State, Mapping[Event, State]] = {
    State.NEW: _MET,
    State.BUILDING: _MET,
    # Doubt that comes up in a round changes nothing here: the end of the round decides.
    # But a pause ends the round.
    State.SYNCING: {**_MET, **_ENDED, Event.PAUSED: State.UNSURE},
    State.IDLE: {**_MET, **_DOUBT},
    State.OVER_LIMIT: {**_MET, **_DOUBT},
    State.UNSURE: _MET,
    State.FAILING: _MET,
    State.SELF: _MET,
    State.DUPLICATE: _MET,
}
"""Which event leads where, by the state before it."""

FAILURES = frozenset(
    {Event.UNREACHABLE, Event.REFUSED, Event.BROKEN, Event.CLONE, Event.TWIN},
)
"""The events that end a round with an error."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a round that ended without an error found. Counts of blobs.

    `ours`, `theirs`: the roots at its end, as the round knows them, None when not known.
    `left_here`, `left_there`: what was found missing and is missing still. `known`: whether these
    two are what `ours` and `theirs` differ by; blobs may have come to either side that the round
    did not see. `pulled`: whether the round fetched what it found. `over_limit`: how many of
    `left_here` are too large for this node.
    `left_bytes`: the bytes of what is left here and there, None where that is not known.
    `reasons`: why something is left, one line each.
    """

    proven: bool
    ours: Digest | None
    theirs: Digest | None
    left_here: int = 0
    left_there: int = 0
    known: bool = True
    pulled: bool = True
    over_limit: int = 0
    left_bytes: tuple[int | None, int | None] = (None, None)
    reasons: tuple[str, ...] = ()


class Standing:
    """Where one peer stands. Read the fields, feed it with the methods."""

    def __init__(self, *, pulls: bool = True, pushes: bool = True) -> None:
        """`pulls`: blobs are fetched from the peer. `pushes`: blobs are sent to it."""
        self._pulls = pulls
        self._pushes = pushes
        self.state = State.NEW
        self.paused = False
        self.rounds = 0
        self.failures = 0
        self.error: str | None = None
        self.root: Digest | None = None
        self.over_limit = 0
        self.unreachable = False
        """Whether the last round failed because the peer did not answer."""
        # When a round was last proven; when one was last proven that fetched what it found; the
        # beginning of the last one that left nothing to move; and of the last such one after which
        # the peer lacked nothing either, whatever the direction in which blobs are moved.
        self.succeeded: float | None = None
        self.pulled: float | None = None
        self.levelled: float | None = None
        self.shared: float | None = None
        self._began = float("-inf")
        self._doubted = True
        self._heard = False  # whether the peer named a root by itself since the last greeting
        self.failed_at = float("-inf")
        self._left: tuple[int, int] | None = None
        self._left_bytes: tuple[int | None, int | None] = (None, None)
        self._left_of: tuple[Digest | None, Digest | None] = (None, None)

    # --- what is asked -----------------------------------------------------------------------

    @property
    def counts(self) -> bool:
        """Whether the peer is a replica beside this node, as far as is known."""
        return self.state not in (State.SELF, State.DUPLICATE)

    def in_sync(self, ours: Digest | None) -> bool:
        """Whether the peer has exactly what this node has, whose root is `ours`."""
        return self.counts and not self._doubted and ours is not None and self.root == ours

    def missing(self, ours: Digest | None) -> tuple[int | None, int | None]:
        """How many blobs are missing here and there, None where it is not known."""
        if self.in_sync(ours):
            return 0, 0
        if self._doubted or self._left is None or self._left_of != (ours, self.root):
            return None, None
        return self._left

    def missing_bytes(self, ours: Digest | None) -> tuple[int | None, int | None]:
        """The bytes of what is missing here and there, None where it is not known."""
        if self.in_sync(ours):
            return 0, 0
        return (None, None) if self.missing(ours)[0] is None else self._left_bytes

    def level(self, ours: Digest | None) -> bool:
        """Whether nothing is left to move, in the directions in which blobs are moved."""
        here, there = self.missing(ours)
        if not self.counts or here is None:
            return False
        return not (self._pulls and here) and not (self._pushes and there)

    def level_since(self, ours: Digest | None, now: float) -> float | None:
        """Since when all that was to be moved has been moved, None when that is not known.

        Whatever was here at that time is there, and the other way round, as far as blobs are
        moved in that direction at all.
        """
        if self.in_sync(ours):
            return now
        return self.levelled if self.counts and not self._doubted else None

    @property
    def shared_since(self) -> float | None:
        """The beginning of the last round that proved the peer to lack nothing of what was here.

        None when that is not known. In the directions in which blobs are moved, nothing of the
        peer's was missing here either. Unlike `level_since`, this never relies on what the peer
        said before that round: it may have lost everything since.
        """
        return self.shared if self.counts and not self._doubted else None

    def outdated(self, asked: float) -> bool:
        """Whether a round that was due at `asked` has been put off since, as one failed."""
        return self.failed_at >= asked

    # --- what happens ------------------------------------------------------------------------

    def begins(self, now: float) -> None:
        """A round begins with a greeting."""
        self.rounds += 1
        self._began = now

    def met(self, event: Event, root: Digest | None, now: float) -> None:
        """The peer answered the greeting: EQUAL, DIFFERS, STARTING, SELF or DUPLICATE."""
        self._becomes(event)
        self.root, self._heard = root, False
        if event is Event.EQUAL:
            self._proven(now, Outcome(proven=True, ours=root, theirs=root))
            self.levelled = self.shared = self._began
            self.pulled = now if self._pulls else self.pulled
        elif event is not Event.DIFFERS:
            # Nothing was compared. It answered all the same, so earlier failures are over.
            self._doubted, self._left = True, None
            self.failures, self.error = 0, None

    def ended(self, outcome: Outcome, now: float) -> bool:
        """The round ended without an error. Whether to look again at once."""
        if not outcome.proven:
            self._becomes(Event.UNPROVEN)
            self._doubt()
        else:
            self._becomes(Event.OVER_LIMIT if outcome.over_limit else Event.PROVEN)
        self.failures = 0
        self.over_limit = outcome.over_limit
        if not self._heard:  # what the peer said meanwhile is newer
            self.root = outcome.theirs
        if outcome.proven:
            self._proven(now, outcome)
            left_here = self._pulls and outcome.left_here
            left_there = self._pushes and outcome.left_there
            if not left_here and not left_there:
                self.levelled = self._began
                if not outcome.left_there:
                    self.shared = self._began
            if self._pulls and outcome.pulled:
                self.pulled = now
        self.error = "; ".join(outcome.reasons) or None
        return not outcome.proven

    def failed(
        self,
        event: Event,
        error: str,
        now: float,
        *,
        wish: float | None = None,
        released: bool = False,
    ) -> float | None:
        """A round failed, with one of FAILURES. Seconds to wait at least, or None.

        `wish`: for how many seconds the peer asked for no request. `released`: blobs that it had
        claimed are free again, and other peers may bring them: they get a head start.
        """
        self._becomes(event)
        self._doubt()
        self.unreachable = event is Event.UNREACHABLE
        self.failures += 1
        self.error = error
        self.failed_at = now
        return max(wish or 0.0, HEAD_START if released else 0.0) or None

    def unannounced(self, error: str) -> bool:
        """An announcement was lost. Whether to look again at once.

        Only the first loss asks for that: a peer that is failing already is tried again by the
        schedule, with growing pauses.
        """
        first = self.counts and not self._doubted
        self._becomes(Event.UNANNOUNCED)
        self._doubt()
        if not self.failures:
            self.error = error
        return first

    def restarted(self) -> bool:
        """The peer speaks as another run of its process. Whether to look again at once."""
        first = self.counts and not self._doubted
        self._becomes(Event.RESTARTED)
        self._doubt()
        return first

    def pause(self) -> None:
        """Nothing is looked at any more, until `paused` is taken back."""
        self.paused = True
        self._becomes(Event.PAUSED)
        self._doubt()

    def heard(self, root: Digest) -> None:
        """The peer named its root, outside of a greeting of ours."""
        self.root, self._heard = root, True

    def noted(self, reason: str) -> None:
        """An announcement was answered, but something in it was not taken, for this reason."""
        if not self.failures:
            self.error = reason

    # --- the rules -----------------------------------------------------------------------------

    def _becomes(self, event: Event) -> None:
        self.state = LEADS[self.state].get(event, self.state)

    def _doubt(self) -> None:
        self._doubted, self._left = True, None

    def _proven(self, now: float, outcome: Outcome) -> None:
        self._doubted = False
        level = outcome.left_here == outcome.left_there == 0
        # Two sets that differ cannot both lack nothing: somebody's numbers are wrong.
        known = outcome.known and level == (outcome.ours == outcome.theirs)
        self._left = (outcome.left_here, outcome.left_there) if known else None
        self._left_bytes = outcome.left_bytes
        self._left_of = outcome.ours, outcome.theirs
        self.succeeded = now
        self.failures, self.error = 0, None
        self.over_limit = outcome.over_limit
