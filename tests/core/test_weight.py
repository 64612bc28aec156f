"""Bytes that are missing: right, or not known, whatever was told and moved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.digest import Digest, digest_of
from mesh.core.round import Ledger
from mesh.core.weight import Weight, weighed
from tests.oracles import quick

sizes = st.lists(st.integers(0, 1000), max_size=5)


@quick
@given(
    here=sizes,
    there=sizes,
    both=st.integers(0, 10**6),
    told=st.tuples(st.booleans(), st.booleans()),
    looked=st.booleans(),
)
def test_what_is_told_of_bytes_is_true(
    here: list[int], there: list[int], both: int, told: tuple[bool, bool], looked: bool
) -> None:
    """`here`, `there`: the sizes of what is missing."""
    ours = both + sum(there) if told[0] else None
    theirs = both + sum(here) if told[1] else None
    found = weighed((len(here), len(there)), (ours, theirs), sum(there) if looked else None)
    assert found[0] in (None, sum(here))
    assert found[1] in (None, sum(there))
    if all(told) and (looked or not here or not there):
        assert found == (sum(here), sum(there))


def test_totals_that_cannot_be_true_tell_nothing() -> None:
    assert weighed((1, 0), (100, 50), None) == (None, 0)
    assert weighed((0, 1), (50, 100), None) == (0, None)


def name(number: int) -> Digest:
    return digest_of(b"%d" % number)


def found(here: int, there: int, bytes_here: int | None, bytes_there: int | None) -> Weight:
    ledger = Ledger(10**9)
    weight = Weight(ledger)
    ledger.found(here, there, 0)
    ledger.compared = True
    weight.found(bytes_here, bytes_there)
    return weight


def fetched(weight: Weight, numbers: range, size: int, *, come: int | None = None) -> None:
    """A window of which `come` blobs were fetched, all for None, and the others are not here."""
    ledger = weight.ledger
    names = [name(number) for number in numbers]
    window = ledger.window(names, 0, ledger.epoch)
    batch = ledger.batch(names)
    batch.landed(len(names) if come is None else come, size, [])
    ledger.settled(window, names[come:] if come is not None else [])


def test_what_was_fetched_and_sent_is_taken_off() -> None:
    weight = found(3, 2, 300, 90)
    assert weight.left() == (300, 90)
    assert weight.left((50, 10)) == (250, 80)
    fetched(weight, range(2), 180)
    assert weight.left() == (120, 90)
    push = weight.ledger.push([name(7)], 0)
    push.stored(1, 60)
    assert weight.left() == (120, 30)
    fetched(weight, range(2, 3), 120)
    push.stored(1, 30)
    assert weight.left() == (0, 0)


def test_nothing_is_known_before_all_is_compared_nor_after_a_restart() -> None:
    weight = found(3, 0, 300, 0)
    weight.ledger.compared = False
    assert weight.left() == (None, None)
    weight.ledger.compared = True
    weight.ledger.restarted()
    weight.ledger.found(3, 0, 0)
    weight.found(300, 0)
    assert weight.left() == (None, None)


def test_bytes_are_not_known_where_others_brought_some() -> None:
    weight = found(3, 0, 300, 0)
    fetched(weight, range(2), 100, come=1)
    assert weight.left() == (200, 0)
    window = weight.ledger.window([name(5)], 0, 0)
    weight.ledger.settled(window, [])  # it is here, and was not fetched in this round
    assert weight.left() == (None, 0)


def test_bytes_are_not_known_while_others_bring_some() -> None:
    weight = found(3, 0, 300, 0)
    weight.ledger.window([name(1)], 1, 0)
    assert weight.left() == (None, 0)


def test_bytes_are_not_known_where_the_peer_kept_a_part_of_what_was_sent() -> None:
    weight = found(0, 3, 0, 300)
    weight.ledger.push([name(1), name(2)], 0).stored(1, 200, exact=False)
    assert weight.left() == (0, None)
    weight.ledger.push([name(1), name(3)], 0).stored(2, 200)
    assert weight.left() == (0, 0), "nothing is missing there: that is known all the same"
