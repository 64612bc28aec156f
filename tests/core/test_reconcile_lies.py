"""The descent against peers that lie: found out, in a bounded number of requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mesh.core.reconcile import FULL_HASH, SHORT_HASH, Answer, Ask, Forked, Listed, answer
from mesh.core.tree import LEAF_MAX, Bucket, Tree, hash_fork, hash_leaf
from mesh.errors import Misbehaved
from tests.descents import Honest, descend, expect_all
from tests.oracles import blobs, digest_sets, quick

WIDTHS = [SHORT_HASH, FULL_HASH]

Lie = Callable[[Tree, Ask, Any], Answer | None]


class Liar(Honest):
    """Answers from its tree, except where `lie` has another answer."""

    def __init__(self, tree: Tree, lie: Lie, **paging: int) -> None:
        super().__init__(tree, **paging)
        self._lie = lie
        self.lies = 0

    def ask(self, asks: Sequence[Ask], width: int) -> list[Answer]:
        answers = super().ask(asks, width)
        for at, ask in enumerate(asks[: len(answers)]):
            false = self._lie(self.tree, ask, answers[at])
            if false is not None:
                self.lies += 1
                answers[at] = false
        return answers


class Scripted:
    """A peer that names any root, and answers each ask by a function of it."""

    def __init__(self, root: bytes, count: int, reply: Callable[[Ask], Answer]) -> None:
        self._name = root, count
        self._reply = reply

    def name(self) -> tuple[bytes, int]:
        return self._name

    def ask(self, asks: Sequence[Ask], width: int) -> list[Answer]:
        return [self._reply(ask) for ask in asks]


def of_forks(**changes: Callable[[Forked], Any]) -> Lie:
    """Forks with some fields changed."""

    def lie(tree: Tree, ask: Ask, true: Answer) -> Answer | None:
        if not isinstance(true, Forked):
            return None
        return replace(true, **{name: change(true) for name, change in changes.items()})

    return lie


def of_leaves(change: Callable[[list[bytes]], list[bytes]], more: bool = False) -> Lie:
    """Leaves of at least two digests, with other digests."""

    def lie(tree: Tree, ask: Ask, true: Answer) -> Answer | None:
        # Not in the highest buckets: nothing is above them.
        if isinstance(true, Forked) or ask.after is not None or ask.prefix >= "ff":
            return None
        digests = split(true)
        return Listed(b"".join(change(digests)), more) if len(digests) > 1 else None

    return lie


def of_pages(
    change: Callable[[list[bytes]], list[bytes]],
    more: bool | None = None,
    when: Callable[[Ask, Listed], bool] = lambda ask, true: True,
) -> Lie:
    """Pages of listings, with other digests; `when` chooses the pages."""

    def lie(tree: Tree, ask: Ask, true: Answer) -> Answer | None:
        if isinstance(true, Forked) or ask.after is None or not when(ask, true):
            return None
        return Listed(b"".join(change(split(true))), true.more if more is None else more)

    return lie


def split(reply: Listed) -> list[bytes]:
    return [reply.digests[at : at + 32] for at in range(0, len(reply.digests), 32)]


def leaf_for_fork(digests: Callable[[Tree, str], list[bytes]]) -> Lie:
    def lie(tree: Tree, ask: Ask, true: Answer) -> Answer | None:
        if not isinstance(true, Forked):
            return None
        return Listed(b"".join(digests(tree, ask.prefix)))

    return lie


def forked(tree: Tree, prefix: str, width: int) -> Forked:
    """The children of a bucket, whether it is a leaf or not."""
    children = tree.children(prefix)
    return Forked(
        sum(0x8000 >> nibble for nibble, child in enumerate(children) if child),
        [child.count for child in children if child],
        b"".join(child.digest[:width] for child in children if child),
    )


def fork_for_leaf(tree: Tree, ask: Ask, true: Answer) -> Answer | None:
    if isinstance(true, Forked) or ask.after is not None or not true.digests:
        return None
    return forked(tree, ask.prefix, SHORT_HASH)


def fork_for_page(tree: Tree, ask: Ask, true: Answer) -> Answer | None:
    return forked(tree, ask.prefix, SHORT_HASH) if ask.after is not None else None


def last_page(ask: Ask, true: Listed) -> bool:
    return not true.more


def later_page(ask: Ask, true: Listed) -> bool:
    return bool(ask.after)


LOWEST, HIGHEST = bytes(32), b"\xff" * 32
NO_CHILDREN = "its children are not what it promised"
NO_LEAF = "its digests are not those that it promised"
NO_LISTING = "its listing is not what it promised"
ENDLESS = "its listing has no end"
PIECES = "it lists pieces of digests"
ORDER = "its digests do not ascend"
FOREIGN = "it lists digests of another bucket"

LIES = {
    "counts that do not sum up": (
        of_forks(counts=lambda f: [f.counts[0] + 1, *f.counts[1:]]),
        NO_CHILDREN,
    ),
    "counts moved to a sibling": (
        of_forks(counts=lambda f: [f.counts[0] + 1, f.counts[1] - 1, *f.counts[2:]]),
        NO_CHILDREN,
    ),
    "a negative count": (
        of_forks(counts=lambda f: [-1, f.counts[1] + f.counts[0] + 1, *f.counts[2:]]),
        NO_CHILDREN,
    ),
    "a child of nothing": (
        of_forks(counts=lambda f: [0, f.counts[1] + f.counts[0], *f.counts[2:]]),
        NO_CHILDREN,
    ),
    "a count too few": (
        of_forks(counts=lambda f: [f.counts[0] + f.counts[1], *f.counts[2:]]),
        NO_CHILDREN,
    ),
    "a count too many": (
        of_forks(counts=lambda f: [f.counts[0] - 1, 1, *f.counts[1:]]),
        NO_CHILDREN,
    ),
    "no children": (
        of_forks(bitmap=lambda f: 0, counts=lambda f: [], hashes=lambda f: b""),
        NO_CHILDREN,
    ),
    "a child without hash and count": (of_forks(bitmap=lambda f: f.bitmap & 0x7FFF), NO_CHILDREN),
    "a seventeenth child": (of_forks(bitmap=lambda f: f.bitmap | 0x10000), NO_CHILDREN),
    "a negative bitmap": (of_forks(bitmap=lambda f: f.bitmap - 0x10000), NO_CHILDREN),
    "a hash cut short": (of_forks(hashes=lambda f: f.hashes[:-1]), NO_CHILDREN),
    "a hash too long": (of_forks(hashes=lambda f: f.hashes + b"x"), NO_CHILDREN),
    "no hashes": (of_forks(hashes=lambda f: b""), NO_CHILDREN),
    "hashes of twice the width": (of_forks(hashes=lambda f: f.hashes * 2), NO_CHILDREN),
    "children of a leaf": (fork_for_leaf, NO_CHILDREN),
    "children instead of a page": (fork_for_page, NO_CHILDREN),
    "nothing in a fork": (leaf_for_fork(lambda tree, prefix: []), NO_LEAF),
    "sixteen digests of a fork": (
        leaf_for_fork(lambda tree, prefix: list(tree.digests(prefix))[:16]),
        NO_LEAF,
    ),
    "all the digests of a fork": (
        leaf_for_fork(lambda tree, prefix: list(tree.digests(prefix))),
        NO_LEAF,
    ),
    "a leaf with more to come": (of_leaves(lambda digests: digests, more=True), NO_LEAF),
    "a leaf with one digest less": (of_leaves(lambda digests: digests[1:]), NO_LEAF),
    "a leaf with nothing": (of_leaves(lambda digests: []), NO_LEAF),
    "a leaf with another digest": (
        of_leaves(lambda digests: [*digests[:-1], digests[-1][:31] + b"\xff"]),
        NO_LEAF,
    ),
    "a leaf out of order": (of_leaves(lambda digests: digests[::-1]), ORDER),
    "a digest twice in a leaf": (of_leaves(lambda digests: [digests[0], *digests]), ORDER),
    "a piece of a digest in a leaf": (of_leaves(lambda digests: [*digests, b"x"]), PIECES),
    "a leaf with a digest cut short": (
        of_leaves(lambda digests: [*digests[:-1], digests[-1][:31]]),
        PIECES,
    ),
    "a leaf with a lower bucket's digest": (of_leaves(lambda digests: [LOWEST, *digests]), FOREIGN),
    "a leaf with a higher bucket's digest": (
        of_leaves(lambda digests: [*digests, bytes([digests[0][0] + 1]) * 32]),
        FOREIGN,
    ),
    "an empty page with more to come": (of_pages(lambda digests: [], more=True), ENDLESS),
    "empty pages after the last one": (
        of_pages(lambda digests: [], more=True, when=later_page),
        ENDLESS,
    ),
    "always more to come": (of_pages(lambda digests: digests, more=True), ENDLESS),
    "more than promised": (
        of_pages(lambda digests: [*digests, digests[-1][:31] + b"\xff"], when=last_page),
        ENDLESS,
    ),
    "less than promised": (of_pages(lambda digests: digests, more=False), NO_LISTING),
    "another digest in a page": (
        of_pages(lambda digests: [*digests[:-1], digests[-1][:31] + b"\xff"], when=last_page),
        NO_LISTING,
    ),
    "a page out of order": (of_pages(lambda digests: digests[::-1]), ORDER),
    "a digest twice in a page": (of_pages(lambda digests: [digests[0], *digests]), ORDER),
    "a piece of a digest in a page": (of_pages(lambda digests: [*digests, b"x"]), PIECES),
    "a page with a lower bucket's digest": (
        of_pages(lambda digests: [LOWEST, *digests], when=lambda ask, true: not ask.after),
        FOREIGN,
    ),
    "a page with a higher bucket's digest": (
        of_pages(lambda digests: [*digests, HIGHEST], when=later_page),
        FOREIGN,
    ),
}


def first_page_again(tree: Tree, ask: Ask, true: Answer) -> Answer | None:
    return answer(tree, [Ask(ask.prefix, b"")], SHORT_HASH)[0] if ask.after else None


def last_digest_again(tree: Tree, ask: Ask, true: Answer) -> Answer | None:
    return Listed(ask.after, True) if ask.after else None


def a_digest_back(tree: Tree, ask: Ask, true: Answer) -> Answer | None:
    if not ask.after:
        return None
    before = [digest for digest in tree.digests(ask.prefix) if digest < ask.after]
    return Listed(before[-1] + true.digests, true.more)


LIES["a cursor that goes in circles"] = (first_page_again, ORDER)
LIES["a cursor that stands still"] = (last_digest_again, ORDER)
LIES["a cursor that goes back"] = (a_digest_back, ORDER)


@pytest.mark.parametrize(("lie", "says"), LIES.values(), ids=LIES.keys())
def test_a_peer_is_found_out_that_answers_with(lie: Lie, says: str) -> None:
    # Of bucket 7 they alone have anything, some 130 digests; elsewhere, both have forks and leaves.
    ours = [digest for digest in blobs(0, 1000) if digest.hex()[0] != "7"]
    peer = Liar(Tree(blobs(500, 2000)), lie, page=40)
    with pytest.raises(Misbehaved, match=says):
        descend(Tree(ours), peer, requests=12)
    assert peer.lies


def test_the_peer_of_the_lies_is_believed_when_it_does_not_lie() -> None:
    ours = [digest for digest in blobs(0, 1000) if digest.hex()[0] != "7"]
    peer = Liar(Tree(blobs(500, 2000)), lambda tree, ask, true: None, page=40)
    result = descend(Tree(ours), peer)
    expect_all(result, ours, blobs(500, 2000))
    assert result.requests <= 12


HONEST = Tree(blobs(0, 1000))


@pytest.mark.parametrize("lie", [1, 0], ids=["the first child", "a leaf's hash"])
def test_hashes_that_are_not_those_of_the_children_are_a_lie_at_full_width(lie: int) -> None:
    def of_hashes(tree: Tree, ask: Ask, true: Answer) -> Answer | None:
        if not isinstance(true, Forked) or len(ask.prefix) == lie:
            return None
        return replace(true, hashes=bytes([true.hashes[0] ^ 1]) + true.hashes[1:])

    peer = Liar(Tree(blobs(500, 1500)), of_hashes)
    with pytest.raises(Misbehaved):
        descend(HONEST, peer, FULL_HASH, requests=12)
    assert peer.lies


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("size", [0, 8, 31])
@pytest.mark.parametrize("count", [5, 1000])
@pytest.mark.parametrize("ours", [Tree(), HONEST], ids=len)
def test_a_part_of_the_root_proves_nothing(ours: Tree, count: int, size: int, width: int) -> None:
    theirs = Tree(blobs(500, 500 + count))
    peer = Liar(theirs, lambda *_: None)
    peer.name = lambda: (theirs.root[:size], count)
    try:
        result = descend(ours, peer, width, requests=20)
    except Misbehaved:
        return
    assert not result.proven


@pytest.mark.parametrize("width", WIDTHS)
def test_a_false_count_of_a_bucket_that_is_equal_is_a_lie(width: int) -> None:
    theirs = HONEST.add([b"\x70" * 32])

    def of_counts(tree: Tree, ask: Ask, true: Answer) -> Answer | None:
        if ask.prefix or not isinstance(true, Forked):
            return None
        return replace(true, counts=[true.counts[0] + 1, true.counts[1] - 1, *true.counts[2:]])

    with pytest.raises(Misbehaved):
        descend(HONEST, Liar(theirs, of_counts), width, requests=4)


@pytest.mark.parametrize("count", [5, 1000])
def test_a_root_that_is_not_that_of_its_children_is_a_lie_at_full_width(count: int) -> None:
    tree = Tree(blobs(0, count))
    peer = Liar(tree, lambda *_: None)
    peer.name = lambda: (b"\x01" * 32, count)
    if count > LEAF_MAX:
        # With short hashes it may be a collision, and is only not proven.
        short = descend(tree, peer, SHORT_HASH, requests=1)
        assert not short.proven
        assert not short.missing_here
    with pytest.raises(Misbehaved):
        descend(tree, peer, FULL_HASH, requests=1)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("root", "count"),
    [
        (HONEST.root, 0),
        (b"\x01" * 32, 0),
        (Tree().root, 1),
        (Tree().root, 1000),
        (HONEST.root, 999),
        (HONEST.root, 1001),
        (HONEST.root, 2**64 - 1),
        (HONEST.root, 5),
        (HONEST.root, -1),
    ],
    ids=[
        "a root of nothing",
        "an invented root of nothing",
        "the empty root of one",
        "the empty root of many",
        "one less",
        "one more",
        "too many",
        "too few",
        "less than none",
    ],
)
@pytest.mark.parametrize("ours", [Tree(), Tree(blobs(0, 1)), HONEST], ids=len)
def test_a_root_and_a_count_that_do_not_belong_together_are_a_lie(
    ours: Tree, root: bytes, count: int, width: int
) -> None:
    peer = Liar(HONEST, lambda *_: None)
    peer.name = lambda: (root, count)
    if width == SHORT_HASH and root == Tree().root and count == 1000 and len(ours):
        # All else is true, and only the root is not: with short hashes, it could be a collision.
        assert not descend(ours, peer, width, requests=20).proven
        return
    with pytest.raises(Misbehaved):
        descend(ours, peer, width, requests=20)


@pytest.mark.parametrize("after", [0, 2])
def test_no_answers_at_all_is_a_lie(after: int) -> None:
    class Silent(Honest):
        def ask(self, asks: Sequence[Ask], width: int) -> list[Answer]:
            answers = super().ask(asks, width)
            return [] if self._requests > after else answers

    with pytest.raises(Misbehaved, match=r"gave 0 answers to \d+ questions"):
        descend(HONEST, Silent(Tree(blobs(500, 1500))), requests=after + 1)


def test_more_answers_than_asks_are_a_lie() -> None:
    class Talkative(Honest):
        def ask(self, asks: Sequence[Ask], width: int) -> list[Answer]:
            answers = super().ask(asks, width)
            return [*answers, answers[-1]]

    with pytest.raises(Misbehaved, match="gave 2 answers to 1 questions"):
        descend(HONEST, Talkative(Tree(blobs(500, 1500))), requests=1)


# Lies that hold together, hash by hash, up to the root: only the shape of the trie tells them.


def small_fork(digests: list[bytes]) -> Scripted:
    tree = Tree(digests)
    root = hash_fork(tree.children(""))

    def reply(ask: Ask) -> Answer:
        if ask.prefix:
            return answer(tree, [ask], SHORT_HASH)[0]
        return forked(tree, "", SHORT_HASH)

    return Scripted(root, len(digests), reply)


def one_leaf(digests: list[bytes]) -> Scripted:
    joined = b"".join(digests)
    return Scripted(hash_leaf(joined), len(digests), lambda ask: Listed(joined))


def one_bucket(prefix: str, digests: list[bytes]) -> Scripted:
    """A fork of which one child is answered with `digests`; the others are as they should be."""
    tree, joined = Tree(blobs(0, 200)), b"".join(digests)
    children = tree.children("")
    children[int(prefix, 16)] = child = Bucket(len(digests), hash_leaf(joined))
    count = sum(each.count for each in children if each)

    def reply(ask: Ask) -> Answer:
        if ask.prefix == prefix:
            return Listed(joined)
        if ask.prefix:
            return answer(tree, [ask], SHORT_HASH)[0]
        true = forked(tree, "", SHORT_HASH)
        at = bin(true.bitmap >> (16 - int(prefix, 16))).count("1")
        true.counts[at] = child.count
        hashes = [each.digest[:SHORT_HASH] for each in children if each]
        return replace(true, hashes=b"".join(hashes))

    return Scripted(hash_fork(children), count, reply)


SIXTEEN = sorted(blobs(0, 16))


SHAPES = {
    "a fork of sixteen": (small_fork(SIXTEEN), NO_CHILDREN),
    "a fork of one": (small_fork(SIXTEEN[:1]), NO_CHILDREN),
    "a leaf of seventeen": (one_leaf(sorted(blobs(0, 17))), NO_LEAF),
    "a leaf out of order": (one_leaf(SIXTEEN[::-1]), ORDER),
    "a digest twice": (one_leaf(SIXTEEN[:1] * 2), ORDER),
    "a digest twice, deeper": (one_bucket("7", [b"\x70" * 32] * 2), ORDER),
    "the digests of another bucket": (one_bucket("7", SIXTEEN[:3]), FOREIGN),
    "a digest above the bucket": (one_bucket("7", [b"\x70" * 32, b"\x80" * 32]), FOREIGN),
    "a digest below the bucket": (one_bucket("7", [b"\x60" * 32, b"\x70" * 32]), FOREIGN),
}


@pytest.mark.parametrize("ours", [Tree(blobs(0, 10)), HONEST], ids=len)
@pytest.mark.parametrize(("peer", "says"), SHAPES.values(), ids=SHAPES.keys())
def test_a_peer_is_found_out_whose_every_hash_is_right_but_has(
    ours: Tree, peer: Scripted, says: str
) -> None:
    with pytest.raises(Misbehaved, match=says):
        descend(ours, peer, requests=4)


class EndlessForks(Scripted):
    """Invents children that differ from ours below every bucket that we have, however deep."""

    def __init__(self, ours: Tree) -> None:
        super().__init__(b"\x01" * 32, 2**62, self._invent)
        self._ours = ours
        self._promised = {"": 2**62}

    def _invent(self, ask: Ask) -> Answer:
        here = [n for n, child in enumerate(self._ours.children(ask.prefix)) if child]
        share, rest = divmod(self._promised[ask.prefix], len(here))
        counts = [share + rest, *[share] * (len(here) - 1)]
        for nibble, count in zip(here, counts, strict=True):
            self._promised[f"{ask.prefix}{nibble:x}"] = count
        return Forked(sum(0x8000 >> n for n in here), counts, b"\x01" * (SHORT_HASH * len(here)))


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_forks_without_end_are_a_lie(count: int) -> None:
    ours = blobs(0, count)
    with pytest.raises(Misbehaved):
        # 63 levels for each of our digests, at 1,024 asks a request.
        descend(Tree(ours), EndlessForks(Tree(ours)), requests=64 * (1 + count // 1024))


# --- any lie ---------------------------------------------------------------------------------


def twisted(true: Answer, random: Random) -> Answer:
    """An answer with one thing wrong."""
    if isinstance(true, Forked):
        counts, hashes, at = list(true.counts), bytearray(true.hashes), random.randrange(16)
        at %= len(counts)
        match random.randrange(6):
            case 0:
                return replace(true, bitmap=true.bitmap ^ 1 << random.randrange(17))
            case 1:
                counts[at] += random.choice([-1, 1])
            case 2:
                counts[at], counts[0] = counts[0] - 1, counts[at] + 1
            case 3:
                hashes[random.randrange(len(hashes))] ^= 1 << random.randrange(8)
            case 4:
                del hashes[random.randrange(len(hashes))]
            case 5:
                return Listed(bytes(hashes))
        return replace(true, counts=counts, hashes=bytes(hashes))
    digests = split(true)
    match random.randrange(6):
        case 0:
            return replace(true, more=not true.more)
        case 1:
            digests.insert(random.randint(0, len(digests)), random.randbytes(32))
        case 2:
            random.shuffle(digests)
        case 3:
            digests = digests[1:]
        case 4:
            digests += digests[-1:]
        case 5:
            return Forked(0x8000, [max(1, len(digests))], bytes(SHORT_HASH))
    return replace(true, digests=b"".join(digests))


@pytest.mark.parametrize("width", WIDTHS)
@quick
@given(digest_sets(2), digest_sets(2), digest_sets(2), st.integers(0, 60), st.integers(0, 2**20))
def test_whatever_is_wrong_in_one_answer_proven_means_complete(
    width: int,
    common: frozenset[bytes],
    here: frozenset[bytes],
    there: frozenset[bytes],
    nth: int,
    seed: int,
) -> None:
    ours, theirs = common | here, common | there
    left = nth

    def lie(tree: Tree, ask: Ask, true: Answer) -> Answer | None:
        nonlocal left
        left -= 1
        return twisted(true, Random(seed)) if left == 0 else None

    try:
        result = descend(Tree(ours), Liar(Tree(theirs), lie, page=50), width, limit=64)
    except Misbehaved:
        return
    if result.proven:
        expect_all(result, ours, theirs)
    else:
        assert width == SHORT_HASH


counts = st.integers(-1, 40) | st.sampled_from([2**32, 2**64 - 1])
any_answer = st.one_of(
    st.builds(
        Forked,
        st.integers(0, 0xFFFF) | st.integers(-1, 0x10000),
        st.lists(counts, max_size=17),
        st.binary(max_size=24),
    ),
    st.builds(Listed, st.binary(max_size=70), st.booleans()),
    # What passes the first checks, and so goes further.
    st.builds(
        lambda count, nibble: Forked(0x8000 >> nibble, [count], bytes(SHORT_HASH)),
        counts,
        st.integers(0, 15),
    ),
    st.builds(
        lambda digests, more: Listed(b"".join(sorted(digests)), more),
        st.lists(st.binary(min_size=32, max_size=32), max_size=20),
        st.booleans(),
    ),
)


@quick
@given(digest_sets(2), st.binary(min_size=32, max_size=32), counts, st.lists(any_answer))
def test_answers_at_random_are_a_lie_and_nothing_worse(
    ours: frozenset[bytes], root: bytes, count: int, answers: list[Answer]
) -> None:
    tree = Tree(ours)
    script = iter(answers)
    peer = Scripted(root, count, lambda ask: next(script, Listed(b"")))
    with pytest.raises(Misbehaved):
        descend(tree, peer, requests=len(answers) + 3)
