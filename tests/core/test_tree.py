from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.tree import (
    EMPTY,
    LEAF_MAX,
    PAGE_MAX,
    Bucket,
    Tree,
    hash_fork,
    hash_leaf,
    hash_sorted,
    prefix_range,
)
from tests.oracles import (
    blobs,
    cluster,
    clusters,
    digest_sets,
    oracle_bucket,
    oracle_root,
    prefixes_near,
    quick,
    shuffled,
)

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "tree.json").read_text(encoding="ascii")
)
EMPTY_ROOT = VECTORS["roots"][0]["root"]


def expect(tree: Tree, digests: frozenset[bytes] | set[bytes]) -> None:
    """`tree` is exactly the set `digests`."""
    assert list(tree) == sorted(digests)
    assert len(tree) == len(digests)
    assert tree.root == oracle_root(digests)


# --- golden vectors --------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["roots"], ids=lambda vector: f"n={vector['count']}")
def test_roots_are_those_of_the_protocol(vector: dict[str, object]) -> None:
    digests = blobs(0, vector["count"])
    assert oracle_root(digests).hex() == vector["root"]
    assert Tree(digests).root.hex() == vector["root"]
    assert Tree().add(digests).root.hex() == vector["root"]


@pytest.mark.parametrize("vector", VECTORS["buckets"], ids=lambda vector: vector["prefix"])
def test_buckets_are_those_of_the_protocol(vector: dict[str, object]) -> None:
    digests = blobs(0, VECTORS["buckets_of"])
    expected = (vector["count"], bytes.fromhex(vector["digest"]))
    assert oracle_bucket(digests, vector["prefix"]) == expected
    assert Tree(digests).bucket(vector["prefix"]) == Bucket(*expected)


def test_an_empty_bucket_is_the_same_everywhere() -> None:
    assert EMPTY.digest.hex() == EMPTY_ROOT
    for tree in (Tree(), Tree(blobs(0, 5)), Tree(blobs(0, 300))):
        assert tree.bucket("0" * 64) == EMPTY
        assert tree.children("0" * 63) == [None] * 16
        assert list(tree.digests("0" * 64)) == []


def test_a_fork_does_not_tell_a_missing_child_from_one_with_nothing_in_it() -> None:
    full = Bucket(3, hash_leaf(b"x" * 96))
    assert hash_fork([full, EMPTY, *[None] * 14]) == hash_fork([full, *[None] * 15])
    assert hash_fork([full, *[None] * 15]) != hash_fork([None, full, *[None] * 14])


# --- a function of the set, and of nothing else ----------------------------------------------


@quick
@given(digest_sets(), st.integers(0, 99))
def test_a_tree_is_its_set_in_any_order_with_any_duplicates(
    digests: frozenset[bytes], seed: int
) -> None:
    once = shuffled(digests, seed)
    expect(Tree(once + once[: len(once) // 2]), digests)


@quick
@given(
    st.lists(st.tuples(st.booleans(), clusters, st.integers(1, 200)), max_size=8),
    st.integers(0, 99),
)
def test_any_adds_and_removes_give_the_tree_of_what_is_left(
    steps: list[tuple[bool, list[bytes], int]], seed: int
) -> None:
    tree, digests = Tree(), set()
    for adding, some, step in steps:
        # In several batches, with one digest of each given twice.
        order = shuffled(some, seed)
        for at in range(0, len(order), step):
            batch = order[at : at + step] + order[at : at + 1]
            tree = tree.add(batch) if adding else tree.remove(batch)
        digests = digests | set(some) if adding else digests - set(some)
        expect(tree, digests)


@pytest.mark.parametrize("stem", ["", "abc", "f" * 21], ids=["spread", "near", "deep"])
def test_growing_and_shrinking_one_by_one_is_right_at_every_size(stem: str) -> None:
    # Every size up to a fork whose children are pages themselves: what is a leaf, a page or a
    # fork in memory changes on the way up and, later, on the way down.
    digests = cluster(stem, 2 * PAGE_MAX + 20, seed=1)
    tree, there = Tree(), set()
    for digest in shuffled(digests, 2):
        tree = tree.add([digest])
        there.add(digest)
        assert (len(tree), tree.root) == oracle_bucket(there)
    for digest in shuffled(digests, 3):
        tree = tree.remove([digest])
        there.remove(digest)
        assert (len(tree), tree.root) == oracle_bucket(there)
    assert tree.root.hex() == EMPTY_ROOT
    assert list(tree) == []


def test_removing_all_at_once_leaves_the_empty_tree() -> None:
    digests = blobs(0, 1000)
    tree = Tree(digests).remove(digests)
    expect(tree, set())
    expect(tree.add(digests), set(digests))


@quick
@given(digest_sets(), st.integers(1, 300))
def test_an_ordered_scan_gives_the_same_tree(digests: frozenset[bytes], chunk: int) -> None:
    # A few digests far from the clusters, so that the groups of the scan end in the middle of
    # chunks, and chunks in the middle of groups.
    digests = digests | set(blobs(0, chunk))
    order = sorted(digests)
    chunks = [b"".join(order[at : at + chunk]) for at in range(0, len(order), chunk)]
    tree = Tree.from_sorted(iter([b"", *chunks]))
    expect(tree, digests)
    some = order[::3]
    # Its shape in memory is its own; what it becomes must not be.
    expect(tree.remove(some), digests - set(some))
    expect(tree.remove(some).add(some), digests)


def test_an_ordered_scan_of_nothing_is_the_empty_tree() -> None:
    expect(Tree.from_sorted([]), set())
    expect(Tree.from_sorted([b""]), set())


def test_a_large_ordered_scan_gives_the_same_tree() -> None:
    order = sorted(blobs(0, 5000))
    tree = Tree.from_sorted(b"".join(order[at : at + 999]) for at in range(0, 5000, 999))
    assert tree.root.hex() == VECTORS["roots"][-1]["root"]
    assert list(tree) == order


@quick
@given(st.integers(0, 62), st.integers(0, 40), st.integers(0, 99))
def test_the_digest_of_a_range_is_that_of_the_bucket_which_holds_it(
    depth: int, size: int, seed: int
) -> None:
    stem = ("5e" * 32)[:depth]
    digests = sorted(cluster(stem, size, seed))
    assert hash_sorted(digests, depth) == oracle_bucket(digests, stem)[1]


# --- earlier trees ---------------------------------------------------------------------------


@quick
@given(
    digest_sets(),
    st.lists(st.tuples(st.booleans(), clusters, st.booleans()), min_size=1, max_size=5),
)
def test_a_tree_is_not_touched_by_what_is_made_of_it(
    first: frozenset[bytes], steps: list[tuple[bool, list[bytes], bool]]
) -> None:
    tree, digests = Tree(first), set(first)
    before: list[tuple[Tree, set[bytes]]] = []
    for adding, some, hashed in steps:
        before.append((tree, digests))
        if hashed:
            # Digests are computed when first asked for, and the shared parts keep them.
            assert tree.root == oracle_root(digests)
        tree = tree.add(some) if adding else tree.remove(some)
        digests = digests | set(some) if adding else digests - set(some)
    expect(tree, digests)
    for old, held in before:
        expect(old, held)


def test_an_iteration_goes_on_over_the_set_it_began_on() -> None:
    digests = sorted(blobs(0, 1000))
    tree = Tree(digests)
    walk = tree.digests()
    begun = [next(walk) for _ in range(10)]
    tree.remove(digests[5:900])
    tree.add(blobs(1000, 2000))
    assert begun + list(walk) == digests


def test_a_change_that_changes_nothing_gives_the_very_tree() -> None:
    # Most of a mesh's traffic is told twice; that must cost no new path and no hashing.
    for size in (0, 5, 100, 1000):
        tree = Tree(blobs(0, size))
        assert tree.add(blobs(0, size)) is tree
        assert tree.add([]) is tree
        assert tree.remove(blobs(2000, 2100)) is tree
        assert tree.remove([]) is tree


# --- queries ---------------------------------------------------------------------------------


@quick
@given(st.data())
def test_any_prefix_has_the_bucket_of_the_digests_below_it(data: st.DataObject) -> None:
    digests = data.draw(digest_sets())
    tree = Tree(digests)
    for prefix in data.draw(st.lists(prefixes_near(digests), min_size=5, max_size=15)):
        assert tree.bucket(prefix) == Bucket(*oracle_bucket(digests, prefix))
        assert list(tree.digests(prefix)) == [
            digest for digest in sorted(digests) if digest.hex().startswith(prefix)
        ]


@quick
@given(st.data())
def test_any_prefix_has_the_sixteen_buckets_below_it(data: st.DataObject) -> None:
    digests = data.draw(digest_sets())
    tree = Tree(digests)
    for prefix in data.draw(st.lists(prefixes_near(digests, 63), min_size=5, max_size=15)):
        expected = [oracle_bucket(digests, prefix + nibble) for nibble in "0123456789abcdef"]
        assert tree.children(prefix) == [
            Bucket(count, digest) if count else None for count, digest in expected
        ]


@quick
@given(st.data())
def test_a_cursor_takes_up_where_it_stands(data: st.DataObject) -> None:
    digests = data.draw(digest_sets())
    tree = Tree(digests)
    cursors = st.binary(max_size=32)
    if digests:
        member = st.sampled_from(sorted(digests))
        cut = st.builds(lambda digest, size: digest[:size], member, st.integers(0, 32))
        beside = st.builds(lambda d, last: d[:31] + bytes([last]), member, st.integers(0, 255))
        cursors = member | cut | beside | cursors
    queries = st.tuples(prefixes_near(digests), cursors)
    for prefix, after in data.draw(st.lists(queries, min_size=5, max_size=15)):
        assert list(tree.digests(prefix, after)) == [
            digest
            for digest in sorted(digests)
            if digest.hex().startswith(prefix) and digest > after
        ]


def test_a_cursor_may_stand_anywhere_around_a_large_bucket() -> None:
    digests = sorted([*blobs(0, 3000), *cluster("7a", 300, 1)])
    tree = Tree(digests)
    # Bytes whose nibbles are lower and higher than those of the prefixes, whole and cut short.
    cursors = [bytes([a, b]).ljust(size, b"\x7e")[:size]
               for a in (0x00, 0x1F, 0x70, 0x7A, 0x7F, 0x80, 0xF0)
               for b in (0x08, 0xF7)
               for size in (1, 2, 32)]  # fmt: skip
    for prefix in ("", "7", "7a", "f", "0"):
        below = [digest for digest in digests if digest.hex().startswith(prefix)]
        for after in cursors:
            expected = [digest for digest in below if digest > after]
            assert list(tree.digests(prefix, after)) == expected


@quick
@given(digest_sets(), digest_sets())
def test_a_tree_holds_what_was_put_in_and_nothing_else(
    digests: frozenset[bytes], others: frozenset[bytes]
) -> None:
    tree = Tree(digests)
    assert all(digest in tree for digest in digests)
    assert not any(digest in tree for digest in others - digests)


def test_the_seam_of_two_digests_is_not_a_digest() -> None:
    low, high = b"\x01" * 16 + b"\x02" * 16, b"\x02" * 16 + b"\x01" * 16
    seam = b"\x02" * 32
    assert seam not in Tree([low, high])
    # It must be found all the same when it is there, behind the seam that looks like it.
    assert seam in Tree([low, high, seam])


@quick
@given(st.text("0f7a", max_size=6), st.lists(st.text("0f7a", min_size=6, max_size=6)))
def test_a_prefix_is_a_range_of_byte_strings(prefix: str, names: list[str]) -> None:
    low, high = prefix_range(prefix)
    for name in [*names, prefix.ljust(6, "0"), prefix.ljust(6, "f")]:
        value = bytes.fromhex(name)
        assert (low <= value and (high is None or value < high)) == name.startswith(prefix)


def test_the_limit_of_a_leaf_is_part_of_the_protocol() -> None:
    assert LEAF_MAX == 16
    at, above = blobs(0, 16), blobs(0, 17)
    assert Tree(at).root == hash_leaf(b"".join(sorted(at)))
    assert Tree(above).root != hash_leaf(b"".join(sorted(above)))
    assert Tree(above).root == hash_fork(Tree(above).children(""))
