from __future__ import annotations

from itertools import pairwise
from random import Random

import msgspec
import pytest

from mesh.core.scrub import (
    DAY,
    FIRST,
    JITTER,
    RETRY,
    SETTLE,
    SLOWEST,
    STEP_LEAST,
    STEP_MOST,
    Pass,
    Saved,
    Scrub,
    Stepped,
)

MB = 1_000_000


def scrub(rate: float = 10 * MB, days: float = 30.0, seed: int = 0, now: float = 0.0) -> Scrub:
    return Scrub(rate, days, Random(seed), now)


def drive(it: Scrub, now: float, size: int, *, busy: bool = False, took: float = 0.0) -> float:
    """A whole pass over `size` bytes, each step taken when it is due; when it ended."""
    read = 0
    while True:
        now = max(now, it.next())
        if not it.running:
            it.begin(now)
        part = min(it.room, size - read)
        read += part
        now += took
        place = None if read == size else (1, read, 0)
        it.stepped(Stepped(place, 1, part, 0), busy=busy, now=now)
        if place is None:
            return now


def test_the_first_pass_begins_at_random_in_the_first_tenth_of_the_period() -> None:
    starts = [scrub(seed=seed).next() for seed in range(200)]
    assert all(SETTLE <= start <= FIRST * 30 * DAY for start in starts)
    assert max(starts) - min(starts) > FIRST * 20 * DAY


def test_passes_begin_a_period_apart_give_or_take_the_jitter() -> None:
    it, now, begins = scrub(), 0.0, []
    for _ in range(100):
        begins.append(max(now, it.next()))
        now = drive(it, now, 50 * MB)
    apart = [after - before for before, after in pairwise(begins)]
    assert all(30 * DAY * (1 - JITTER) - 1 <= each <= 30 * DAY * (1 + JITTER) + 1 for each in apart)
    assert max(apart) - min(apart) > 30 * DAY * JITTER
    assert it.passes == 100


def test_a_pass_that_takes_longer_than_the_period_is_followed_by_the_next() -> None:
    it = scrub(rate=10_000, days=0.001)
    ended = drive(it, it.next(), 2 * MB)
    assert ended > 0.002 * DAY
    assert it.next() - ended <= 2.0


@pytest.mark.parametrize("rate", [5000, 200_000, 10 * MB, 500 * MB])
@pytest.mark.parametrize("took", [0.0, 0.5])
def test_the_rate_is_kept_whatever_a_step_takes(rate: int, took: float) -> None:
    it = scrub(rate=rate)
    size, share = 300 * it.room, took * it.room / rate  # of the time of a step
    began = it.next()
    seconds = drive(it, began, size, took=share) - began
    assert seconds == pytest.approx(size / rate, rel=0.02, abs=2 * share)


def test_what_was_missed_while_the_machine_stood_still_is_not_made_up_for() -> None:
    it = scrub()
    it.start(0.0)
    it.stepped(Stepped((1, 1, 0), 1, MB, 0), busy=False, now=10_000.0)
    due = [it.next()]
    for _ in range(50):
        now = max(10_000.0, due[-1])
        it.stepped(Stepped((1, 1, 0), 1, MB, 0), busy=False, now=now)
        due.append(it.next())
    # Ten steps are those of the second that is made up for, the others come at the rate.
    assert due[-1] >= 10_000.0 + (50 - 10) * 0.1 - 0.1


def test_it_slows_down_while_others_read_and_recovers() -> None:
    it = scrub()
    it.start(0.0)
    gaps = []
    for busy in [True] * 8 + [False] * 8:
        now = it.next()
        it.stepped(Stepped((1, 1, 0), 1, MB, 0), busy=busy, now=now)
        gaps.append((it.next() - now) / 0.1)
    assert gaps[:4] == pytest.approx([2, 4, 8, SLOWEST])
    assert gaps[4:8] == pytest.approx([SLOWEST] * 4)
    assert gaps[8:12] == pytest.approx([5, 2.5, 1.25, 1])
    assert it.rate == 10 * MB


def test_a_paused_scrub_does_nothing_until_it_is_resumed_or_started() -> None:
    it = scrub()
    it.start(5.0)
    assert it.running
    it.stepped(Stepped((3, 4, 5), 1, MB, 1), busy=False, now=5.0)
    it.pause()
    assert it.next() == float("inf")
    it.resume(100.0)
    assert it.next() == 100.0
    assert it.place == (3, 4, 5)
    it.pause()
    it.start(200.0)
    assert it.next() == 200.0
    assert it.place == (3, 4, 5), "start goes on with the pass under way"


def test_an_error_is_waited_out() -> None:
    it = scrub()
    it.start(0.0)
    it.failed(7.0)
    assert it.next() == 7.0 + RETRY
    assert it.running


def test_everything_is_there_after_a_restart() -> None:
    it = scrub()
    it.start(1000.0)
    it.stepped(Stepped((2, 300, 7), 3, MB, 2), busy=False, now=1001.0)
    kept = msgspec.json.decode(msgspec.json.encode(it.saved(1060.0)), type=Saved)
    again = Scrub(10 * MB, 30.0, Random(9), 50.0, kept)
    assert (again.place, again.running, again.paused) == ((2, 300, 7), True, False)
    assert again.current == Pass(3, MB, 2, 1.0)
    assert again.next() == 50.0 + SETTLE
    ended = drive(again, 60.0, 10)
    # The time that the process was down does not count: 60 s had passed.
    due = again.next() - ended
    assert 27 * DAY - 100 <= due <= 33 * DAY
    assert again.before == again.current
    paused = again
    paused.pause()
    once_more = Scrub(10 * MB, 30.0, Random(9), 0.0, paused.saved(ended))
    assert once_more.next() == float("inf")
    assert once_more.passes == 1


@pytest.mark.parametrize(("rate", "room"), [(10**9, STEP_MOST), (500_000, 50_000), (1, STEP_LEAST)])
def test_a_step_is_small(rate: int, room: int) -> None:
    assert scrub(rate=rate).room == room
