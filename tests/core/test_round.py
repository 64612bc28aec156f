"""The ledger of a round, in any order of events, against an oracle that remembers everything."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.digest import Digest, digest_of
from mesh.core.round import LINE, UNDELIVERED, Batch, Ledger, Pushing
from mesh.errors import Misbehaved, Unreachable

LIMIT = 1000
FATES = ("good", "wrong", "absent", "silent", "later", "large", "over")


def names(count: int, start: int = 0) -> list[Digest]:
    return [digest_of(b"%d" % number) for number in range(start, start + count)]


def answer(batch: Batch, digest: Digest, fate: str) -> None:
    """One frame, and the verdict on it at once."""
    if fate in ("good", "wrong"):
        assert batch.blob(digest, 1)
        good = fate == "good"
        batch.landed(int(good), int(good), [] if good else [digest])
    elif fate == "over":
        assert not batch.blob(digest, LIMIT + 1)
    elif fate == "absent":
        batch.absent(digest)
    elif fate == "later":
        batch.put_off(digest)
    elif fate == "large":
        assert batch.large(digest, LIMIT)


@given(
    st.lists(st.lists(st.sampled_from(FATES), min_size=1, max_size=8), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_batches_that_run_at_the_same_time_are_judged_apart(
    plan: list[list[str]], order: Random
) -> None:
    """Whatever the order of their frames, each failure is counted once."""
    plan = [[*fates, "good"] for fates in plan]  # one that is not LATER in each
    ledger = Ledger(LIMIT)
    asked = [names(len(fates), 100 * at) for at, fates in enumerate(plan)]
    batches = [ledger.batch(digests) for digests in asked]
    frames = [
        (batch, digest, fate)
        for batch, digests, fates in zip(batches, asked, plan, strict=True)
        for digest, fate in zip(digests, fates, strict=True)
        if fate != "silent"
    ]
    order.shuffle(frames)
    for batch, digest, fate in frames:
        answer(batch, digest, fate)
    for batch, digests, fates in zip(batches, asked, plan, strict=True):
        bad = {d for d, f in zip(digests, fates, strict=True) if f in ("absent", "silent")}
        assert set(batch.ended()) == bad
        assert batch.later == [d for _, d, f in frames if f == "later" and d in digests]
    every = [fate for fates in plan for fate in fates]
    assert ledger.not_delivered == sum(every.count(f) for f in ("wrong", "absent", "silent"))
    assert ledger.tally.failed == every.count("wrong")
    assert ledger.tally.fetched == every.count("good")
    assert ledger.tally.over_limit == every.count("over")


def test_wrong_blobs_count_in_whichever_group_they_come() -> None:
    ledger = Ledger(LIMIT)
    digests = names(UNDELIVERED + 1)
    batch = ledger.batch(digests)
    for digest in digests[:-1]:
        answer(batch, digest, "wrong")
        ledger.check()
    answer(batch, digests[-1], "wrong")
    with pytest.raises(Misbehaved, match="did not deliver"):
        ledger.check()


def test_a_restart_forgives_nothing() -> None:
    ledger = Ledger(LIMIT)
    for at in range(UNDELIVERED + 1):
        answer(ledger.batch([names(1, at)[0]]), names(1, at)[0], "absent")
        ledger.restarted()
    with pytest.raises(Misbehaved):
        ledger.check()


@pytest.mark.parametrize("second", ["good", "absent", "later", "large"])
def test_each_digest_is_answered_once_and_only_where_it_was_asked(second: str) -> None:
    ledger = Ledger(LIMIT)
    one, other = names(2)
    batch = ledger.batch([one])
    answer(batch, one, "good")
    for digest in (one, other):
        with pytest.raises(Misbehaved, match="nobody asked"):
            answer(batch, digest, second)


def test_later_for_everything_is_misbehaviour() -> None:
    ledger = Ledger(LIMIT)
    batch = ledger.batch(names(2))
    for digest in names(2):
        batch.put_off(digest)
    with pytest.raises(Misbehaved, match="puts off"):
        batch.ended()


@given(st.lists(st.tuples(st.sampled_from(("find", "settle", "restart")), st.integers(0, 5))))
def test_what_is_left_counts_what_was_found_since_the_last_restart(
    events: list[tuple[str, int]],
) -> None:
    """Windows of an earlier comparison settle late, and are neither subtracted nor added."""
    ledger = Ledger(LIMIT)
    ours: list[tuple[int, int, int]] = []
    found = settled = absent = epoch = 0
    for at, (what, count) in enumerate(events):
        if what == "restart":
            ledger.restarted()
            found = settled = absent = 0
            epoch += 1
        elif what == "find":
            ledger.found(count, 0, 0)
            ours.append((count, epoch, at))
            found += count
        elif ours:
            # Work on it begins at any time, also after a restart.
            size, of, number = ours.pop(0)
            window = ledger.window(names(size, 100 * number), 0, of)
            missing = min(size, count)
            ledger.settled(window, names(missing))
            if of == epoch:
                settled += size
                absent += missing
        assert ledger.left_here == found - settled + absent


@given(
    st.lists(
        st.tuples(st.sampled_from(("find", "offer", "deliver", "restart")), st.integers(0, 5)),
        max_size=30,
    )
)
def test_what_is_left_there_counts_what_was_delivered_since_the_last_restart(
    events: list[tuple[str, int]],
) -> None:
    """Blobs pushed for an earlier comparison do not stand for others that are missing still."""
    ledger = Ledger(LIMIT)
    pushes: list[tuple[Pushing, int, int]] = []
    found = delivered = epoch = 0
    for at, (what, count) in enumerate(events):
        if what == "restart":
            ledger.restarted()
            found = delivered = 0
            epoch += 1
        elif what == "find":
            ledger.found(0, count, 0)
            found += count
        elif what == "offer":
            digests = names(count, 100 * at)
            ledger.offered(digests, digests, epoch)
            pushes.append((ledger.push(digests, epoch), count, epoch))
        elif pushes:
            push, sent, of = pushes.pop(0)
            push.stored(sent, sent)
            push.ended()
            delivered += sent if of == epoch else 0
        assert ledger.left_there == max(0, found - delivered)


@pytest.mark.parametrize("fate", ["over", "large and over"])
def test_what_is_over_the_limit_is_counted_once_whatever_restarts(fate: str) -> None:
    ledger = Ledger(LIMIT)
    digests = names(3)
    late = ledger.batch(digests[:1])
    for _ in range(3):
        batch = ledger.batch(digests)
        for digest in digests:
            if fate == "over":
                assert not batch.blob(digest, LIMIT + 1)
            else:
                assert not batch.large(digest, LIMIT + 1)
        assert ledger.tally.over_limit == 3
        ledger.restarted()
    assert not late.blob(digests[0], LIMIT + 1)  # begun before: it is found anew, and counted there
    assert ledger.tally.over_limit == 0
    assert not ledger.more  # it takes no place in the line of large blobs


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_large_blob_is_left_until_it_comes_also_over_a_restart(restarts: int) -> None:
    ledger = Ledger(LIMIT)
    (digest,) = names(1)
    ledger.found(1, 0, 0)
    first = ledger.window([digest], 0, 0)
    answer(ledger.batch([digest]), digest, "large")
    for _ in range(restarts):
        ledger.restarted()
        ledger.found(1, 0, 0)
        ledger.settled(first, [digest])
        first = ledger.window([digest], 0, ledger.epoch)
    ledger.settled(first, [digest])
    assert ledger.left_here == 1
    ledger.large_here(digest, 5, fresh=True)
    ledger.large_done(digest)
    assert ledger.left_here == 0


def test_the_line_of_large_blobs_is_bounded_and_the_rest_is_for_the_next_round() -> None:
    ledger = Ledger(LIMIT)
    assert all(ledger.queued(digest) for digest in names(LINE))
    assert not ledger.more
    assert not ledger.queued(names(1, LINE)[0])
    assert ledger.more


def test_misbehaviour_is_kept_before_another_error() -> None:
    ledger = Ledger(LIMIT)
    ledger.failed(Unreachable("gone"))
    ledger.failed(Misbehaved("lied"))
    ledger.failed(Misbehaved("again"))
    assert str(ledger.error) == "lied"
    assert ledger.stop


def test_a_round_that_moved_everything_has_no_reason() -> None:
    ledger = Ledger(LIMIT)
    ledger.found(1, 1, 0)
    ledger.settled(ledger.window(names(1), 0, 0), [])
    ledger.offered(names(1), names(1), 0)
    assert ledger.reasons() == ()


def test_each_obstacle_is_a_reason() -> None:
    ledger = Ledger(LIMIT)
    ledger.found(5, 2, 0)
    ledger.closed("nothing is fetched, the store is full: no room")
    ledger.settled(ledger.window(names(5), 3, 0), names(5))
    answer(ledger.batch(names(1)), names(1)[0], "over")
    answer(ledger.batch(names(1)), names(1)[0], "absent")
    ledger.offered(names(2), [], 0)
    ledger.push(names(1), 0).untaken("blob ab is too large")
    said = "\n".join(ledger.reasons())
    for part in ("store is full", "max_replica_bytes", "3 blobs are left to another", "1 blobs"):
        assert part in said
    assert "did not take 2 of the 2" in said
    assert "blob ab is too large" in said


# --- what is known -----------------------------------------------------------------------------


def test_in_the_midst_of_a_round_nothing_found_is_not_nothing_missing() -> None:
    ledger = Ledger(LIMIT)
    assert ledger.known() == (None, None)
    ledger.found(2, 0, 0)
    assert ledger.known() == (2, None)
    ledger.settled(ledger.window(names(2), 0, 0), [])
    assert ledger.known() == (None, None), "there may be more"
    ledger.compared = True
    assert ledger.known() == (0, 0)


def test_a_window_that_was_found_before_a_restart_counts_nowhere_whenever_it_begins() -> None:
    ledger = Ledger(LIMIT)
    ledger.found(3, 0, 0)
    ledger.restarted()
    ledger.found(5, 0, 0)
    late = ledger.window(names(3), 2, 0)
    ledger.settled(late, [])
    assert ledger.left_here == 5
    assert not ledger.elsewhere


@given(
    found=st.sets(st.integers(0, 9)),
    surplus=st.sets(st.integers(10, 19)),
    fetched=st.sets(st.integers(0, 9)),
    pushed=st.sets(st.integers(10, 19)),
    came_here=st.sets(st.integers(0, 29)),
    came_there=st.sets(st.integers(0, 29)),
)
def test_numbers_that_are_said_to_be_right_are_right(
    found: set[int],
    surplus: set[int],
    fetched: set[int],
    pushed: set[int],
    came_here: set[int],
    came_there: set[int],
) -> None:
    """Whatever comes to either side meanwhile, from wherever: against the sets themselves."""
    ours, theirs = surplus | {100}, found | {100}
    ledger = Ledger(LIMIT)
    ledger.found(len(found), len(surplus), 0)
    fetched &= found
    pushed &= surplus
    here, there = ours | fetched | came_here, theirs | pushed | came_there
    absent = [digest_of(b"%d" % number) for number in found - here]
    ledger.settled(ledger.window(names(len(found)), 0, 0), absent)
    ledger.push(names(len(pushed)), 0).stored(len(pushed), 0)
    if ledger.explains((len(ours), len(here)), (len(theirs), len(there))):
        assert (ledger.left_here, ledger.left_there) == (len(there - here), len(here - there))
    if not came_here and not came_there:
        assert ledger.explains((len(ours), len(here)), (len(theirs), len(there)))


def test_what_was_pushed_while_the_comparison_was_restarted_is_not_taken_for_refused() -> None:
    ledger = Ledger(LIMIT)
    digests = names(3)
    ledger.found(0, 3, 0)
    ledger.offered(digests, digests, 0)
    push = ledger.push(digests, 0)
    ledger.restarted()
    ledger.found(0, 4, 0)  # its set as it was before the push
    push.stored(3, 3)
    push.ended()
    assert ledger.left_there == 4
    ledger.offered([*digests, *names(1, 9)], names(1, 9), 1)
    assert ledger.left_there == 1
    assert ledger.reasons() == ()
    ledger.push(names(1, 9), 1).stored(1, 1)
    assert ledger.left_there == 0


def test_a_push_that_is_put_off_asks_for_another_round() -> None:
    ledger = Ledger(LIMIT)
    push = ledger.push(names(1), 0)
    push.put_off("it is being verified", 10.0)
    assert ledger.wish == 10.0
    assert ledger.tally.failed == 1
    assert ledger.reasons() == ("it is being verified",)
