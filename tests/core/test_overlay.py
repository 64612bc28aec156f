"""Overlays, comparisons of versions, and look-ups by prefix, against plain sets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.tree import Bucket, Tree
from mesh.core.tree.overlay import changes, in_batches, overlaid, starting
from tests.oracles import blobs, cluster, digest_sets, oracle_bucket, quick, shuffled


@quick
@given(digest_sets(3), digest_sets(2), st.data())
def test_an_overlay_has_the_root_of_the_changed_set(
    common: frozenset[bytes], more: frozenset[bytes], data: st.DataObject
) -> None:
    gone = set(data.draw(st.lists(st.sampled_from(sorted(common)), max_size=300))) if common else ()
    tree = Tree(common)
    expected = Bucket(*oracle_bucket((common - set(gone)) | (more - common)))
    assert overlaid(tree, shuffled(more - common, 1), gone) == expected
    assert tree.root == oracle_bucket(common)[1]


@quick
@given(digest_sets(3), st.integers(0, 40))
def test_an_overlay_that_leaves_few_is_a_leaf(digests: frozenset[bytes], left: int) -> None:
    kept = shuffled(digests, 2)[:left]
    assert overlaid(Tree(digests), (), digests - set(kept)) == Bucket(*oracle_bucket(kept))


def test_an_overlay_takes_unknown_and_known_digests_for_what_they_are() -> None:
    some = blobs(0, 5000)
    tree = Tree(some)
    assert overlaid(tree, some[:500], blobs(9000, 9500)) == Bucket(len(tree), tree.root)
    assert overlaid(tree, blobs(5000, 6000), some) == Bucket(*oracle_bucket(blobs(5000, 6000)))
    assert overlaid(Tree(), some, ()) == Bucket(len(tree), tree.root)


def test_many_digests_below_one_prefix() -> None:
    deep = cluster("ab" * 20, 200, 1)
    tree = Tree(deep)
    assert overlaid(tree, blobs(0, 3), deep[:190]) == Bucket(
        *oracle_bucket([*deep[190:], *blobs(0, 3)])
    )
    assert starting(tree, b"\xab" * 5, 10) == sorted(deep)[:10]
    assert starting(tree, b"\xab" * 25, 10) == [d for d in sorted(deep) if d[:25] == b"\xab" * 25]


@quick
@given(digest_sets(3), digest_sets(2), digest_sets(2))
def test_changes_are_what_two_versions_differ_by(
    common: frozenset[bytes], added: frozenset[bytes], removed: frozenset[bytes]
) -> None:
    old = Tree(common)
    new = old.add(added).remove(removed)
    more, less = changes(old, new)
    assert len(more) == len(set(more))
    assert set(more) == set(new) - common
    assert set(less) == common - set(new)
    assert len(less) == len(set(less))


@quick
@given(digest_sets(3), digest_sets(3))
def test_changes_of_unrelated_trees_are_found_as_well(
    one: frozenset[bytes], other: frozenset[bytes]
) -> None:
    more, less = changes(Tree(one), Tree(other))
    assert (set(more), set(less)) == (other - one, one - other)


def test_versions_share_what_has_not_changed() -> None:
    old = Tree(blobs(0, 20_000))
    assert changes(old, old) == ([], [])
    assert changes(old, Tree(blobs(0, 20_000))) == ([], [])


@quick
@given(digest_sets(3), st.data(), st.integers(1, 32), st.integers(1, 20))
def test_digests_are_found_by_their_first_bytes(
    digests: frozenset[bytes], data: st.DataObject, width: int, most: int
) -> None:
    near = st.sampled_from(sorted(digests)) if digests else st.just(bytes(32))
    prefix = data.draw(near | st.binary(min_size=32, max_size=32))[:width]
    expected = sorted(digest for digest in digests if digest.startswith(prefix))[:most]
    assert starting(Tree(digests), prefix, most) == expected


@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_all_digests_come_in_batches(size: int) -> None:
    some = blobs(0, 3000)
    batches = list(in_batches(Tree(some), size))
    assert b"".join(batches) == b"".join(sorted(some))
    assert all(len(batch) < 32 * (size + 128) for batch in batches)
