"""All times are numbers that the test makes up."""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mesh.core.claims import (
    DOUBT,
    LEASE,
    MAX_CLAIMS,
    MAX_DOUBTS,
    MAX_PENALTIES,
    MAX_PROMISES,
    NOTICE,
    PENALTY,
    Claims,
)
from mesh.core.digest import Digest
from mesh.core.holder import CLIENT, Anonymous, Configured, Holder
from tests.oracles import blobs, quick

A, B, C, D = blobs(0, 4)
ONE, TWO, THREE = (Configured(f"http://{name}:7280") for name in ("one", "two", "three"))


def many_names(count: int) -> list[Digest]:
    return [Digest(number.to_bytes(32, "big")) for number in range(count)]


# --- claims exclude one another --------------------------------------------------------------


def test_what_is_claimed_is_granted_to_nobody_else() -> None:
    claims = Claims()
    assert claims.take(ONE, [A, B], 0.0) == [A, B]
    assert claims.take(TWO, [B, C], 0.0) == [C]
    assert claims.held(ONE) == 2
    assert claims.held(TWO) == 1
    assert len(claims) == 3


def test_what_is_claimed_is_not_granted_again_to_its_holder() -> None:
    # It is on its way: to take it twice would be to fetch it twice.
    claims = Claims()
    assert claims.take(ONE, [A, A, B], 0.0) == [A, B]
    assert claims.take(ONE, [B, A, C], 1.0) == [C]
    assert claims.held(ONE) == 3


def test_grants_keep_the_order_of_what_was_wanted() -> None:
    claims = Claims()
    assert claims.take(ONE, iter([C, A, D, B]), 0.0) == [C, A, D, B]


def test_what_arrived_is_claimed_no_more_whoever_brought_it() -> None:
    claims = Claims()
    claims.take(ONE, [A, B], 0.0)
    claims.take(TWO, [C], 0.0)
    claims.arrived([A, C, D])
    assert (claims.held(ONE), claims.held(TWO), len(claims)) == (1, 0, 1)
    assert claims.take(TWO, [A, B], 0.0) == [A]


def test_only_the_holder_gives_up_a_claim() -> None:
    claims = Claims()
    claims.take(ONE, [A, B], 0.0)
    claims.release(TWO, [A, B, C], 0.0)
    assert claims.take(TWO, [A, B], 0.0) == []
    claims.release(ONE, [A], 0.0)
    assert claims.take(TWO, [A, B], 0.0) == [A]


# --- a claim is a lease ----------------------------------------------------------------------


def test_a_claim_lapses_when_its_holder_shows_no_progress() -> None:
    claims = Claims()
    claims.take(ONE, [A], 100.0)
    assert claims.take(TWO, [A], 100.0 + LEASE - 0.01) == []
    assert claims.take(TWO, [A], 100.0 + LEASE) == [A]
    assert (claims.held(ONE), claims.held(TWO), len(claims)) == (0, 1, 1)


def test_a_lapsed_claim_may_be_taken_by_the_same_holder_again() -> None:
    claims = Claims()
    claims.take(ONE, [A], 0.0)
    assert claims.take(ONE, [A], LEASE) == [A]
    assert claims.held(ONE) == 1
    assert claims.take(TWO, [A], LEASE + 1.0) == []


def test_progress_renews_the_claims_that_it_is_made_on() -> None:
    claims = Claims()
    claims.take(ONE, [A, B], 0.0)
    claims.renew(ONE, [A, C], LEASE - 1.0)
    assert claims.take(TWO, [A, B, C], LEASE) == [B, C]
    assert claims.take(TWO, [A], 2 * LEASE - 1.01) == []
    assert claims.take(TWO, [A], 2 * LEASE - 1.0) == [A]


def test_only_the_holder_renews_a_claim() -> None:
    claims = Claims()
    claims.take(ONE, [A], 0.0)
    claims.renew(TWO, [A], 20.0)
    assert claims.take(TWO, [A], LEASE) == [A]
    # The former holder wakes up: it has nothing to renew any more.
    claims.renew(ONE, [A], LEASE + 20.0)
    assert claims.take(THREE, [A], 2 * LEASE) == [A]


def test_late_progress_keeps_a_lapsed_claim_that_nobody_took() -> None:
    claims = Claims()
    claims.take(ONE, [A], 0.0)
    claims.renew(ONE, [A], LEASE + 5.0)
    assert claims.take(TWO, [A], LEASE + 6.0) == []


# --- limits ----------------------------------------------------------------------------------


def test_one_holder_can_claim_only_so_much_whatever_there_is() -> None:
    claims = Claims()
    many = [number.to_bytes(32, "big") for number in range(MAX_CLAIMS + 10)]
    assert claims.take(ONE, many[:9], 0.0) == many[:9]
    assert claims.take(ONE, many, 0.0) == many[9:MAX_CLAIMS]
    assert claims.held(ONE) == MAX_CLAIMS
    assert claims.take(ONE, many[MAX_CLAIMS:], 0.0) == []
    # The others are not limited by that, and room that is freed is room.
    assert claims.take(TWO, many, 0.0) == many[MAX_CLAIMS:]
    claims.arrived(many[:3])
    assert claims.take(ONE, many[:5], 0.0) == many[:3]


def test_a_holder_whose_claims_all_lapsed_may_claim_again() -> None:
    claims = Claims()
    many = [number.to_bytes(32, "big") for number in range(MAX_CLAIMS)]
    claims.take(ONE, many, 0.0)
    assert claims.take(ONE, many, LEASE) == many


# --- penalties -------------------------------------------------------------------------------


def test_what_a_holder_could_not_deliver_is_asked_of_others_at_once() -> None:
    claims = Claims()
    claims.take(ONE, [A, B], 0.0)
    claims.failed(ONE, [A], 5.0)
    assert claims.held(ONE) == 1
    assert claims.take(ONE, [A], 5.0) == []
    assert claims.take(TWO, [A], 5.0) == [A]


def test_a_penalty_ends() -> None:
    claims = Claims()
    claims.failed(ONE, [A], 10.0)
    assert claims.take(ONE, [A, B], 10.0 + PENALTY - 0.01) == [B]
    assert claims.take(ONE, [A], 10.0 + PENALTY) == [A]


def test_another_failure_begins_the_penalty_anew() -> None:
    claims = Claims()
    claims.failed(ONE, [A], 0.0)
    claims.failed(ONE, [A], 50.0)
    assert claims.take(ONE, [A], PENALTY) == []
    assert claims.take(ONE, [A], 50.0 + PENALTY) == [A]


def test_a_failure_does_not_free_what_somebody_else_has_claimed() -> None:
    claims = Claims()
    claims.take(TWO, [A], 0.0)
    claims.failed(ONE, [A], 0.0)
    assert claims.take(THREE, [A], 0.0) == []
    assert claims.held(TWO) == 1


def test_the_oldest_penalty_is_forgotten_first() -> None:
    claims = Claims()
    many = [number.to_bytes(32, "big") for number in range(MAX_PENALTIES)]
    claims.failed(ONE, many, 0.0)
    assert claims.take(ONE, many, 1.0) == []
    # The first one failed again, so that the second is now the oldest.
    claims.failed(ONE, many[:1], 1.0)
    claims.failed(TWO, many[:1], 1.0)
    assert claims.take(ONE, many, 1.0) == [many[1]]


# --- promises: what strangers offer ----------------------------------------------------------


def test_what_is_promised_is_asked_of_nobody_for_one_lease() -> None:
    claims = Claims()
    assert claims.promise([A, A, B], 0.0) == [A, B]
    assert claims.promise([A], 1.0) == []
    assert claims.take(ONE, [A, C], LEASE - 0.01) == [C]
    assert claims.is_held(A, LEASE - 0.01)
    assert A in claims
    assert claims.take(ONE, [A], LEASE) == [A]


def test_what_a_peer_has_claimed_is_not_wanted_from_strangers() -> None:
    claims = Claims()
    claims.take(ONE, [A], 0.0)
    assert claims.promise([A, B], 1.0) == [B]
    assert claims.promise([A], LEASE) == [A]


def test_a_lease_is_neither_renewed_nor_given_up_by_strangers() -> None:
    claims = Claims()
    claims.take(ONE, [A], 0.0)
    claims.release(Anonymous(b"one"), [A], 1.0)
    claims.failed(Anonymous(b"one"), [A], 1.0)
    assert not claims.pushing(A, LEASE - 1.0)
    assert claims.take(TWO, [A], LEASE - 0.01) == []
    assert claims.take(TWO, [A], LEASE) == [A]


def test_a_client_has_no_claims_to_give_up() -> None:
    claims = Claims()
    claims.take(ONE, [A], 0.0)
    claims.promise([B], 0.0)
    claims.failed(CLIENT, [A, B], 0.0)
    assert claims.take(TWO, [A, B], 0.0) == []


def test_a_push_renews_its_promise_until_a_peer_asks_for_the_blob() -> None:
    claims = Claims()
    claims.promise([A], 0.0)
    for second in range(1, 100):
        assert claims.pushing(A, float(second))
    assert claims.take(ONE, [A], 99.5) == []
    last = 99.0 + LEASE
    assert claims.pushing(A, last - NOTICE - 0.01)
    # It ends in time for the peer to go on with what it has brought.
    assert not claims.pushing(A, last - NOTICE)
    claims.release(Anonymous(), [A], last - NOTICE)
    assert claims.take(ONE, [A], last - NOTICE) == [A]


def test_a_broken_promise_makes_the_digest_doubtful_and_nobody_else() -> None:
    """However it was broken, and whoever offers it then: it keeps the blob from nobody."""
    for broken in (
        lambda claims: claims.take(ONE, [C], LEASE),
        lambda claims: claims.release(Anonymous(b"liar"), [A], LEASE - 1.0),
        lambda claims: claims.failed(Anonymous(b"liar"), [A], LEASE - 1.0),
    ):
        claims = Claims()
        claims.promise([A], 0.0)
        broken(claims)
        now = LEASE
        assert claims.promise([A, B], now) == [A, B]
        assert claims.promise([A, B], now) == [A]  # also the next one is told to push it
        assert claims.take(ONE, [A, B], now) == [A]


def test_doubt_lasts_as_long_as_it_is_offered_again_and_ends_when_the_blob_comes() -> None:
    claims = Claims()
    claims.promise([A, B], 0.0)
    claims.promise([A], LEASE)
    claims.promise([A], DOUBT)
    assert claims.promise([A, B], LEASE + DOUBT) == [A, B]
    assert claims.take(ONE, [A, B], LEASE + DOUBT) == [A]  # B is trusted again
    claims.arrived([A])
    claims.promise([A], LEASE + DOUBT)
    assert claims.take(TWO, [A], LEASE + DOUBT) == []


def test_a_full_table_keeps_no_blob_away() -> None:
    claims = Claims()
    names = many_names(MAX_PROMISES + 1)
    assert claims.promise(names, 0.0) == names
    assert len(claims) == MAX_PROMISES
    assert claims.promise(names[-1:], 0.0) == names[-1:]
    assert claims.take(ONE, names[-1:], 0.0) == names[-1:]


def test_too_many_broken_promises_make_every_digest_doubtful() -> None:
    claims = Claims()
    names = many_names(MAX_DOUBTS)
    claims.promise([A], 0.0)
    claims.promise(names, LEASE)
    assert claims.promise([A, B], 2 * LEASE) == [A, B]  # A is pushed out of the table by then
    assert claims.take(ONE, [A, B], 2 * LEASE) == [A, B]
    assert claims.promise([C], 2 * LEASE + DOUBT) == [C]
    assert claims.take(ONE, [C], 2 * LEASE + DOUBT) == []


waits = st.sampled_from([0.0, 0.5, 1.0, LEASE / 2, LEASE - 0.5, LEASE])
names_of_strangers = st.binary(max_size=2).map(Anonymous)
attacks = st.lists(
    st.tuples(
        st.sampled_from([*3 * ["offer"], *2 * ["push"], "release", "fail", "wait", "flood"]),
        names_of_strangers,
        waits,
    ),
    max_size=20,
)
# The table of promises in these two properties, so that a flood of it takes no time: how large it
# is does not matter to them.
SMALL_TABLE = 64
FLOOD = many_names(SMALL_TABLE + 1)


def attack(claims: Claims, step: str, who: Anonymous, digest: Digest, now: float) -> bool:
    """One thing that a stranger does; whether it was told to push the blob."""
    if step == "offer":
        return claims.promise([digest], now) == [digest]
    if step == "push":
        claims.pushing(digest, now)
    elif step == "release":
        claims.release(who, [digest], now)
    elif step == "fail":
        claims.failed(who, [digest], now)
    elif step == "flood":
        claims.promise(FLOOD, now)
    return False


@patch("mesh.core.claims.MAX_PROMISES", SMALL_TABLE)
@settings(quick, max_examples=100)
@given(attacks, attacks)
def test_whatever_strangers_do_a_peer_gets_its_claim_within_one_lease(
    before: list[tuple[str, Anonymous, float]], after: list[tuple[str, Anonymous, float]]
) -> None:
    claims = Claims()
    now = 0.0
    for step, who, wait in before:
        attack(claims, step, who, A, now)
        now += wait
    if claims.take(ONE, [A], now):
        return
    asked = now
    for step, who, wait in after:
        if now + wait > asked + LEASE:
            break
        now += wait
        attack(claims, step, who, A, now)
    # Right before it asks again, somebody offers it once more.
    attack(claims, "offer", Anonymous(b"last"), A, asked + LEASE)
    assert claims.take(ONE, [A], asked + LEASE) == [A]


@patch("mesh.core.claims.MAX_PROMISES", SMALL_TABLE)
@quick
@given(attacks)
def test_whatever_strangers_do_an_honest_one_is_told_to_push_within_one_lease(
    steps: list[tuple[str, Anonymous, float]],
) -> None:
    """But for pushes that make progress: their bytes count as honest until they have all come."""
    claims = Claims()
    now, refused = 0.0, None
    for step, who, wait in steps:
        if step != "push":
            attack(claims, step, who, A, now)
        if claims.promise([A], now) == [A]:
            return
        refused = now if refused is None else refused
        assert now < refused + LEASE
        now += wait


# --- any course of events --------------------------------------------------------------------

holders = st.sampled_from([ONE, TWO, THREE])
anybody = st.sampled_from([ONE, TWO, THREE, Anonymous(b"one"), Anonymous(b"x"), CLIENT])
digests = st.lists(st.sampled_from(blobs(0, 6)), max_size=8)


class ClaimsMachine(RuleBasedStateMachine):
    """Claims against their description, with nothing counted and nothing cleared away."""

    def __init__(self) -> None:
        super().__init__()
        self.claims = Claims()
        self.now = 0.0
        self.leases: dict[bytes, tuple[Configured, float]] = {}
        self.promises: dict[bytes, tuple[float, bool]] = {}
        self.doubts: dict[bytes, float] = {}
        self.penalties: dict[tuple[Configured, bytes], float] = {}

    @rule(seconds=st.sampled_from([0.0, 1.0, LEASE - 1.0, LEASE, PENALTY - LEASE, PENALTY]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    def promised(self, digest: bytes) -> bool:
        """Whether there is a live promise; one that is over leaves a doubt."""
        until, _ = self.promises.get(digest, (None, False))
        if until is not None and until <= self.now:
            del self.promises[digest]
            self.doubts[digest] = until + DOUBT
            return False
        return until is not None

    def leased(self, digest: bytes) -> bool:
        return digest in self.leases and self.now < self.leases[digest][1]

    @rule(holder=holders, wanted=digests)
    def take(self, holder: Configured, wanted: Sequence[Digest]) -> None:
        expected = []
        for digest in dict.fromkeys(wanted):
            barred = self.now < self.penalties.get((holder, digest), 0.0)
            if self.leased(digest) or barred:
                continue
            if self.promised(digest):
                self.promises[digest] = self.promises[digest][0], True
                continue
            expected.append(digest)
            self.leases[digest] = holder, self.now + LEASE
        assert self.claims.take(holder, wanted, self.now) == expected

    @rule(offered=digests)
    def promise(self, offered: Sequence[Digest]) -> None:
        expected = []
        for digest in dict.fromkeys(offered):
            if self.leased(digest) or self.promised(digest):
                continue
            expected.append(digest)
            if self.doubts.get(digest, 0.0) > self.now:
                self.doubts[digest] = self.now + DOUBT
            else:
                self.promises[digest] = self.now + LEASE, False
        assert self.claims.promise(offered, self.now) == expected

    @rule(digest=st.sampled_from(blobs(0, 6)))
    def pushing(self, digest: Digest) -> None:
        expected = not self.leased(digest)
        if expected and self.promised(digest):
            until, waited_for = self.promises[digest]
            if waited_for:
                expected = until - self.now > NOTICE
            else:
                self.promises[digest] = self.now + LEASE, False
        assert self.claims.pushing(digest, self.now) == expected

    @rule(holder=holders, some=digests)
    def renew(self, holder: Configured, some: Sequence[Digest]) -> None:
        self.claims.renew(holder, some, self.now)
        for digest in some:
            if digest in self.leases and self.leases[digest][0] == holder:
                self.leases[digest] = holder, self.now + LEASE

    @rule(some=digests)
    def arrived(self, some: Sequence[Digest]) -> None:
        self.claims.arrived(some)
        for digest in some:
            self.leases.pop(digest, None)
            self.promises.pop(digest, None)
            self.doubts.pop(digest, None)

    @rule(holder=anybody, some=digests)
    def release(self, holder: Holder, some: Sequence[Digest]) -> None:
        self.claims.release(holder, some, self.now)
        self._give_up(holder, some)

    @rule(holder=anybody, some=digests)
    def failed(self, holder: Holder, some: Sequence[Digest]) -> None:
        self.claims.failed(holder, some, self.now)
        self._give_up(holder, some)
        for digest in some if isinstance(holder, Configured) else ():
            self.penalties[holder, digest] = self.now + PENALTY

    def _give_up(self, holder: Holder, some: Sequence[Digest]) -> None:
        # Whoever gives up looks at the clock: what is over by then is over for everybody.
        self.leases = {d: lease for d, lease in self.leases.items() if lease[1] > self.now}
        for digest in some:
            if isinstance(holder, Anonymous):
                if self.promised(digest):
                    del self.promises[digest]
                    self.doubts[digest] = self.now + DOUBT
            elif digest in self.leases and self.leases[digest][0] == holder:
                del self.leases[digest]

    @invariant()
    def counts_are_those_of_the_leases(self) -> None:
        # What has lapsed may be counted until somebody looks at it.
        for holder in (ONE, TWO, THREE):
            all_of_it = [until for who, until in self.leases.values() if who == holder]
            live = [until for until in all_of_it if until > self.now]
            assert len(live) <= self.claims.held(holder) <= len(all_of_it)

    @invariant()
    def what_is_held_is_what_lives(self) -> None:
        for digest in blobs(0, 6):
            live = self.leased(digest) or self.promised(digest)
            assert self.claims.is_held(digest, self.now) == live


TestAnyCourseOfClaims = ClaimsMachine.TestCase
TestAnyCourseOfClaims.settings = settings(quick, max_examples=100, stateful_step_count=30)
