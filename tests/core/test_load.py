"""What is sent at once becomes smaller when it is refused, and larger again after a while."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.load import RETRY, Load


def test_nothing_is_limited_until_something_was_refused() -> None:
    load = Load()
    assert load.most(0.0) is None
    assert load.most_items(0.0) is None
    assert not load.hopeless(1 << 40, 0.0)


@given(size=st.integers(1, 1 << 40), limit=st.integers(1, 1 << 30))
def test_halving_ends_below_any_limit_and_not_below_half_of_it(size: int, limit: int) -> None:
    load = Load()
    while size > limit:
        load.refused(size, 0.0)
        size = load.most(0.0) or 0
    assert 0 < size <= limit
    assert load.most(0.0) is None or size >= limit // 2


def test_the_limit_is_tried_larger_after_a_while_and_not_before() -> None:
    load = Load()
    load.refused(1000, 0.0)
    assert load.most(RETRY - 1) == 500
    assert load.most(RETRY) == 1000
    assert load.most(RETRY + 1) == 1000, "one doubling at a time"


def test_a_blob_refused_alone_is_not_tried_for_a_while_and_nor_is_a_larger_one() -> None:
    load = Load()
    load.refused_alone(1000, 0.0)
    assert load.hopeless(1000, 1.0)
    assert load.hopeless(1001, 1.0)
    assert not load.hopeless(999, 1.0)
    assert not load.hopeless(1000, RETRY)
