"""Sketches against a slow one that is written from docs/protocol.md alone, and plain sets."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.config import FEWEST_CELLS
from mesh.core.cells import CELL, COUNT_CELLS, MAX_CELLS, Estimate, estimate, needed, worth_sending
from mesh.core.sketch import Apart, Key, Sketch, peel
from tests.oracles import blobs, digest_sets, quick
from tests.vectors.make_sketch import (
    slow_cells,
    slow_counts,
    slow_key,
    slow_places,
    slow_wire,
    vectors,
)

VECTORS: Any = json.loads(
    (Path(__file__).parents[1] / "vectors" / "sketch.json").read_text(encoding="ascii")
)
KEY = Key.of(b"a secret")
# That of the vectors of single digests and of sketches.
GOLDEN = Key.of(bytes.fromhex(VECTORS["secret"]), VECTORS["set"])


def sketch_of(digests: Any, cells: int, key: Key = KEY) -> Sketch:
    return Sketch.of(key, cells, [b"".join(digests)])


def apart(ours: Any, theirs: Any) -> Apart:
    """What two sets differ by, if no two digests have a prefix in common."""
    ours, theirs = set(ours), set(theirs)
    return Apart(sorted(d[:7] for d in theirs - ours), sorted(d[:7] for d in ours - theirs))


# --- the protocol ----------------------------------------------------------------------------


def test_the_vectors_are_what_the_generator_makes() -> None:
    assert vectors() == VECTORS


@pytest.mark.parametrize("vector", VECTORS["keys"])
def test_keys_are_those_of_the_protocol(vector: dict[str, Any]) -> None:
    key = Key.of(bytes.fromhex(vector["secret"]), vector["set"])
    assert (f"{key.first:016x}", f"{key.second:016x}", key.id.hex()) == (
        vector["first"],
        vector["second"],
        vector["id"],
    )


@pytest.mark.parametrize("vector", VECTORS["places"], ids=lambda vector: vector["digest"][:8])
def test_digests_fall_into_the_cells_of_the_protocol(vector: dict[str, Any]) -> None:
    digest = bytes.fromhex(vector["digest"])
    cells = sketch_of([digest], 2**20, GOLDEN).cells(0, MAX_CELLS * 4)
    assert len(cells) == CELL * 2**20
    weights = np.frombuffer(cells[7 * 2**20 :], ">u4")
    assert np.flatnonzero(weights).tolist() == vector["cells"]
    assert set(weights[vector["cells"]].tolist()) == {vector["weight"] % 2**32}
    for cell in vector["cells"]:
        assert cells[7 * cell : 7 * cell + 7] == digest[:7]


@pytest.mark.parametrize("vector", VECTORS["sketches"], ids=lambda vector: str(vector["blobs"]))
def test_sketches_are_those_of_the_protocol(vector: dict[str, Any]) -> None:
    sketch = sketch_of(blobs(0, vector["blobs"]), 2048, GOLDEN)
    assert sketch.cells(0, 12).hex() == vector["cells"]
    assert sketch.counts().hex() == vector["counts"]


@quick
@given(digest_sets(2), st.integers(1, 1500), st.data())
def test_a_sketch_is_that_of_the_slow_one(
    digests: frozenset[bytes], cells: int, data: st.DataObject
) -> None:
    secret = data.draw(st.binary(max_size=3))
    slow = slow_cells(slow_key(secret), digests, cells)
    sketch = sketch_of(digests, cells, Key.of(secret))
    start = data.draw(st.integers(0, cells))
    stop = data.draw(st.integers(start, cells + 10))
    assert sketch.cells(start, stop) == slow_wire(slow[start:stop])
    assert sketch.counts() == slow_counts(slow)


@quick
@given(digest_sets(2), digest_sets(2), digest_sets(2))
def test_what_comes_and_goes_leaves_the_sketch_of_what_is_left(
    first: frozenset[bytes], added: frozenset[bytes], removed: frozenset[bytes]
) -> None:
    sketch = sketch_of(first, 300)
    before = sketch.cells(0, 300)
    changed = sketch.changed(sorted(added - first), sorted(removed & first))
    left = (first | added) - (removed & first)
    assert changed.cells(0, 300) == sketch_of(left, 300).cells(0, 300)
    assert sketch.cells(0, 300) == before


def test_batches_make_no_difference() -> None:
    some = blobs(0, 40_000)
    whole = sketch_of(some, 2048)
    pieces = Sketch.of(KEY, 2048, [b"".join(some[at : at + 999]) for at in range(0, 40_000, 999)])
    assert pieces.cells(0, 2048) == whole.cells(0, 2048)


# --- telling sets apart ----------------------------------------------------------------------


@quick
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(0, 60), st.integers(0, 300))
def test_any_two_sets_are_told_apart_by_enough_cells(
    seed: int, here: int, there: int, common: int
) -> None:
    random = Random(seed)
    both = [random.randbytes(32) for _ in range(common)]
    ours = both + [random.randbytes(32) for _ in range(here)]
    theirs = both + [random.randbytes(32) for _ in range(there)]
    cells = 60 + 3 * (here + there)
    found = sketch_of(ours, cells + 7).compare([sketch_of(theirs, cells).cells(0, cells)])
    assert found == apart(ours, theirs)


@quick
@given(digest_sets(2), digest_sets(2), digest_sets(2), st.integers(0, 40))
def test_sets_with_like_prefixes_are_told_apart_as_far_as_prefixes_tell(
    common: frozenset[bytes], here: frozenset[bytes], there: frozenset[bytes], cells: int
) -> None:
    ours, theirs = common | here, common | there
    found = sketch_of(ours, 40).compare([sketch_of(theirs, 40).cells(0, cells)])
    # Where prefixes are shared the rest may hide; what is told differs for certain.
    if found is not None and cells:
        assert set(found.ours) <= {digest[:7] for digest in ours - theirs}
        assert set(found.theirs) <= {digest[:7] for digest in theirs - ours}


@pytest.mark.parametrize(("differ", "one_sided"), [(1, True), (100, False), (3000, True)])
def test_cells_may_come_in_pieces(differ: int, one_sided: bool) -> None:
    ours = blobs(0, 5000)
    theirs = blobs(0 if one_sided else differ // 2, 5000 + (differ if one_sided else differ // 2))
    there = sketch_of(theirs, 8192)
    cells = needed(differ)
    pieces = [there.cells(0, cells // 2), there.cells(cells // 2, 2 * cells)]
    here = sketch_of(ours, 8192)
    assert here.compare(pieces) == apart(ours, theirs)
    assert here.compare(pieces[:1]) is None or differ == 1


def test_too_few_cells_tell_nothing() -> None:
    ours, theirs = blobs(0, 500), blobs(250, 750)
    for cells in (1, 100, 499):
        assert sketch_of(ours, 512).compare([sketch_of(theirs, 512).cells(0, cells)]) is None


def test_another_key_tells_nothing() -> None:
    theirs = sketch_of(blobs(0, 110), 1024, Key.of(b"another"))
    assert sketch_of(blobs(0, 100), 1024).compare([theirs.cells(0, 1024)]) is None


# --- cells that are none ---------------------------------------------------------------------


def test_cells_at_random_tell_nothing() -> None:
    random = Random(1)
    ours = sketch_of(blobs(0, 1000), 4096)
    for cells in (1, 50, 4096):
        assert ours.compare([random.randbytes(CELL * cells)]) is None


def test_a_digest_in_the_wrong_cells_is_found_only_so_often() -> None:
    # Every cell says that it holds this digest alone: taking it out of its own cells leaves it in
    # the others, which say so again, and again.
    name, weight, _ = slow_places(slow_key(b"a secret"), blobs(0, 1)[0], 1)
    for cells in (1000, 20_000):
        sums = np.full(cells, name, np.uint64)
        weights = np.full(cells, weight, np.uint64)
        assert peel(KEY, sums, weights) is None


def test_cells_that_all_claim_another_digest_are_not_peeled_for_ever() -> None:
    # Taking each out of its own cells makes thousands of others that are to be looked at again.
    cells = 2**14
    random = Random(3)
    sums, weights = np.zeros(cells, np.uint64), np.zeros(cells, np.uint64)
    for cell in range(cells):
        name, weight, _ = slow_places(slow_key(b"a secret"), random.randbytes(32), 1)
        sums[cell], weights[cell] = name, weight
    assert peel(KEY, sums, weights) is None


# --- how much differs ------------------------------------------------------------------------


def guess(ours: Any, theirs: Any) -> Estimate:
    counts = [sketch_of(digests, 2048).counts() for digests in (ours, theirs)]
    return estimate(*counts, len(theirs) - len(ours))


@pytest.mark.parametrize("one_sided", [True, False])
@pytest.mark.parametrize(
    ("differ", "most"), [(1, 6.0), (10, 3.0), (100, 2.0), (1000, 1.8), (20_000, 1.8)]
)
def test_how_much_differs_is_estimated(differ: int, most: float, one_sided: bool) -> None:
    common = blobs(0, 2000)
    for seed in range(1, 6):
        new = blobs(10**6 * seed, 10**6 * seed + differ)
        half = 0 if one_sided else differ // 2
        found = guess(common + new[:half], common + new[half:])
        assert differ / most <= found.differences <= differ * most
        assert 0 < found.deviation < 1


def test_the_estimate_is_never_below_what_one_side_has_more() -> None:
    assert guess(blobs(0, 10), blobs(0, 1500)).differences >= 1490


def test_more_than_counts_can_tell_is_no_number_of_cells() -> None:
    wild = estimate(bytes(64), bytes(range(0, 256, 4)), 0)
    for larger in (10**6, 10**12):
        assert worth_sending(wild, larger, 2**18) == 0
    assert worth_sending(estimate(b"", b"", 0), 10**6, 2**18) == 0
    assert worth_sending(estimate(b"", b"", 10**9), 10**6, 2**18) == 0


def test_cells_are_sent_where_they_are_worth_it() -> None:
    def sent(differences: float, larger: int = 10**6, kept: int = 2**18) -> int:
        return worth_sending(Estimate(differences, 0.18), larger, kept)

    assert needed(1000) < sent(1000) < 2 * needed(1000)
    assert sent(1) < 20
    assert sent(1000, larger=1999) == 0  # a listing is cheaper
    assert sent(1000, kept=1000) == 0  # there are too few
    assert sent(1000, kept=1500) == 1500  # just enough
    assert sent(10**6, larger=10**8, kept=2**22) == MAX_CELLS  # one answer holds no more


def test_the_smallest_sketch_has_all_counts() -> None:
    assert COUNT_CELLS[-1] < FEWEST_CELLS
    assert len(sketch_of([], FEWEST_CELLS).counts()) == len(COUNT_CELLS) == 64
