"""All times are numbers that the test makes up; all chance is seeded."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.schedule import (
    BACKOFF_BASE,
    BACKOFF_CAP,
    CONTACT_SPACING,
    FIRST_WITHIN,
    HINT_SPACING,
    JITTER,
    Schedule,
)
from tests.oracles import quick

NEVER = float("inf")
INTERVAL = 30.0
SAMPLES = 400


def samples(delay: Callable[[Schedule[str]], float], interval: float = INTERVAL) -> list[float]:
    """What `delay` measures on many fresh schedules, ascending."""
    return sorted(delay(Schedule(interval, Random(seed))) for seed in range(SAMPLES))


def fills(delays: list[float], low: float, high: float) -> bool:
    """Whether `delays`, ascending, stay within [low, high] and are spread over all of it."""
    width = high - low
    quarters = [low + width * part / 4 for part in range(5)]
    counts = [sum(a <= d <= b for d in delays) for a, b in pairwise(quarters)]
    return low <= delays[0] and delays[-1] <= high and min(counts) >= len(delays) // 8


def running(schedule: Schedule[str], peer: str = "a", now: float = 0.0) -> float:
    """Adds `peer` and begins its first round; gives the time of that."""
    schedule.add(peer, now)
    begun = schedule.next_due()
    assert schedule.take_due(begun) == [peer]
    return begun


def healthy(schedule: Schedule[str], now: float) -> None:
    """Adds "a" with a round that ended well at `now`."""
    schedule.add("a", now - FIRST_WITHIN)
    assert schedule.take_due(now) == ["a"]
    schedule.succeeded("a", now)


# --- rounds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("among", "interval", "within"),
    [
        (1, 30.0, 0.1),
        (2, 30.0, 0.2),
        (16, 30.0, 1.6),
        (50, 30.0, 5.0),
        (1000, 30.0, 5.0),
        (1000, 2.0, 2.0),
        (2, 0.05, 0.05),
    ],
)
def test_the_first_round_comes_at_random_and_sooner_where_there_are_few(
    among: int, interval: float, within: float
) -> None:
    """Of any of those that begin together: nobody who stands first in many lists is asked first."""

    def delay(schedule: Schedule[str]) -> float:
        schedule.add("a", 1000.0, among)
        return schedule.next_due() - 1000.0

    assert fills(samples(delay, interval), 0.0, within)


def test_a_healthy_peer_comes_again_after_the_interval_give_or_take_a_fifth() -> None:
    def delay(schedule: Schedule[str]) -> float:
        healthy(schedule, 1000.0)
        return schedule.next_due() - 1000.0

    assert JITTER == 0.2
    assert fills(samples(delay), INTERVAL * 0.8, INTERVAL * 1.2)


def test_peers_added_together_do_not_stay_together() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    for peer in range(50):
        schedule.add(peer, 0.0, among=50)
    taken = [schedule.take_due(at / 10) for at in range(51)]
    assert sorted(peer for some in taken for peer in some) == list(range(50))
    assert max(len(some) for some in taken) <= 5


def test_a_round_is_due_at_its_time_and_not_before() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    healthy(schedule, 100.0)
    due = schedule.next_due()
    assert schedule.take_due(due - 0.001) == []
    assert schedule.take_due(due) == ["a"]


def test_a_running_peer_is_not_due_again_however_long_it_runs() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    begun = running(schedule)
    assert schedule.next_due() == NEVER
    assert schedule.take_due(begun + 1_000_000.0) == []
    schedule.succeeded("a", begun + 1_000_000.0)
    assert schedule.next_due() >= begun + 1_000_000.0


def test_one_peer_that_runs_or_fails_does_not_delay_another() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    schedule.add("slow", 0.0)
    schedule.add("dead", 0.0)
    schedule.add("well", 0.0)
    assert sorted(schedule.take_due(5.0)) == ["dead", "slow", "well"]
    rounds, now = 0, 5.0
    schedule.succeeded("well", now)
    schedule.failed("dead", now)
    while now < 3600.0:
        now = schedule.next_due()
        for peer in schedule.take_due(now):
            if peer == "dead":
                schedule.failed(peer, now)
            else:
                assert peer == "well"
                rounds += 1
                schedule.succeeded(peer, now)
    assert 3600 / (INTERVAL * 1.2) <= rounds <= 3600 / (INTERVAL * 0.8)


def test_without_peers_nothing_is_ever_due() -> None:
    schedule: Schedule[str] = Schedule(INTERVAL, Random(1))
    assert schedule.next_due() == NEVER
    assert schedule.take_due(1e9) == []


@pytest.mark.parametrize("begun", [False, True], ids=["waiting", "running"])
def test_a_removed_peer_is_gone_whatever_is_still_said_of_it(begun: bool) -> None:
    schedule = Schedule(INTERVAL, Random(1))
    if begun:
        running(schedule)
    else:
        schedule.add("a", 0.0)
    schedule.remove("a")
    schedule.succeeded("a", 10.0)
    schedule.failed("a", 10.0)
    schedule.hint("a", 10.0)
    schedule.contacted("a", 10.0)
    schedule.remove("a")
    assert schedule.next_due() == NEVER
    assert schedule.take_due(1e9) == []
    assert schedule.failures("a") == 0


# --- backoff ---------------------------------------------------------------------------------


def fail(schedule: Schedule[str], times: int) -> float:
    """The delay that "a" is given when its first `times` rounds have failed."""
    now = running(schedule)
    for _ in range(times - 1):
        schedule.failed("a", now)
        now = schedule.next_due()
        assert schedule.take_due(now) == ["a"]
    schedule.failed("a", now)
    assert schedule.failures("a") == times
    return schedule.next_due() - now


@pytest.mark.parametrize(
    ("failures", "ceiling"), [(1, 2.0), (2, 4.0), (3, 8.0), (8, 256.0), (9, 300.0), (20, 300.0)]
)
def test_the_delay_after_failures_is_anything_up_to_a_doubling_ceiling(
    failures: int, ceiling: float
) -> None:
    measured = samples(lambda schedule: fail(schedule, failures))
    # A little beyond the ends, for what is lost to rounding at large times.
    assert fills(measured, -1e-9, ceiling + 1e-9)


def test_a_peer_may_be_down_for_months() -> None:
    # 2.0 ** 2000 is more than a float can be.
    assert 0 <= fail(Schedule(INTERVAL, Random(1)), 2000) <= BACKOFF_CAP


@pytest.mark.parametrize(
    ("wish", "bound"), [(20.0, 20.0), (1e9, BACKOFF_CAP), (0.0, 0.0), (-5.0, 0.0)]
)
def test_a_peers_own_wish_is_a_lower_bound_but_no_way_to_be_left_alone(
    wish: float, bound: float
) -> None:
    def delay(schedule: Schedule[str]) -> float:
        now = running(schedule)
        schedule.failed("a", now, retry_after=wish)
        return schedule.next_due() - now

    measured = samples(delay)
    assert measured[0] == pytest.approx(bound, abs=0.1)
    assert measured[-1] <= max(bound, 2 * BACKOFF_BASE) + 1e-9


def test_a_success_ends_the_backoff() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    now = running(schedule)
    for _ in range(20):
        schedule.failed("a", now)
        now = schedule.next_due()
        assert schedule.take_due(now) == ["a"]
    schedule.succeeded("a", now)
    assert schedule.failures("a") == 0
    assert INTERVAL * 0.8 <= schedule.next_due() - now <= INTERVAL * 1.2
    schedule.take_due(schedule.next_due())
    schedule.failed("a", 0.0)
    assert schedule.next_due() <= 2 * BACKOFF_BASE


def test_being_contacted_ends_the_backoff_within_a_second_at_random() -> None:
    def delay(schedule: Schedule[str]) -> float:
        now = running(schedule)
        while schedule.next_due() < now + 100.0 or schedule.next_due() == float("inf"):
            schedule.failed("a", now)
        schedule.contacted("a", now + 50.0)
        assert schedule.failures("a") == 0
        return schedule.next_due() - now - 50.0

    assert fills(samples(delay), -1e-9, BACKOFF_BASE + 1e-9)


def test_contacts_without_end_reset_the_backoff_no_more_often_than_they_may() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    now = running(schedule)
    schedule.failed("a", now)
    resets = 0
    for step in range(1000):
        at = now + step / 10
        if at >= schedule.next_due():
            assert schedule.take_due(at) == ["a"]
            schedule.failed("a", at)
        before = schedule.failures("a")
        schedule.contacted("a", at)
        resets += schedule.failures("a") < before
    assert resets == 100.0 / CONTACT_SPACING


def test_neither_contact_nor_hint_overrides_what_a_busy_peer_asked_for() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    now = running(schedule)
    schedule.failed("a", now, retry_after=200.0)
    schedule.contacted("a", now + 50.0)
    schedule.hint("a", now + 60.0)
    assert schedule.next_due() == now + 200.0


def test_being_contacted_does_not_put_off_what_is_due_sooner() -> None:
    for seed in range(50):
        schedule = Schedule(INTERVAL, Random(seed))
        now = running(schedule)
        schedule.failed("a", now)
        due = schedule.next_due()
        schedule.contacted("a", due - 0.001)
        assert schedule.next_due() <= due


def test_a_healthy_peer_is_not_due_sooner_for_contacting_us() -> None:
    # Every request of its own descent is a contact: they must not call for rounds in return.
    schedule = Schedule(INTERVAL, Random(1))
    healthy(schedule, 100.0)
    due = schedule.next_due()
    for at in range(100, 120):
        schedule.contacted("a", float(at))
    assert schedule.next_due() == due


def test_a_contact_during_a_round_does_not_begin_another() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    now = running(schedule)
    schedule.failed("a", now)
    now = schedule.next_due()
    schedule.take_due(now)
    schedule.contacted("a", now)
    assert schedule.next_due() == NEVER
    assert schedule.take_due(now + 100.0) == []


# --- hints -----------------------------------------------------------------------------------


def test_a_hint_brings_the_round_forward_to_now() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    healthy(schedule, 100.0)
    schedule.hint("a", 105.0)
    assert schedule.next_due() == 105.0


def test_a_hint_right_after_a_round_waits_for_a_second_to_pass() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    healthy(schedule, 100.0)
    schedule.hint("a", 100.25)
    assert schedule.next_due() == 100.0 + HINT_SPACING


def test_a_hint_does_not_put_off_what_is_due_sooner() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    healthy(schedule, 100.0)
    due = schedule.next_due()
    schedule.hint("a", due + 3.0)
    assert schedule.next_due() == due


def test_a_hint_before_the_first_round_begins_it() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    schedule.add("a", 100.0)
    schedule.hint("a", 100.0)
    assert schedule.next_due() == 100.0


def test_a_hint_during_a_round_is_followed_by_another_round() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    begun = running(schedule)
    schedule.hint("a", begun + 1.0)
    assert schedule.next_due() == NEVER
    schedule.succeeded("a", begun + 10.0)
    assert schedule.next_due() == begun + 10.0 + HINT_SPACING
    # And by one only.
    schedule.take_due(schedule.next_due())
    schedule.succeeded("a", begun + 12.0)
    assert schedule.next_due() >= begun + 12.0 + INTERVAL * 0.8


def test_a_hint_during_a_round_that_fails_does_not_end_the_backoff() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    begun = running(schedule)
    schedule.hint("a", begun)
    schedule.failed("a", begun, retry_after=100.0)
    assert schedule.next_due() == pytest.approx(begun + 100.0)


def test_a_storm_of_hints_makes_a_round_a_second() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    healthy(schedule, 0.0)
    begun = []
    for tick in range(1000):
        now = tick / 100
        schedule.hint("a", now)
        for peer in schedule.take_due(now):
            begun.append(now)
            schedule.succeeded(peer, now)
    assert 9 <= len(begun) <= 10
    assert all(b - a >= HINT_SPACING for a, b in pairwise(begun))


def test_a_hint_between_rounds_makes_one_round_not_two() -> None:
    schedule = Schedule(INTERVAL, Random(1))
    healthy(schedule, 100.0)
    schedule.hint("a", 105.0)
    assert schedule.take_due(105.0) == ["a"]
    schedule.succeeded("a", 106.0)
    assert schedule.next_due() >= 106.0 + INTERVAL * 0.8


# --- any course of events --------------------------------------------------------------------

events = st.lists(
    st.tuples(
        st.sampled_from(["take", "succeeded", "failed", "hint", "contacted", "remove", "add"]),
        st.sampled_from("abc"),
        st.sampled_from([0.0, 0.1, 1.0, 7.0, 400.0]),
    ),
    max_size=40,
)


@quick
@given(events, st.integers(0, 99))
def test_a_peer_runs_at_most_once_at_a_time_and_is_never_forgotten(
    course: list[tuple[str, str, float]], seed: int
) -> None:
    schedule = Schedule(INTERVAL, Random(seed))
    waiting, running, now = set(), set(), 0.0
    for event, peer, passed in course:
        now += passed
        if event == "take":
            due = schedule.take_due(now)
            assert set(due) <= waiting
            assert len(set(due)) == len(due)
            waiting -= set(due)
            running |= set(due)
            assert schedule.next_due() > now
        elif event == "add" and peer not in waiting | running:
            schedule.add(peer, now)
            waiting.add(peer)
        elif event == "remove":
            schedule.remove(peer)
            waiting.discard(peer)
            running.discard(peer)
        elif event in ("hint", "contacted"):
            getattr(schedule, event)(peer, now)
        elif event in ("succeeded", "failed") and peer in running:
            getattr(schedule, event)(peer, now)
            running.discard(peer)
            waiting.add(peer)
        assert (schedule.next_due() < NEVER) == bool(waiting)
    assert set(schedule.take_due(now + BACKOFF_CAP)) == waiting
