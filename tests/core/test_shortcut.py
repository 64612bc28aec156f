"""The comparison by sketches: among honest peers, and with those that lie.

Whatever it is fed, it ends after a few questions, and tells nothing that is not proven.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.cells import CELL, PREFIX, needed
from mesh.core.shortcut import (
    MAX_FOUND,
    Find,
    Found,
    Moment,
    MoreCells,
    Question,
    Several,
    Shortcut,
    find,
    named,
)
from mesh.core.sketch import Key, Sketch
from mesh.core.tree import Tree
from mesh.errors import Misbehaved
from tests.oracles import blobs, cluster, digest_sets, quick

KEY = Key.of(b"")
CELLS = 2048


def moment(digests: Iterable[bytes], cells: int = CELLS) -> Moment:
    digests = list(digests)
    return Moment(Tree(digests), Sketch.of(KEY, cells, [b"".join(digests)]))


class Honest:
    """Answers from one set. The liars override what they lie about."""

    def __init__(self, digests: Iterable[bytes]) -> None:
        self.moment = moment(digests)
        self.asked: list[Question] = []

    def name(self) -> tuple[bytes, int]:
        return self.moment.tree.root, len(self.moment.tree)

    def cells(self, start: int, stop: int) -> bytes | None:
        return self.moment.sketch.cells(start, stop)

    def find(self, prefixes: list[bytes]) -> Found | None:
        return find(self.moment.tree, prefixes)

    def tails(self, prefixes: list[bytes]) -> bytes:
        """The honest answer, when each prefix begins one digest."""
        found = find(self.moment.tree, prefixes)
        assert found is not None
        assert not found.others
        return found.tails


@dataclass
class Result:
    proven: bool
    here: list[bytes]
    there: list[bytes]
    questions: list[Question]


def compare(ours: Iterable[bytes], peer: Honest, first: int) -> Result:
    """A whole comparison, which begins with the first so many cells."""
    cells = peer.cells(0, first)
    assert cells is not None
    root, count = peer.name()
    shortcut = Shortcut(moment(ours), root, count, cells)
    while (question := shortcut.question) is not None:
        peer.asked.append(question)
        assert len(peer.asked) <= 5, "there is no end of questions"
        if isinstance(question, MoreCells):
            shortcut.feed(peer.cells(question.start, question.stop))
        else:
            shortcut.feed(peer.find(list(question.prefixes)))
    found = shortcut.found
    there = [digest for some in found.missing_there for digest in some]
    assert sum(some.count for some in found.missing_there) == len(there)
    return Result(shortcut.proven, found.missing_here, there, peer.asked)


def expect_all(result: Result, ours: Iterable[bytes], theirs: Iterable[bytes]) -> None:
    ours, theirs = set(ours), set(theirs)
    assert result.proven
    assert sorted(result.here) == sorted(theirs - ours)
    assert sorted(result.there) == sorted(ours - theirs)


def expect_nothing(result: Result) -> None:
    assert not result.proven
    assert not result.here
    assert not result.there


# --- honest peers ----------------------------------------------------------------------------


@quick
@given(st.integers(0, 2**32), st.integers(0, 40), st.integers(0, 40), st.integers(0, 400))
def test_any_two_sets_are_told_apart(seed: int, here: int, there: int, common: int) -> None:
    random = Random(seed)
    both = [random.randbytes(32) for _ in range(common)]
    ours = both + [random.randbytes(32) for _ in range(here)]
    theirs = both + [random.randbytes(32) for _ in range(there)]
    result = compare(ours, Honest(theirs), 40 + 3 * (here + there))
    expect_all(result, ours, theirs)
    assert len(result.questions) == (1 if there else 0)


@quick
@given(digest_sets(2), digest_sets(2), digest_sets(2))
def test_sets_with_like_prefixes_are_told_apart_rightly_or_not_at_all(
    common: frozenset[bytes], here: frozenset[bytes], there: frozenset[bytes]
) -> None:
    ours, theirs = common | here, common | there
    result = compare(ours, Honest(theirs), 1500)
    if result.proven:
        expect_all(result, ours, theirs)
    else:
        expect_nothing(result)


def test_two_digests_with_one_prefix_are_both_found_when_one_is_here() -> None:
    twins = cluster("ab" * 10, 2, 1)
    ours, theirs = [*blobs(0, 100), twins[0]], [*blobs(50, 150), *twins]
    expect_all(compare(ours, Honest(theirs), 400), ours, theirs)


@pytest.mark.parametrize("kept", [0, 1])
def test_what_its_prefix_does_not_name_is_left_to_the_descent(kept: int) -> None:
    # Of two that are here they have one, or none: nobody can tell by the prefix which are meant.
    twins = cluster("cd" * 10, 2, 1)
    ours, theirs = [*blobs(0, 100), *twins], [*blobs(0, 90), *twins[:kept]]
    expect_nothing(compare(ours, Honest(theirs), 400))


@pytest.mark.parametrize("differ", [20, 200, 600])
def test_too_few_cells_are_asked_for_once_more(differ: int) -> None:
    ours, theirs = blobs(0, 2000), blobs(differ // 2, 2000 + differ // 2)
    result = compare(ours, Honest(theirs), differ)
    expect_all(result, ours, theirs)
    assert [type(question) for question in result.questions] == [MoreCells, Find]


def test_many_too_few_cells_are_given_up_soon() -> None:
    result = compare(blobs(0, 2000), Honest(blobs(500, 2500)), 100)
    expect_nothing(result)
    assert result.questions == [MoreCells(100, 166), MoreCells(166, 265)]


def test_no_more_cells_are_asked_for_than_are_kept_here() -> None:
    result = compare(blobs(0, 4000), Honest(blobs(3000, 7000)), 1900)
    expect_nothing(result)
    assert result.questions == [MoreCells(1900, CELLS)]


def test_a_peer_that_has_moved_on_is_asked_no_more() -> None:
    class Gone(Honest):
        def find(self, prefixes: list[bytes]) -> Found | None:
            return None

    result = compare(blobs(0, 100), Gone(blobs(5, 105)), 60)
    expect_nothing(result)
    assert len(result.questions) == 1


def test_prefixes_are_as_short_as_they_may_be() -> None:
    result = compare(blobs(0, 4000), Honest(blobs(100, 4100)), 500)
    (question,) = result.questions
    assert isinstance(question, Find)
    assert question.width == 3
    assert list(question.prefixes) == sorted(d[:3] for d in blobs(4000, 4100))


@quick
@given(digest_sets(3), st.integers(3, 7), st.data())
def test_digests_are_found_by_prefixes(
    digests: frozenset[bytes], width: int, data: st.DataObject
) -> None:
    some = st.sampled_from(sorted(digests)) if digests else st.just(bytes(32))
    prefixes = sorted({d[:width] for d in data.draw(st.lists(some, max_size=9))})
    if digests and data.draw(st.booleans()):
        prefixes = sorted({*prefixes, b"\x01" * width})
    found = find(Tree(digests), prefixes)
    assert found is not None
    others = {several.index: several.digests for several in found.others}
    at = 0
    for index, prefix in enumerate(prefixes):
        expected = sorted(digest for digest in digests if digest.startswith(prefix))
        if len(expected) == 1:
            assert found.tails[at : at + 25] == expected[0][7:]
            at += 25
        else:
            assert others.pop(index) == b"".join(expected)
    assert not others
    assert len(found.tails) == at


def test_more_digests_than_one_answer_holds_are_no_answer() -> None:
    tree = Tree(cluster("77", MAX_FOUND + 1, 1))
    assert find(tree, [b"\x77"]) is None
    (gone,) = list(tree)[:1]
    assert find(tree.remove([gone]), [b"\x77"]) is not None


# --- liars -----------------------------------------------------------------------------------

OURS, THEIRS = blobs(0, 1000), blobs(20, 1020)
FIRST = 2 * needed(40)


class OtherRoot(Honest):
    """Names a root that is not that of its set."""

    def name(self) -> tuple[bytes, int]:
        return b"\x66" * 32, len(self.moment.tree)


class OtherCount(Honest):
    """Names a count that is not that of its set."""

    def name(self) -> tuple[bytes, int]:
        return self.moment.tree.root, 2**62


class OtherSet(Honest):
    """Names root and count of a set that its cells are not of."""

    def name(self) -> tuple[bytes, int]:
        return Tree(blobs(21, 1021)).root, 1000


class Silent(Honest):
    """Finds nothing by the prefixes that its cells have."""

    def find(self, prefixes: list[bytes]) -> Found | None:
        return Found(b"", [Several(index, b"") for index in range(len(prefixes))])


class Stingy(Honest):
    """Leaves one out."""

    def find(self, prefixes: list[bytes]) -> Found | None:
        return Found(self.tails(prefixes[1:]), [Several(0, b"")])


class Generous(Honest):
    """Has one with a prefix that was asked for, and another name."""

    def find(self, prefixes: list[bytes]) -> Found | None:
        return Found(self.tails(prefixes[1:]), [Several(0, prefixes[0].ljust(32, b"x"))])


class Forger(Honest):
    """Finds digests with the right prefixes, which are not those of its set."""

    def find(self, prefixes: list[bytes]) -> Found | None:
        return Found(bytes(25 * len(prefixes)), [])


class Noise(Honest):
    """Has cells at random, without end."""

    def cells(self, start: int, stop: int) -> bytes | None:
        return Random(start).randbytes(CELL * (stop - start))


class Repeating(Honest):
    """Has the same digest alone in each of its cells."""

    def cells(self, start: int, stop: int) -> bytes | None:
        cell = Sketch.of(KEY, 1, [blobs(5000, 5001)[0]]).cells(0, 1)
        return cell[:7] * (stop - start) + cell[7:] * (stop - start)


class Inventing(Honest):
    """Has the cells of blobs that it does not have, beside those of its set."""

    def __init__(self, digests: Iterable[bytes]) -> None:
        super().__init__(digests)
        self._sketch = self.moment.sketch.changed(blobs(7000, 7010), [])

    def cells(self, start: int, stop: int) -> bytes | None:
        return self._sketch.cells(start, stop)


class Doubling(Inventing):
    """Names one more than it has, invents one, and finds another one twice to make up for it."""

    def __init__(self, digests: Iterable[bytes]) -> None:
        super().__init__(digests)
        self._sketch = self.moment.sketch.changed(blobs(7000, 7001), [])

    def name(self) -> tuple[bytes, int]:
        root, count = super().name()
        return root, count + 1

    def find(self, prefixes: list[bytes]) -> Found | None:
        found = find(self.moment.tree, prefixes)
        assert found is not None
        assert len(found.others) == 1
        (invented,) = found.others
        first = 1 if invented.index == 0 else 0
        double = 2 * next(digest for digest in sorted(THEIRS) if digest[:3] == prefixes[first])
        others = sorted([invented, Several(first, double)], key=lambda several: several.index)
        return Found(found.tails[25:], others)


class Denying(Honest):
    """Has the cells of a set that lacks blobs which nobody has."""

    def __init__(self, digests: Iterable[bytes]) -> None:
        super().__init__(digests)
        self._sketch = self.moment.sketch.changed([], blobs(8000, 8010))

    def cells(self, start: int, stop: int) -> bytes | None:
        return self._sketch.cells(start, stop)


class NoMore(Honest):
    """Sends some cells, and no more when it is asked."""

    def cells(self, start: int, stop: int) -> bytes | None:
        return self.moment.sketch.cells(0, 30) if not start else b""


@pytest.mark.parametrize(
    "kind",
    [OtherRoot, OtherCount, OtherSet, Silent, Stingy, Generous, Forger, Noise, Repeating,
     Inventing, Doubling, Denying, NoMore],
)  # fmt: skip
def test_a_lie_is_never_proven(kind: Callable[[Iterable[bytes]], Honest]) -> None:
    expect_nothing(compare(OURS, kind(THEIRS), FIRST))


def test_the_liars_would_be_believed_if_they_did_not_lie() -> None:
    expect_all(compare(OURS, Honest(THEIRS), FIRST), OURS, THEIRS)


class Unasked(Honest):
    """Sends digests that nobody asked for."""

    def find(self, prefixes: list[bytes]) -> Found | None:
        return Found(self.tails(prefixes[1:]), [Several(0, blobs(3000, 3001)[0])])


class TooMany(Honest):
    def find(self, prefixes: list[bytes]) -> Found | None:
        return Found(self.tails(prefixes) + bytes(25), [])


class TooFew(Honest):
    def find(self, prefixes: list[bytes]) -> Found | None:
        return Found(self.tails(prefixes[1:]), [])


class Beyond(Honest):
    def find(self, prefixes: list[bytes]) -> Found | None:
        return Found(self.tails(prefixes), [Several(len(prefixes), b"")])


class Twice(Honest):
    def find(self, prefixes: list[bytes]) -> Found | None:
        return Found(self.tails(prefixes[2:]), [Several(0, b""), Several(0, b"")])


class Pieces(Honest):
    def find(self, prefixes: list[bytes]) -> Found | None:
        return Found(self.tails(prefixes[1:]), [Several(0, bytes(33))])


class TooManyCells(Honest):
    def cells(self, start: int, stop: int) -> bytes | None:
        return self.moment.sketch.cells(0, CELLS) + bytes(CELL)


class PartsOfCells(Honest):
    def cells(self, start: int, stop: int) -> bytes | None:
        return bytes(CELL * 3 + 1)


class MoreThanAsked(Honest):
    def cells(self, start: int, stop: int) -> bytes | None:
        return self.moment.sketch.cells(start, 30 if not start else stop + 1)


@pytest.mark.parametrize(
    "kind",
    [Unasked, TooMany, TooFew, Beyond, Twice, Pieces, TooManyCells, PartsOfCells, MoreThanAsked],
)
def test_an_answer_to_another_question_is_misbehaviour(
    kind: Callable[[Iterable[bytes]], Honest],
) -> None:
    with pytest.raises(Misbehaved, match="the peer sent"):
        compare(OURS, kind(THEIRS), FIRST)


indexes = st.lists(st.integers(0, 21), max_size=2)


@quick
@given(st.data())
def test_changed_cells_and_answers_prove_nothing_wrong(data: st.DataObject) -> None:
    class Mutating(Honest):
        def cells(self, start: int, stop: int) -> bytes | None:
            return changed(data, self.moment.sketch.cells(start, stop), CELL)

        def find(self, prefixes: list[bytes]) -> Found | None:
            others = [Several(at, blobs(at, at + 1)[0]) for at in data.draw(indexes)]
            return Found(changed(data, self.tails(prefixes), 25), others)

    try:
        result = compare(OURS, Mutating(THEIRS), FIRST)
    except Misbehaved:
        return
    if result.proven:
        expect_all(result, OURS, THEIRS)
    else:
        expect_nothing(result)


def changed(data: st.DataObject, whole: bytes, piece: int) -> bytes:
    """`whole` with some bits flipped, or pieces of it gone, or doubled."""
    out = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, max(0, len(out) - 1)))
        match data.draw(st.sampled_from(["flip", "cut", "double"])):
            case "flip" if out:
                out[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del out[at - at % piece : at - at % piece + piece]
            case "double":
                out += out[at - at % piece : at - at % piece + piece]
    return bytes(out)


# --- which of some digests are there -------------------------------------------------------------


@quick
@given(digest_sets(), digest_sets())
def test_an_answer_names_what_begins_as_was_asked(
    theirs: frozenset[bytes], asked: frozenset[bytes]
) -> None:
    prefixes = sorted({digest[:PREFIX] for digest in asked})
    found = find(Tree(theirs), prefixes)
    assert found is not None
    answered = named(prefixes, found)
    assert len(answered) == len(set(answered))
    assert set(answered) == {digest for digest in theirs if digest[:PREFIX] in prefixes}
    assert set(answered) & asked == theirs & asked


@pytest.mark.parametrize(
    "found",
    [
        Found(b"", []),
        Found(b"t" * 26, []),
        Found(b"t" * 50, []),
        Found(b"", [Several(1, b"")]),
        Found(b"", [Several(0, b"d" * 32)]),
    ],
)
def test_an_answer_to_another_question_names_nothing(found: Found) -> None:
    with pytest.raises(Misbehaved):
        named([b"p" * PREFIX], found)
