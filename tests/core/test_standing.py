"""Any events in any order against an oracle that remembers all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.core.digest import Digest
from mesh.core.standing import FAILURES, HEAD_START, LEADS, Event, Outcome, Standing, State
from tests.oracles import quick

ROOTS = [Digest(bytes((number,)) * 32) for number in range(3)]
OURS, THEIRS, OTHER = ROOTS

roots = st.sampled_from(ROOTS)
counts = st.integers(0, 5)
failures = st.sampled_from(sorted(FAILURES))


def after(*steps: Callable[[Standing], Any], **options: bool) -> Standing:
    """A standing after these steps, one a second."""
    standing = Standing(**options)
    for step in steps:
        step(standing)
    return standing


def begins(standing: Standing) -> None:
    standing.begins(0.0)


def equal(standing: Standing) -> None:
    standing.met(Event.EQUAL, OURS, 1.0)


def differs(standing: Standing) -> None:
    standing.met(Event.DIFFERS, THEIRS, 1.0)


def ended(**facts: Any) -> Callable[[Standing], None]:
    outcome = Outcome(**{"proven": True, "ours": OURS, "theirs": THEIRS, **facts})

    def step(standing: Standing) -> None:
        standing.ended(outcome, 2.0)

    return step


def failed(standing: Standing) -> None:
    standing.failed(Event.UNREACHABLE, "cannot reach it", 3.0)


# --- any order -------------------------------------------------------------------------------


@dataclass
class Oracle:
    """What is true, told apart by looking back at everything."""

    proofs: list[bool] = field(default_factory=list)  # in order: a proof True, a doubt False
    root: Digest | None = None
    spoke: bool = False
    state: str = "new"

    @property
    def proven(self) -> bool:
        return bool(self.proofs) and self.proofs[-1]


class AnyOrder(RuleBasedStateMachine):
    """Every event at any time; only the end of a round needs one that began."""

    def __init__(self) -> None:
        super().__init__()
        self.standing = Standing()
        self.oracle = Oracle()
        self.now = 0.0
        self.in_round = False

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    @rule(event=st.sampled_from([Event.EQUAL, Event.DIFFERS, Event.STARTING]), root=roots)
    def meets(self, event: Event, root: Digest) -> None:
        self.standing.begins(self.tick())
        self.standing.met(event, root, self.tick())
        self.in_round = event is Event.DIFFERS
        self.oracle.root, self.oracle.spoke = root, False
        if event is not Event.DIFFERS:
            self.oracle.proofs.append(event is Event.EQUAL)

    @rule(event=st.sampled_from([Event.SELF, Event.DUPLICATE]), root=roots)
    def is_no_replica(self, event: Event, root: Digest) -> None:
        self.standing.begins(self.tick())
        self.standing.met(event, root, self.tick())
        self.in_round = False
        self.oracle.proofs.append(False)
        self.oracle.root = root
        assert not self.standing.counts
        assert all(not self.standing.in_sync(ours) for ours in ROOTS)
        assert self.standing.level_since(root, self.now) is None

    @precondition(lambda self: self.in_round)
    @rule(proven=st.booleans(), here=counts, there=counts, theirs=roots, large=st.integers(0, 1))
    def ends(self, proven: bool, here: int, there: int, theirs: Digest, large: int) -> None:
        outcome = Outcome(
            proven=proven, ours=OURS, theirs=theirs, left_here=here, left_there=there,
            over_limit=large,
        )  # fmt: skip
        again = self.standing.ended(outcome, self.tick())
        self.in_round = False
        self.oracle.proofs.append(proven)
        if not self.oracle.spoke:
            self.oracle.root = theirs
        assert again is not proven
        assert self.standing.failures == 0

    @rule(event=failures)
    def fails(self, event: Event) -> None:
        before = self.standing.failures
        self.standing.failed(event, "why", self.tick())
        self.in_round = False
        self.oracle.proofs.append(False)
        assert self.standing.state is State.FAILING
        assert (self.standing.failures, self.standing.error) == (before + 1, "why")
        assert self.standing.outdated(self.now)
        assert not self.standing.outdated(self.now + 1)

    @rule()
    def loses_an_announcement(self) -> None:
        expected = self.oracle.proven and self.standing.counts
        assert self.standing.unannounced("lost") is expected
        self.oracle.proofs.append(False)
        assert self.standing.unannounced("lost") is False, "one look, and not one each time"

    @rule()
    def restarts(self) -> None:
        expected = self.oracle.proven and self.standing.counts
        assert self.standing.restarted() is expected
        self.oracle.proofs.append(False)

    @rule(root=roots)
    def speaks(self, root: Digest) -> None:
        before = self.standing.state
        self.standing.heard(root)
        self.oracle.root, self.oracle.spoke = root, True
        assert self.standing.state is before

    @invariant()
    def in_sync_needs_a_proof_that_nothing_came_after(self) -> None:
        for ours in (*ROOTS, None):
            expected = (
                self.oracle.proven
                and self.standing.counts
                and ours is not None
                and self.oracle.root == ours
            )
            assert self.standing.in_sync(ours) is expected

    @invariant()
    def what_is_not_known_is_none(self) -> None:
        for ours in ROOTS:
            here, there = self.standing.missing(ours)
            if self.standing.in_sync(ours):
                assert (here, there) == (0, 0)
            elif not self.oracle.proven:
                assert here is there is None

    @invariant()
    def nothing_is_level_while_there_is_doubt(self) -> None:
        if not self.oracle.proven or not self.standing.counts:
            assert all(self.standing.level_since(ours, self.now) is None for ours in ROOTS)

    @invariant()
    def a_failing_peer_says_why(self) -> None:
        if self.standing.state is State.FAILING or self.standing.failures:
            assert self.standing.error


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = quick


# --- the table -------------------------------------------------------------------------------


def test_the_table_has_every_state_and_every_event() -> None:
    assert set(LEADS) == set(State)
    told = {event for row in LEADS.values() for event in row}
    assert told == set(Event)


@pytest.mark.parametrize("state", State)
def test_a_greeting_and_a_failure_lead_to_the_same_from_everywhere(state: State) -> None:
    assert LEADS[state].items() >= LEADS[State.NEW].items()
    assert {LEADS[state][event] for event in FAILURES} == {State.FAILING}


def test_only_a_round_that_runs_can_end() -> None:
    ends = {Event.PROVEN, Event.UNPROVEN, Event.OVER_LIMIT}
    assert [state for state in State if ends & LEADS[state].keys()] == [State.SYNCING]


# --- numbers ---------------------------------------------------------------------------------


def test_a_new_peer_is_not_known_at_all() -> None:
    standing = Standing()
    assert standing.missing(OURS) == (None, None)
    assert (standing.succeeded, standing.pulled, standing.error) == (None, None, None)
    assert standing.counts


def test_what_a_round_left_is_known_for_the_roots_that_it_ended_with() -> None:
    standing = after(begins, differs, ended(left_here=3, left_there=2))
    assert standing.missing(OURS) == (3, 2)
    assert standing.missing(OTHER) == (None, None), "something has come since"
    standing.heard(OTHER)
    assert standing.missing(OURS) == (None, None), "something has come there since"
    assert standing.missing(OTHER) == (0, 0), "from wherever it came"


def test_what_the_peer_says_in_the_midst_of_a_round_is_newer_than_the_round() -> None:
    standing = after(begins, differs, lambda s: s.heard(OTHER), ended(theirs=OURS))
    assert standing.root == OTHER
    assert not standing.in_sync(OURS)
    assert standing.missing(OURS) == (None, None)


@pytest.mark.parametrize("ending", [equal, ended(theirs=OURS)])
def test_a_peer_that_dies_is_not_known_any_more(ending: Callable[[Standing], None]) -> None:
    standing = after(begins, differs, ending)
    assert standing.in_sync(OURS)
    failed(standing)
    assert standing.missing(OURS) == (None, None)
    assert not standing.in_sync(OURS)
    assert standing.succeeded is not None, "when it went well last is known all the same"


# --- levels and directions -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pulls", "pushes", "here", "there", "level"),
    [
        (True, True, 0, 0, True),
        (True, True, 1, 0, False),
        (True, True, 0, 1, False),
        (True, False, 0, 7, True),
        (True, False, 1, 0, False),
        (False, True, 7, 0, True),
        (False, True, 0, 1, False),
    ],
)
def test_level_is_what_the_direction_moves(
    pulls: bool, pushes: bool, here: int, there: int, level: bool
) -> None:
    outcome = ended(left_here=here, left_there=there)
    standing = after(begins, differs, outcome, pulls=pulls, pushes=pushes)
    since = standing.level_since(OURS, 9.0)
    assert since == (0.0 if level else None), "as of the beginning of the round"


def test_a_peer_that_is_only_fetched_from_shares_what_it_was_proven_not_to_lack() -> None:
    level = after(begins, differs, ended(left_there=1), pushes=False)
    assert (level.level_since(OURS, 9.0), level.shared_since) == (0.0, None)
    equal(level)
    assert level.shared_since == 0.0
    level.restarted()
    assert level.shared_since is None


def test_what_a_peer_said_before_is_no_proof_that_it_lacks_nothing_now() -> None:
    standing = after(begins, equal)
    standing.heard(OURS)
    assert standing.level_since(OURS, 9.0) == 9.0
    assert standing.shared_since == 0.0


@pytest.mark.parametrize("theirs", [OURS, THEIRS])
@pytest.mark.parametrize(("left", "known"), [(0, True), (1, True), (0, False), (1, False)])
def test_numbers_that_contradict_the_roots_are_not_shown(
    theirs: Digest, left: int, known: bool
) -> None:
    standing = after(begins, differs, ended(theirs=theirs, left_here=left, known=known))
    if theirs == OURS:
        assert standing.missing(OURS) == (0, 0)
    else:
        assert standing.missing(OURS) == ((1, 0) if left and known else (None, None))


def test_a_peer_that_is_only_sent_to_is_never_pulled_from() -> None:
    for ending in (equal, ended()):
        assert after(begins, differs, ending, pulls=False).pulled is None
        assert after(begins, differs, ending).pulled is not None
    assert after(begins, differs, ended(pulled=False)).pulled is None, "this node is full"


# --- failures ----------------------------------------------------------------------------------


@quick
@given(wish=st.none() | st.floats(0.0, 100.0), released=st.booleans())
def test_others_get_a_head_start_and_the_peer_its_wish(wish: float | None, released: bool) -> None:
    wait = Standing().failed(Event.REFUSED, "busy", 1.0, wish=wish, released=released)
    expected = max(wish or 0.0, HEAD_START if released else 0.0)
    assert (wait or 0.0) == expected


def test_reasons_are_shown_as_the_last_error_until_the_next_round() -> None:
    standing = after(begins, differs, ended(left_there=1, reasons=("it is full", "and busy")))
    assert (standing.state, standing.error) == (State.IDLE, "it is full; and busy")
    begins(standing)
    equal(standing)
    assert standing.error is None


def test_the_error_of_a_round_is_not_hidden_by_a_lost_announcement() -> None:
    standing = after(failed)
    standing.unannounced("lost")
    standing.noted("too large")
    assert standing.error == "cannot reach it"


def test_what_an_announcement_could_not_bring_is_shown() -> None:
    standing = after(begins, equal)
    standing.noted("too large for it")
    assert (standing.state, standing.error) == (State.IDLE, "too large for it")
    assert standing.unannounced("lost")
    assert (standing.state, standing.error) == (State.UNSURE, "lost")
