"""All times are numbers that the test makes up; a dumb list of owners is the oracle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.digest import Digest, digest_of
from mesh.core.partial import (
    FRUITLESS,
    LONGEST_KEPT,
    MOST_KEPT,
    MOST_KEPT_BYTES,
    MOST_PIECES,
    PROGRESS,
    STRANGERS,
    Evidence,
    Kept,
    Piece,
    Progress,
    Shelf,
    Tries,
)
from tests.oracles import blobs, quick

BRINGERS = st.sampled_from([b"one", b"two", b"three"])


# --- pieces ----------------------------------------------------------------------------------


@quick
@given(st.lists(st.tuples(BRINGERS, st.integers(0, 40))))
def test_every_byte_has_the_bringer_that_is_noted(brought: list[tuple[bytes, int]]) -> None:
    progress = Progress()
    owners: list[bytes] = []
    for bringer, length in brought:
        progress.add(bringer, length)
        owners += [bringer] * length
    assert progress.size == len(owners)
    told = [piece.bringer for piece in progress.pieces for _ in range(piece.start, piece.stop)]
    assert told == owners
    assert progress.bringers == list(dict.fromkeys(owners))
    neighbours = zip(progress.pieces, progress.pieces[1:], strict=False)
    assert all(one.stop == two.start and one.bringer != two.bringer for one, two in neighbours)


def test_bytes_of_one_bringer_are_one_piece() -> None:
    progress = Progress()
    for length in (5, 0, 7):
        progress.add(b"one", length)
    progress.add(b"two", 1)
    assert progress.pieces == [Piece(b"one", 0, 12), Piece(b"two", 12, 13)]


def test_anybody_may_go_on_with_what_is_not_fetched_alone() -> None:
    progress = Progress()
    progress.add(b"one", 5)
    assert progress.welcomes(b"one")
    assert progress.welcomes(b"two")


def test_what_is_fetched_alone_has_one_bringer() -> None:
    progress = Progress(alone=True)
    assert progress.welcomes(b"one")
    progress.add(b"one", 5)
    assert progress.welcomes(b"one")
    assert not progress.welcomes(b"two")


def test_what_a_configured_peer_has_a_part_in_is_guarded() -> None:
    progress = Progress()
    assert not progress.guarded
    progress.add(STRANGERS, 5)
    assert not progress.guarded
    progress.add(b"one", 1)
    progress.add(STRANGERS, 5)
    assert progress.guarded


def test_peers_that_take_turns_without_end_do_not_make_the_record_grow() -> None:
    progress = Progress()
    for number in range(MOST_PIECES):
        assert progress.welcomes(b"%d" % (number % 2))
        progress.add(b"%d" % (number % 2), 1)
    assert progress.welcomes(b"%d" % ((MOST_PIECES - 1) % 2))
    assert not progress.welcomes(b"another")


# --- who lied --------------------------------------------------------------------------------


def test_a_wrong_whole_convicts_its_only_bringer() -> None:
    progress = Progress()
    assert progress.liar() is None
    progress.add(b"one", 5)
    assert progress.liar() == b"one"
    progress.add(b"two", 5)
    assert progress.liar() is None


@quick
@given(st.lists(st.tuples(BRINGERS, st.binary(min_size=1, max_size=5), st.booleans()), max_size=9))
def test_evidence_convicts_those_whose_bytes_differ(
    parts: list[tuple[bytes, bytes, bool]],
) -> None:
    evidence, right, at = [], [], 0
    for bringer, data, lies in parts:
        sent = bytes(each ^ 1 for each in data) if lies else data
        evidence.append(Evidence(bringer, at, at + len(data), digest_of(sent)))
        right.append(digest_of(data))
        at += len(data)
    progress = Progress(alone=True, evidence=evidence)
    assert set(progress.liars(right)) == {bringer for bringer, _, lies in parts if lies}


# --- going on --------------------------------------------------------------------------------


@quick
@given(st.lists(st.integers(0, 2 * PROGRESS)))
def test_a_cut_transfer_goes_on_while_it_makes_progress(brought: list[int]) -> None:
    tries = Tries()
    fruitless = 0
    for size in brought:
        fruitless = 0 if size >= PROGRESS else fruitless + 1
        assert tries.again(size) == (fruitless < FRUITLESS)


# --- what is kept ----------------------------------------------------------------------------


def names(count: int) -> list[Digest]:
    return blobs(0, count)


def test_what_nothing_comes_of_for_a_week_is_given_up() -> None:
    one, two = names(2)
    shelf = Shelf()
    assert shelf.look([Kept(one, 5, False), Kept(two, 5, False)], 0.0) == []
    assert shelf.look([Kept(one, 5, False), Kept(two, 6, False)], LONGEST_KEPT) == []
    assert shelf.look([Kept(one, 5, False), Kept(two, 6, False)], LONGEST_KEPT + 1.0) == [one]
    assert shelf.look([Kept(two, 6, False)], 2 * LONGEST_KEPT) == []
    assert shelf.look([Kept(two, 6, False)], 2 * LONGEST_KEPT + 1.0) == [two]


def test_what_is_busy_is_never_given_up() -> None:
    shelf = Shelf()
    kept = [Kept(name, MOST_KEPT_BYTES, True) for name in names(2 * MOST_KEPT)]
    assert shelf.look(kept, 0.0) == []
    assert shelf.look(kept, 10 * LONGEST_KEPT) == []


def test_the_last_one_stays_however_large_it_is() -> None:
    (one,) = names(1)
    assert Shelf().look([Kept(one, 2 * MOST_KEPT_BYTES, False)], 0.0) == []


@quick
@given(
    st.lists(
        st.tuples(st.integers(0, MOST_KEPT_BYTES // 8), st.floats(0.0, 1000.0)), max_size=MOST_KEPT
    ),
    st.integers(0, 40),
)
def test_what_stays_is_within_the_limits_and_younger_than_what_goes(
    sizes: list[tuple[int, float]], more: int
) -> None:
    every = [*sizes, *((1, float(at)) for at in range(more))]
    came = sorted(zip(names(len(every)), every, strict=True), key=lambda each: each[1][1])
    shelf = Shelf()
    kept: list[Kept] = []
    for name, (size, since) in came:
        kept.append(Kept(name, size, False))
        gone = shelf.look(kept, since)
        left = [each for each in kept if each.digest not in gone]
        assert gone == [each.digest for each in kept if each.digest in gone]
        assert len(left) <= MOST_KEPT
        assert len(left) <= 1 or sum(each.size for each in left) <= MOST_KEPT_BYTES
        assert kept == [] or left, "something always stays"
        kept = left
