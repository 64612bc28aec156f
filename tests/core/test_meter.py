"""Rates against an oracle that keeps every event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.digest import Digest
from mesh.core.meter import WINDOW, Meter, seconds_left
from tests.oracles import quick

A, B = (Digest(bytes((number,)) * 32) for number in (1, 2))

steps = st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(1, 10**9)), min_size=1, max_size=60)


@quick
@given(steps, st.floats(0.0, 30.0))
def test_a_rate_is_between_the_bytes_of_the_last_seconds_and_what_they_may_be(
    moves: list[tuple[float, int]], later: float
) -> None:
    meter, now, all_of_them = Meter(), 100.0, []
    for pause, size in moves:
        now += pause
        meter.moved(size, now)
        all_of_them.append((now, size))
    now += later
    surely = sum(size for at, size in all_of_them if at >= now - WINDOW + 1)
    maybe = sum(size for at, size in all_of_them if at >= now - WINDOW - 1)
    assert surely / WINDOW <= meter.rate(now) * (1 + 1e-9)
    assert meter.rate(now) <= maybe * (1 + 1e-9)
    if not maybe:
        assert meter.rate(now) == 0.0


def test_a_steady_stream_has_its_rate_from_the_second_second_on() -> None:
    meter = Meter()
    for tenth in range(400):
        now = 50 + tenth / 10
        meter.moved(1000, now)
        if tenth >= 20:
            assert meter.rate(now) == pytest.approx(10_000, rel=0.1)
    assert meter.rate(100.5) == 0.0


def test_parts_are_those_of_what_moves_now() -> None:
    meter = Meter()
    meter.part(A, 10)
    meter.part(A, 30)
    meter.part(B, 5)
    assert meter.parts == 35
    meter.ended(A)
    meter.ended(A)
    assert meter.parts == 5


@pytest.mark.parametrize(
    ("missing", "rate", "left"),
    [(None, 5.0, None), (None, 0.0, None), (10, 0.0, None), (10, 5.0, 2.0), (0, 0.0, 0.0)],
)
def test_the_time_left_is_known_when_both_numbers_are(
    missing: int | None, rate: float, left: float | None
) -> None:
    assert seconds_left(missing, rate) == left
