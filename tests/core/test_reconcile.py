"""The descent among honest peers. Those that lie: test_reconcile_lies.py."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.reconcile import (
    FULL_HASH,
    MAX_ASKS,
    MAX_LISTED,
    SHORT_HASH,
    Ask,
    Descent,
    Forked,
    Listed,
    Listing,
    answer,
)
from mesh.core.tree import LEAF_MAX, Bucket, Tree
from mesh.errors import Misbehaved
from tests.descents import Honest, descend, expect_all
from tests.oracles import blobs, cluster, digest_sets, oracle_bucket, prefixes_near, quick, shuffled

WIDTHS = [SHORT_HASH, FULL_HASH]


# --- every difference, and nothing else ------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
@quick
@given(digest_sets(2), digest_sets(2), digest_sets(2))
def test_any_two_sets_are_told_apart_completely(
    width: int, common: frozenset[bytes], here: frozenset[bytes], there: frozenset[bytes]
) -> None:
    ours, theirs = common | here, common | there
    expect_all(descend(Tree(ours), Honest(Tree(theirs)), width), ours, theirs)
    expect_all(descend(Tree(theirs), Honest(Tree(ours)), width), theirs, ours)


@quick
@given(digest_sets(3), digest_sets(2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 50))
def test_it_does_not_matter_how_few_answers_come_at_a_time(
    ours: frozenset[bytes], more: frozenset[bytes], limit: int, most: int, page: int
) -> None:
    theirs = set(sorted(ours)[::2]) | more
    peer = Honest(Tree(theirs), most=most, page=page)
    expect_all(descend(Tree(ours), peer, limit=limit, requests=10_000), ours, theirs)


@quick
@given(
    digest_sets(2),
    st.lists(digest_sets(2), min_size=2, max_size=4),
    st.lists(st.integers(1, 6), min_size=3, max_size=3),
)
def test_a_peer_that_changes_in_mid_descent_is_compared_as_it_is_at_the_end(
    ours: frozenset[bytes], sets: list[frozenset[bytes]], gaps: list[int]
) -> None:
    trees = [Tree(ours | each) for each in sets]
    moves = [sum(gaps[: n + 1]) for n in range(len(trees) - 1)]
    peer = Honest(*trees, moves=moves, most=40)
    result = descend(Tree(ours), peer, limit=80)
    expect_all(result, ours, peer.tree)
    assert result.descents <= len(trees)


def test_a_change_in_mid_descent_costs_one_more_descent_and_blames_nobody() -> None:
    ours = blobs(0, 1000)
    before, after = blobs(0, 1500), [*blobs(300, 1500), *blobs(1600, 1700)]
    peer = Honest(Tree(before), Tree(after), moves=[3])
    result = descend(Tree(ours), peer)
    expect_all(result, ours, after)
    assert result.descents == 2


def test_answers_of_two_sets_under_one_name_are_contradictions() -> None:
    # Why answers must name their root: without it, a set that changes looks like a liar.
    peer = Honest(Tree(blobs(0, 1500)), Tree(blobs(300, 1700)), moves=[3])
    name = peer.name()
    peer.name = lambda: name
    with pytest.raises(Misbehaved):
        descend(Tree(blobs(0, 1000)), peer)


@quick
@given(st.data())
def test_the_digest_of_a_listing_is_that_of_the_bucket(data: st.DataObject) -> None:
    digests = data.draw(digest_sets())
    prefix = data.draw(prefixes_near(digests, 40))
    below = sorted(digest for digest in digests if digest.hex().startswith(prefix))
    # The promise decides only how the listing is sliced; it may well be a lie.
    promised = data.draw(st.sampled_from([len(below), 0, 17, 513, 10**6, 2**63]))
    step = data.draw(st.integers(1, 300))
    listing = Listing(prefix, promised)
    for at in range(0, len(below), step):
        listing.add(below[at : at + step])
        assert listing.last == below[min(at + step, len(below)) - 1]
    assert listing.bucket() == Bucket(*oracle_bucket(below, prefix))
    assert listing.count == len(below)


def test_a_listing_is_not_kept() -> None:
    listing = Listing("", 40_000)
    order = sorted(blobs(0, 40_000))
    joined = b"".join(order)
    del order
    tracemalloc.start()
    try:
        for at in range(0, len(joined), 32 * MAX_LISTED):
            page = joined[at : at + 32 * MAX_LISTED]
            listing.add([page[at : at + 32] for at in range(0, len(page), 32)])
            del page
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert listing.bucket().count == 40_000
    assert kept < 200_000, "the digests themselves are 2,600,000 bytes"


# --- what it costs ---------------------------------------------------------------------------

MANY = 100_000


@pytest.fixture(scope="module")
def many() -> Tree:
    return Tree(blobs(0, MANY))


@pytest.mark.parametrize(
    ("extra_here", "extra_there", "requests", "answers", "kilobytes"),
    [
        (0, 0, 0, 0, 0),
        # One request a level: four forks of at most 300 bytes, and a leaf if they have one there.
        (0, 1, 5, 5, 0.7),
        (1, 0, 4, 4, 0.7),
        (1, 1, 5, 8, 1.2),
        # More buckets a level than one request or one answer holds.
        (0, 1000, 6, 2132, 250),
        (500, 500, 6, 2013, 240),
    ],
)
def test_a_round_costs_what_differs_not_what_there_is(
    many: Tree, extra_here: int, extra_there: int, requests: int, answers: int, kilobytes: float
) -> None:
    here = blobs(MANY, MANY + extra_here)
    there = blobs(2 * MANY, 2 * MANY + extra_there)
    result = descend(many.add(here), Honest(many.add(there)))
    assert (result.requests, result.answers) == (requests, answers)
    assert result.bytes <= kilobytes * 1000
    assert result.proven
    assert sorted(result.missing_here) == sorted(there)
    assert sorted(d for some in result.missing_there for d in some) == sorted(here)


@pytest.mark.parametrize(
    ("count", "requests"), [(0, 0), (1, 1), (17, 1), (8192, 1), (8193, 2), (20_000, 3)]
)
def test_whoever_has_nothing_is_listed_everything_in_full_pages(count: int, requests: int) -> None:
    theirs = blobs(0, count)
    result = descend(Tree(), Honest(Tree(theirs)))
    expect_all(result, [], theirs)
    assert result.requests == result.answers == requests


@pytest.mark.parametrize("count", [1, 17, 20_000])
def test_a_peer_that_has_nothing_is_not_asked_at_all(count: int) -> None:
    ours = blobs(0, count)
    result = descend(Tree(ours), Honest(Tree()))
    expect_all(result, ours, [])
    assert result.requests == 0


def test_what_is_known_without_asking_is_told_once() -> None:
    descent = Descent(Tree(blobs(0, 20)), Tree().root, 0)
    assert [surplus.count for surplus in descent.rest().missing_there] == [20]
    assert descent.rest().missing_there == []


@pytest.mark.parametrize("width", WIDTHS)
def test_equal_sets_need_no_request(width: int, many: Tree) -> None:
    for tree in (Tree(), Tree(blobs(0, 16)), many):
        descent = Descent(tree, tree.root, len(tree), width)
        assert descent.done
        assert descent.proven
        assert not descent.rest().missing_here
        assert not descent.rest().missing_there


@pytest.mark.parametrize(
    ("size", "buckets"),
    [
        (100, 2778),
        (300, 6610),
        (1000, 14_782),
    ],
)
def test_a_small_set_can_be_compared_with_a_large_one(many: Tree, size: int, buckets: int) -> None:
    # Near each digest of ours lie up to sixteen buckets of which we have nothing: more is asked
    # for each than between two sets of the same size.
    ours = blobs(MANY, MANY + size)
    result = descend(Tree(ours), Honest(many))
    expect_all(result, ours, many)
    assert len(set(result.prefixes)) == buckets
    assert result.requests <= 40


def test_a_peer_may_give_one_answer_at_a_time() -> None:
    ours, theirs = blobs(0, 300), blobs(300, 600)
    expect_all(descend(Tree(ours), Honest(Tree(theirs), most=1)), ours, theirs)


def test_the_deepest_buckets_are_asked_first() -> None:
    # Depth first, in order: what is open at a time is a path with its siblings, not a level.
    ours, theirs = blobs(0, 1000), blobs(500, 1500)
    result = descend(Tree(ours), Honest(Tree(theirs)), limit=1)
    expect_all(result, ours, theirs)
    assert result.prefixes == sorted(set(result.prefixes))
    assert len(result.prefixes) > 200


def test_differences_are_told_as_they_are_found() -> None:
    ours, theirs = Tree(blobs(0, 1000)), Tree(blobs(500, 1500))
    descent = Descent(ours, theirs.root, len(theirs))
    first_found_after = None
    for requests in range(1, 1000):
        found = descent.feed(answer(theirs, descent.asks(16), SHORT_HASH))
        if found.missing_here and first_found_after is None:
            first_found_after = requests
        if descent.done:
            break
    assert first_found_after == 3
    assert requests > 10


# --- hashes cut so short that they collide ---------------------------------------------------


def alike(digest: bytes, nibbles: int, accept: Callable[[bytes], bool]) -> bytes:
    """Another digest with the first `nibbles` of `digest`, such that `accept` takes it."""
    for seed in range(5000):
        (twin,) = cluster(digest.hex()[:nibbles], 1, seed)
        if accept(twin):
            return twin
    raise AssertionError("none of 5,000 will do")


@pytest.mark.parametrize("depth", [1, 2])
def test_a_difference_behind_a_forged_hash_is_not_taken_for_proven(depth: int) -> None:
    ours = set(blobs(0, 300))
    gone = min(ours)
    prefix = gone.hex()[:depth]
    rest = ours - {gone}

    def looks_alike(twin: bytes) -> bool:
        return oracle_bucket({*rest, twin}, prefix)[1][0] == oracle_bucket(ours, prefix)[1][0]

    theirs = {*rest, alike(gone, 5, looks_alike)}
    short = descend(Tree(ours), Honest(Tree(theirs)), width=1)
    assert not short.missing_here, "the collision was not met: this test tests nothing"
    assert not short.missing_there
    assert not short.proven
    expect_all(descend(Tree(ours), Honest(Tree(theirs)), FULL_HASH), ours, theirs)


def test_a_descent_that_can_no_longer_be_proven_asks_no_more() -> None:
    ours = set(blobs(0, 1000))
    gone = min(ours)
    prefix = gone.hex()[:2]
    rest = ours - {gone}

    def looks_alike(twin: bytes) -> bool:
        return oracle_bucket({*rest, twin}, prefix)[1][0] == oracle_bucket(ours, prefix)[1][0]

    # All below 0 looks alike, which cannot be: there is no use in the hundreds of buckets left.
    new = [digest for digest in blobs(1000, 1500) if digest.hex()[0] != "0"]
    theirs = {*rest, *new, alike(gone, 5, looks_alike)}
    result = descend(Tree(ours), Honest(Tree(theirs)), width=1, limit=1)
    assert result.prefixes == ["", "0"]
    assert not result.proven


def test_chance_collisions_are_never_taken_for_proven() -> None:
    common = blobs(0, 1500)
    proven = missed = 0
    for seed in range(40):
        # As many here as there in every bucket but the last, so that only hashes can tell.
        gone = shuffled(common, seed)[:10]
        ours, theirs = set(common), {*common, *(alike(d, 6, lambda _: True) for d in gone)}
        theirs -= set(gone)
        result = descend(Tree(ours), Honest(Tree(theirs)), width=1)
        assert set(result.missing_here) <= theirs - ours
        there = {digest for some in result.missing_there for digest in some}
        assert there <= ours - theirs
        if result.proven:
            proven += 1
            expect_all(result, ours, theirs)
        else:
            missed += there != ours - theirs
            expect_all(descend(Tree(ours), Honest(Tree(theirs)), FULL_HASH), ours, theirs)
    assert proven >= 10
    assert missed >= 3


# --- the answering side ----------------------------------------------------------------------


def test_an_answer_holds_a_bounded_number_of_digests_and_at_least_one_part() -> None:
    tree, leaf = Tree(blobs(0, 20_000)), Tree(blobs(0, 16))
    assert len(answer(tree, [Ask("")] * 5000, SHORT_HASH)) == MAX_ASKS
    assert len(answer(leaf, [Ask("")] * 5000, SHORT_HASH)) == MAX_LISTED // 16
    listings = [Ask(f"{nibble:x}", b"") for nibble in range(16)]
    for asks in (listings, [Ask("", b""), *listings], [Ask(""), Ask("", b""), Ask("00")]):
        answers = answer(tree, asks, SHORT_HASH)
        sizes = [len(each.digests) // 32 for each in answers if isinstance(each, Listed)]
        assert MAX_LISTED <= sum(sizes) <= MAX_LISTED + LEAF_MAX
        assert 1 <= len(answers) < len(asks)
        assert [each.more for each in answers if isinstance(each, Listed)][-1]


@pytest.mark.parametrize("more", [0, 1])
def test_a_listing_says_whether_there_is_more(more: int) -> None:
    digests = sorted(blobs(0, MAX_LISTED + more))
    (first,) = answer(Tree(digests), [Ask("", b"")], SHORT_HASH)
    assert first == Listed(b"".join(digests[:MAX_LISTED]), more=bool(more))
    (second,) = answer(Tree(digests), [Ask("", digests[MAX_LISTED - 1])], SHORT_HASH)
    assert second == Listed(b"".join(digests[MAX_LISTED:]), more=False)


@quick
@given(st.data(), st.sampled_from([1, 8, 32]))
def test_an_answer_describes_the_bucket(data: st.DataObject, width: int) -> None:
    digests = data.draw(digest_sets())
    prefix = data.draw(prefixes_near(digests))
    (reply,) = answer(Tree(digests), [Ask(prefix)], width)
    count, _ = oracle_bucket(digests, prefix)
    if count <= LEAF_MAX:
        below = sorted(digest for digest in digests if digest.hex().startswith(prefix))
        assert reply == Listed(b"".join(below), more=False)
        return
    assert isinstance(reply, Forked)
    children = [oracle_bucket(digests, prefix + nibble) for nibble in "0123456789abcdef"]
    assert f"{reply.bitmap:016b}" == "".join("1" if count else "0" for count, _ in children)
    assert reply.counts == [count for count, _ in children if count]
    assert reply.hashes == b"".join(digest[:width] for count, digest in children if count)
