"""A comparison by sketches, as a value: what to ask next, and whether the result is proven.

It ends after one or two questions, whatever it is fed, and then is `proven` or not. Only what is
proven is told: what we had, with what is missing here and without what is missing there, has the
root that the other side named. Otherwise nothing is known but that a descent has to find out.

What a liar can cause is bounded by the cells that we keep. They are peeled at most three times,
which takes 1.3 s each at 2^18 forged cells. One overlay of as many digests follows, 15 µs a digest,
on a thread where it is much. Then the descent begins, which has bounds of its own. A proven result
is as true as the root: a root that is made up lists blobs that nobody delivers, as in a descent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec
from msgspec import Meta

from mesh.core.cells import CELL, MAX_CELLS, PREFIX
from mesh.core.digest import Digest, split_digests
from mesh.core.reconcile import Difference, Named
from mesh.core.tree import Bucket, Tree
from mesh.core.tree.overlay import overlaid, starting
from mesh.errors import Misbehaved

if TYPE_CHECKING:
    from mesh.core.sketch import Sketch  # which loads numpy: only nodes and benchmarks do

# Digests in one answer: 4.2 MB, below the limit of a message. And prefixes in one question, a few
# less, since some may begin several digests.
MAX_FOUND = 2**17
MAX_PREFIXES = 120_000

_TAIL = 32 - PREFIX

MIN_WIDTH = 3
"""Bytes of a prefix at least: among 100,000 digests, one finds none or one."""

# How often more cells are asked for when those that came do not come apart, and how many at least.
# Half as many again are asked for: enough when the differences were taken for two thirds of what
# they are.
_MORE = 2
_MORE_CELLS = 16

# Bits of a prefix beyond those that number their digests: at most one in 256 finds one too many,
# which costs 32 bytes, where another byte of each prefix would cost more.
_SPARE_BITS = 8


class Moment(msgspec.Struct, frozen=True):
    """One set: its tree, and its sketch."""

    tree: Tree
    sketch: Sketch


class MoreCells(msgspec.Struct, frozen=True):
    """The question for cells `start` to `stop` of their sketch."""

    start: int
    stop: int


class Find(msgspec.Struct, frozen=True):
    """The question for their digests that begin with any of `prefixes`, `width` bytes each."""

    prefixes: Sequence[bytes]
    width: int


Question: TypeAlias = MoreCells | Find


class Several(msgspec.Struct, array_like=True, frozen=True):
    """None or several digests, ascending and joined, that begin with prefix number `index`."""

    index: Annotated[int, Meta(ge=0)]
    digests: Annotated[bytes, Meta(max_length=32 * MAX_FOUND)]


class Found(msgspec.Struct, array_like=True, frozen=True):
    """The answer to a Find.

    `tails`: for each prefix that begins one digest, what follows the first PREFIX bytes of that,
    which the asker knows. `others`: the prefixes that do not, ascending.
    """

    tails: Annotated[bytes, Meta(max_length=_TAIL * MAX_PREFIXES)]
    others: Annotated[list[Several], Meta(max_length=MAX_PREFIXES)]


def find(tree: Tree, prefixes: Sequence[bytes]) -> Found | None:
    """The answer to a Find; None when it would be more than MAX_FOUND digests.

    Takes 2 µs a prefix. The prefixes ascend strictly, so that no digest comes twice.
    """
    tails: list[bytes] = []
    others: list[Several] = []
    room = MAX_FOUND
    for index, prefix in enumerate(prefixes):
        found = starting(tree, prefix, room + 1)
        room -= len(found)
        if room < 0:
            return None
        if len(found) == 1:
            tails.append(found[0][PREFIX:])
        else:
            others.append(Several(index, b"".join(found)))
    return Found(b"".join(tails), others)


class Shortcut:
    """One comparison of a moment of ours with the set whose root and count the other side named.

    Answer `question` with `feed` until it is None; then read `proven` and `found`.
    """

    def __init__(self, ours: Moment, root: Digest, count: int, cells: bytes) -> None:
        """`cells`: the first of theirs, as many as they thought would do."""
        self.proven = False
        self.found = Difference()
        self.question: Question | None = None
        self._ours = ours
        self._root = root
        self._count = count
        self._more = _MORE
        self._cells: list[bytes] = []
        self._missing: list[Digest] = []
        self._surplus: list[Digest] = []
        self._wanted: frozenset[bytes] = frozenset()
        self._names: dict[bytes, bytes] = {}
        self._finds: list[Find] = []
        self._take_cells(cells, len(ours.sketch))

    def feed(self, answer: bytes | Found | None) -> None:
        """Take the answer to `question`: cells, or digests; None when the other side has none.

        Raises Misbehaved for one that answers another question.
        """
        asked, self.question = self.question, None
        if isinstance(asked, MoreCells) and isinstance(answer, bytes):
            self._take_cells(answer, asked.stop - asked.start)
        elif isinstance(asked, Find) and isinstance(answer, Found):
            self._take_digests(answer, asked)

    def _take_cells(self, cells: bytes, most: int) -> None:
        if len(cells) % CELL or len(cells) > CELL * most:
            raise Misbehaved(f"the peer sent {len(cells)} bytes of cells for at most {most} cells")
        if not cells:
            return
        self._cells.append(cells)
        apart = self._ours.sketch.compare(self._cells)
        if apart is None:
            self._ask_for_cells()
            return
        for prefix in apart.ours:
            here = starting(self._ours.tree, prefix, 2)
            if len(here) != 1:
                return  # not ours, or two that nobody can tell apart: no honest cells, or bad luck
            self._surplus += here
        if len(self._ours.tree) + len(apart.theirs) - len(apart.ours) != self._count:
            return  # whatever their digests are, they cannot explain the count that was named
        self._ask_for_digests(apart.theirs)

    def _ask_for_cells(self) -> None:
        have = sum(map(len, self._cells)) // CELL
        stop = min(have + have // 2 + _MORE_CELLS, have + MAX_CELLS, len(self._ours.sketch))
        if self._more and stop > have:
            self._more -= 1
            self.question = MoreCells(have, stop)

    def _ask_for_digests(self, wanted: Sequence[bytes]) -> None:
        bits = self._count.bit_length() + _SPARE_BITS
        width = min(PREFIX, max(MIN_WIDTH, -(-bits // 8)))
        self._wanted = frozenset(wanted)
        self._names = {name[:width]: name for name in wanted}
        short = sorted(self._names)
        for at in range(0, len(short), MAX_PREFIXES):
            self._finds.append(Find(short[at : at + MAX_PREFIXES], width))
        self._next()

    def _take_digests(self, found: Found, asked: Find) -> None:
        others = _checked(found, asked.prefixes)
        digests: list[Digest] = []
        at = 0
        for index, prefix in enumerate(asked.prefixes):
            if index in others:
                digests += [d for d in others[index] if d[:PREFIX] in self._wanted]
            else:
                digests.append(Digest(self._names[prefix] + found.tails[at : at + _TAIL]))
                at += _TAIL
        self._missing += [digest for digest in digests if digest not in self._ours.tree]
        self._next()

    def _next(self) -> None:
        """The next question for digests; when there is none, the proof."""
        if self._finds:
            self.question = self._finds.pop(0)
            return
        tree, here, there = self._ours.tree, self._missing, self._surplus
        if len(tree) + len(here) - len(there) != self._count:
            return
        if overlaid(tree, here, there) == Bucket(self._count, self._root):
            self.proven = True
            self.found = Difference(here, [Named(there)] if there else [])


def named(prefixes: Sequence[bytes], found: Found) -> list[Digest]:
    """The digests of an answer to a Find of `prefixes`, of PREFIX bytes each.

    Raises Misbehaved for an answer to another question.
    """
    others = _checked(found, prefixes)
    alone = [prefix for index, prefix in enumerate(prefixes) if index not in others]
    tails = [found.tails[at : at + _TAIL] for at in range(0, len(found.tails), _TAIL)]
    digests = [Digest(prefix + tail) for prefix, tail in zip(alone, tails, strict=True)]
    return [*digests, *(digest for several in others.values() for digest in several)]


def _checked(found: Found, prefixes: Sequence[bytes]) -> dict[int, list[Digest]]:
    """The digests of an answer by the number of their prefix, but for those that are alone."""
    others: dict[int, list[Digest]] = {}
    last = -1
    for several in found.others:
        if not last < several.index < len(prefixes) or len(several.digests) % 32:
            raise Misbehaved("the peer sent digests for a prefix that nobody asked for")
        last = several.index
        digests = split_digests(several.digests)
        for digest in digests:
            if not digest.startswith(prefixes[last]):
                raise Misbehaved(f"the peer sent digest {digest.hex()}, which nobody asked for")
        others[last] = digests
    if len(found.tails) != _TAIL * (len(prefixes) - len(others)):
        raise Misbehaved(f"the peer sent {len(found.tails)} bytes for {len(prefixes)} digests")
    return others
