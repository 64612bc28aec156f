"""All times are numbers that the test makes up."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mesh.core.claims import LEASE, MAX_CLAIMS, MAX_PENALTIES, PENALTY, Claims
from tests.oracles import blobs, quick

A, B, C, D = blobs(0, 4)


# --- claims exclude one another --------------------------------------------------------------


def test_what_is_claimed_is_granted_to_nobody_else() -> None:
    claims: Claims[str] = Claims()
    assert claims.take("one", [A, B], 0.0) == [A, B]
    assert claims.take("two", [B, C], 0.0) == [C]
    assert claims.held("one") == 2
    assert claims.held("two") == 1
    assert len(claims) == 3


def test_what_is_claimed_is_not_granted_again_to_its_holder() -> None:
    # It is on its way: to take it twice would be to fetch it twice.
    claims: Claims[str] = Claims()
    assert claims.take("one", [A, A, B], 0.0) == [A, B]
    assert claims.take("one", [B, A, C], 1.0) == [C]
    assert claims.held("one") == 3


def test_grants_keep_the_order_of_what_was_wanted() -> None:
    claims: Claims[str] = Claims()
    assert claims.take("one", iter([C, A, D, B]), 0.0) == [C, A, D, B]


def test_what_arrived_is_claimed_no_more_whoever_brought_it() -> None:
    claims: Claims[str] = Claims()
    claims.take("one", [A, B], 0.0)
    claims.take("two", [C], 0.0)
    claims.arrived([A, C, D])
    assert (claims.held("one"), claims.held("two"), len(claims)) == (1, 0, 1)
    assert claims.take("two", [A, B], 0.0) == [A]


def test_only_the_holder_gives_up_a_claim() -> None:
    claims: Claims[str] = Claims()
    claims.take("one", [A, B], 0.0)
    claims.release("two", [A, B, C])
    assert claims.take("two", [A, B], 0.0) == []
    claims.release("one", [A])
    assert claims.take("two", [A, B], 0.0) == [A]


# --- a claim is a lease ----------------------------------------------------------------------


def test_a_claim_lapses_when_its_holder_shows_no_progress() -> None:
    claims: Claims[str] = Claims()
    claims.take("one", [A], 100.0)
    assert claims.take("two", [A], 100.0 + LEASE - 0.01) == []
    assert claims.take("two", [A], 100.0 + LEASE) == [A]
    assert (claims.held("one"), claims.held("two"), len(claims)) == (0, 1, 1)


def test_a_lapsed_claim_may_be_taken_by_the_same_holder_again() -> None:
    claims: Claims[str] = Claims()
    claims.take("one", [A], 0.0)
    assert claims.take("one", [A], LEASE) == [A]
    assert claims.held("one") == 1
    assert claims.take("two", [A], LEASE + 1.0) == []


def test_progress_renews_the_claims_that_it_is_made_on() -> None:
    claims: Claims[str] = Claims()
    claims.take("one", [A, B], 0.0)
    claims.renew("one", [A, C], LEASE - 1.0)
    assert claims.take("two", [A, B, C], LEASE) == [B, C]
    assert claims.take("two", [A], 2 * LEASE - 1.01) == []
    assert claims.take("two", [A], 2 * LEASE - 1.0) == [A]


def test_only_the_holder_renews_a_claim() -> None:
    claims: Claims[str] = Claims()
    claims.take("one", [A], 0.0)
    claims.renew("two", [A], 20.0)
    assert claims.take("two", [A], LEASE) == [A]
    # The former holder wakes up: it has nothing to renew any more.
    claims.renew("one", [A], LEASE + 20.0)
    assert claims.take("three", [A], 2 * LEASE) == [A]


def test_late_progress_keeps_a_lapsed_claim_that_nobody_took() -> None:
    claims: Claims[str] = Claims()
    claims.take("one", [A], 0.0)
    claims.renew("one", [A], LEASE + 5.0)
    assert claims.take("two", [A], LEASE + 6.0) == []


# --- limits ----------------------------------------------------------------------------------


def test_one_holder_can_claim_only_so_much_whatever_there_is() -> None:
    claims: Claims[str] = Claims()
    many = [number.to_bytes(32, "big") for number in range(MAX_CLAIMS + 10)]
    assert claims.take("one", many[:9], 0.0) == many[:9]
    assert claims.take("one", many, 0.0) == many[9:MAX_CLAIMS]
    assert claims.held("one") == MAX_CLAIMS
    assert claims.take("one", many[MAX_CLAIMS:], 0.0) == []
    # The others are not limited by that, and room that is freed is room.
    assert claims.take("two", many, 0.0) == many[MAX_CLAIMS:]
    claims.arrived(many[:3])
    assert claims.take("one", many[:5], 0.0) == many[:3]


def test_a_holder_whose_claims_all_lapsed_may_claim_again() -> None:
    claims: Claims[str] = Claims()
    many = [number.to_bytes(32, "big") for number in range(MAX_CLAIMS)]
    claims.take("one", many, 0.0)
    assert claims.take("one", many, LEASE) == many


# --- penalties -------------------------------------------------------------------------------


def test_what_a_holder_could_not_deliver_is_asked_of_others_at_once() -> None:
    claims: Claims[str] = Claims()
    claims.take("one", [A, B], 0.0)
    claims.failed("one", [A], 10.0)
    assert claims.held("one") == 1
    assert claims.take("one", [A], 10.0) == []
    assert claims.take("two", [A], 10.0) == [A]


def test_a_penalty_ends() -> None:
    claims: Claims[str] = Claims()
    claims.failed("one", [A], 10.0)
    assert claims.take("one", [A, B], 10.0 + PENALTY - 0.01) == [B]
    assert claims.take("one", [A], 10.0 + PENALTY) == [A]


def test_another_failure_begins_the_penalty_anew() -> None:
    claims: Claims[str] = Claims()
    claims.failed("one", [A], 0.0)
    claims.failed("one", [A], 50.0)
    assert claims.take("one", [A], PENALTY) == []
    assert claims.take("one", [A], 50.0 + PENALTY) == [A]


def test_a_failure_does_not_free_what_somebody_else_has_claimed() -> None:
    claims: Claims[str] = Claims()
    claims.take("two", [A], 0.0)
    claims.failed("one", [A], 0.0)
    assert claims.take("three", [A], 0.0) == []
    assert claims.held("two") == 1


def test_the_oldest_penalty_is_forgotten_first() -> None:
    claims: Claims[str] = Claims()
    many = [number.to_bytes(32, "big") for number in range(MAX_PENALTIES)]
    claims.failed("one", many, 0.0)
    assert claims.take("one", many, 1.0) == []
    # The first one failed again, so that the second is now the oldest.
    claims.failed("one", many[:1], 1.0)
    claims.failed("two", many[:1], 1.0)
    assert claims.take("one", many, 1.0) == [many[1]]


# --- any course of events --------------------------------------------------------------------

holders = st.sampled_from(["one", "two", "three"])
digests = st.lists(st.sampled_from(blobs(0, 6)), max_size=8)


class ClaimsMachine(RuleBasedStateMachine):
    """Claims against their description, with nothing counted and nothing cleared away."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: Claims[str] = Claims()
        self.now = 0.0
        self.leases: dict[bytes, tuple[str, float]] = {}
        self.penalties: dict[tuple[str, bytes], float] = {}

    @rule(seconds=st.sampled_from([0.0, 1.0, LEASE - 1.0, LEASE, PENALTY - LEASE, PENALTY]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(holder=holders, wanted=digests)
    def take(self, holder: str, wanted: Sequence[bytes]) -> None:
        expected = []
        for digest in dict.fromkeys(wanted):
            claimed = digest in self.leases and self.now < self.leases[digest][1]
            barred = self.now < self.penalties.get((holder, digest), 0.0)
            if not claimed and not barred:
                expected.append(digest)
                self.leases[digest] = holder, self.now + LEASE
        assert self.claims.take(holder, wanted, self.now) == expected

    @rule(holder=holders, some=digests)
    def renew(self, holder: str, some: Sequence[bytes]) -> None:
        self.claims.renew(holder, some, self.now)
        for digest in some:
            if digest in self.leases and self.leases[digest][0] == holder:
                self.leases[digest] = holder, self.now + LEASE

    @rule(some=digests)
    def arrived(self, some: Sequence[bytes]) -> None:
        self.claims.arrived(some)
        for digest in some:
            self.leases.pop(digest, None)

    @rule(holder=holders, some=digests)
    def release(self, holder: str, some: Sequence[bytes]) -> None:
        self.claims.release(holder, some)
        self._give_up(holder, some)

    @rule(holder=holders, some=digests)
    def failed(self, holder: str, some: Sequence[bytes]) -> None:
        self.claims.failed(holder, some, self.now)
        self._give_up(holder, some)
        for digest in some:
            self.penalties[holder, digest] = self.now + PENALTY

    def _give_up(self, holder: str, some: Sequence[bytes]) -> None:
        for digest in some:
            if self.leases.get(digest, ("", 0.0))[0] == holder:
                del self.leases[digest]

    @invariant()
    def counts_are_those_of_the_leases(self) -> None:
        # What has lapsed may be counted until somebody looks at it.
        total = 0
        for holder in ("one", "two", "three"):
            all_of_it = [until for who, until in self.leases.values() if who == holder]
            live = [until for until in all_of_it if until > self.now]
            held = self.claims.held(holder)
            assert len(live) <= held <= len(all_of_it)
            total += held
        assert len(self.claims) == total


TestAnyCourseOfClaims = ClaimsMachine.TestCase
TestAnyCourseOfClaims.settings = settings(quick, max_examples=100, stateful_step_count=30)
