from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.condition import OK, Condition, State, judged, reserve_of
from tests.oracles import quick

GIB = 1024**3
SIZES = st.integers(0, 2**50)


def test_the_reserve_is_a_hundredth_and_at_most_a_gib() -> None:
    assert reserve_of(0, None) == 0
    assert reserve_of(8 * 1024**2, None) == 83_886
    assert reserve_of(50 * GIB, None) == GIB // 2
    assert reserve_of(10_000 * GIB, None) == GIB


def test_a_reserve_that_was_set_is_what_was_set() -> None:
    assert reserve_of(10_000 * GIB, 0) == 0
    assert reserve_of(5, 7) == 7


@quick
@given(SIZES, SIZES)
def test_a_good_disk_becomes_full_below_its_reserve(free: int, reserve: int) -> None:
    assert (judged(free, reserve, OK).state is State.FULL) == (free < reserve)


@quick
@given(SIZES, SIZES)
def test_a_full_disk_does_not_flicker_at_its_limit(free: int, reserve: int) -> None:
    """What makes a full one good makes a good one good, and then some more may come."""
    full = Condition(State.FULL, "")
    if judged(free, reserve, full).good:
        assert judged(free, reserve, OK).good
        assert free - reserve >= min(reserve // 8, 64 * 1024**2)
    assert judged(2 * reserve + 1, reserve, full).good


@given(st.sampled_from([State.READ_ONLY, State.FAILING]))
def test_a_disk_that_can_be_written_again_is_judged_by_its_room(state: State) -> None:
    assert judged(100, 100, Condition(state, "")) == OK
    assert judged(99, 100, Condition(state, "")).state is State.FULL
