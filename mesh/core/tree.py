"""The canonical Merkle trie over a set of digests, as an immutable value.

A bucket is the set of digests that begin with some hex prefix. Its digest is a function of that
set alone, never of the order of arrival or of how this module happens to hold it:

- at most LEAF_MAX digests: BLAKE2b-256 of the sorted digests, joined, person `mesh-leaf-v1`
  (the empty bucket is the hash of nothing under that person);
- more: BLAKE2b-256 of a 16-bit bitmap of the children that are not empty (bit 15 is child 0)
  and then, for each of them in order, its 32-byte digest and its count in 8 bytes; everything
  big-endian; person `mesh-node-v1`.

The shape in memory is another matter. Digests lie joined in pages of up to PAGE_MAX; pages hang
in 16-way forks. Nodes are never changed, only replaced along one path, so an older `Tree` stays
whole for as long as somebody holds it: snapshots are free, and a peer can finish its descent on
the set where it began. A node's digest is computed when first asked for and kept.

Constants, measured at N = 1,000,000 (tests/benchmarks/bench_tree.py): about 50 bytes a digest;
adding one digest copies one path and re-hashes one page of at most PAGE_MAX digests.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

import msgspec

from mesh.core.digest import Digest, split_digests

LEAF_MAX = 16  # fixed by protocol version 1: part of every root

# A page is re-sorted and re-hashed as a whole (25 µs at 128), and each page costs about 200
# bytes beside its digests: smaller pages cost memory, larger ones cost time per put.
PAGE_MAX = 128
# A fork whose bucket shrank is folded into a page well below PAGE_MAX, so that a set that
# hovers around the limit does not split and fold with every change.
_FOLD_BELOW = PAGE_MAX // 2


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """What a bucket is, seen from outside: how many digests, and their Merkle digest."""

    count: int
    digest: Digest


def hash_leaf(joined: bytes) -> Digest:
    """The digest of a bucket of at most LEAF_MAX digests, given sorted and joined."""
    return Digest(hashlib.blake2b(joined, digest_size=32, person=b"mesh-leaf-v1").digest())


def hash_fork(children: Sequence[Bucket | None]) -> Digest:
    """The digest of a bucket of more than LEAF_MAX digests, from its 16 children."""
    bitmap = 0
    parts = [b""]
    for nibble, child in enumerate(children):
        if child is not None and child.count:
            bitmap |= 0x8000 >> nibble
            parts.append(child.digest)
            parts.append(child.count.to_bytes(8, "big"))
    parts[0] = bitmap.to_bytes(2, "big")
    return hash_body(b"".join(parts))


def hash_body(body: bytes) -> Digest:
    """The digest of a fork, given what is hashed: the bitmap, and 40 bytes for each child."""
    return Digest(hashlib.blake2b(body, digest_size=32, person=b"mesh-node-v1").digest())


EMPTY = Bucket(0, hash_leaf(b""))


def hash_sorted(digests: Sequence[bytes], depth: int) -> Digest:
    """The digest of the bucket that holds exactly `digests`: sorted, alike in `depth` nibbles."""
    return _hash_range(digests, 0, len(digests), depth)


def prefix_range(prefix: str) -> tuple[bytes, bytes | None]:
    """The half-open range [low, high) of byte strings that begin with `prefix` in hex.

    `high` is None when nothing is above the range.
    """
    low = bytes.fromhex(prefix + "0" * (len(prefix) % 2))
    stem = prefix.rstrip("f")
    if not stem:
        return low, None
    above = stem[:-1] + f"{int(stem[-1], 16) + 1:x}"
    return low, bytes.fromhex(above + "0" * (len(above) % 2))


# --- ranges of sorted digests ----------------------------------------------------------------


def _cuts(digests: Sequence[bytes], low: int, high: int, depth: int) -> list[int]:
    """17 indices that cut digests[low:high], alike in `depth` nibbles, at each next nibble."""
    first = digests[low]
    half, odd = divmod(depth, 2)
    head = first[:half]
    cuts = [low]
    for nibble in range(1, 16):
        tail = (first[half] & 0xF0) | nibble if odd else nibble << 4
        cuts.append(bisect_left(digests, head + bytes((tail,)), cuts[-1], high))
    cuts.append(high)
    return cuts


def _hash_range(digests: Sequence[bytes], low: int, high: int, depth: int) -> Digest:
    if high - low <= LEAF_MAX:
        return hash_leaf(b"".join(digests[low:high]))
    cuts = _cuts(digests, low, high, depth)
    return hash_fork(
        [Bucket(b - a, _hash_range(digests, a, b, depth + 1)) if a < b else None
         for a, b in pairwise(cuts)]
    )  # fmt: skip


# --- nodes -----------------------------------------------------------------------------------


class _Page:
    """Up to PAGE_MAX digests, sorted and joined."""

    __slots__ = ("_digest", "joined")

    def __init__(self, joined: bytes) -> None:
        self.joined = joined
        self._digest: Digest | None = None

    @property
    def count(self) -> int:
        return len(self.joined) // 32

    def digest(self, depth: int) -> Digest:
        if self._digest is None:
            self._digest = hash_sorted(split_digests(self.joined), depth)
        return self._digest

    def __contains__(self, digest: Digest) -> bool:
        # find() runs at C speed but may hit across two digests: go on until it is aligned.
        at = self.joined.find(digest)
        while at > 0 and at % 32:
            at = self.joined.find(digest, at + 1)
        return at >= 0


class _Fork:
    """Sixteen children by the next nibble; more than _FOLD_BELOW digests below."""

    __slots__ = ("_body", "_digest", "children", "count")

    def __init__(self, children: tuple[_Node | None, ...]) -> None:
        self.children = children
        self.count: int = sum(child.count for child in children if child is not None)
        self._body: bytes | None = None
        self._digest: Digest | None = None

    def digest(self, depth: int) -> Digest:
        if self._digest is None:
            self._digest = hash_body(self.body(depth))
        return self._digest

    def body(self, depth: int) -> bytes:
        """What is hashed; kept, so that an overlay changes 40 bytes of it (3 bytes a digest)."""
        if self._body is None:
            bitmap = 0
            parts = [b""]
            for nibble, child in enumerate(self.children):
                if child is not None:
                    bitmap |= 0x8000 >> nibble
                    parts.append(child.digest(depth + 1))
                    parts.append(child.count.to_bytes(8, "big"))
            parts[0] = bitmap.to_bytes(2, "big")
            self._body = b"".join(parts)
        return self._body

    def buckets(self, depth: int) -> list[Bucket | None]:
        return [
            Bucket(child.count, child.digest(depth + 1)) if child is not None else None
            for child in self.children
        ]


_Node: TypeAlias = _Page | _Fork
_Change: TypeAlias = Callable[["_Node | None", Sequence[bytes], int, int, int], "_Node | None"]


def _build(digests: Sequence[bytes], low: int, high: int, depth: int) -> _Node | None:
    if low == high:
        return None
    if high - low <= PAGE_MAX:
        return _Page(b"".join(digests[low:high]))
    cuts = _cuts(digests, low, high, depth)
    return _Fork(tuple(_build(digests, a, b, depth + 1) for a, b in pairwise(cuts)))


def _with(
    node: _Node | None, new: Sequence[bytes], low: int, high: int, depth: int
) -> _Node | None:
    """`node` and new[low:high] together; `node` itself when it had them all."""
    if node is None:
        return _build(new, low, high, depth)
    if isinstance(node, _Page):
        merged = sorted({*split_digests(node.joined), *new[low:high]})
        return node if len(merged) == node.count else _build(merged, 0, len(merged), depth)
    children = list(node.children)
    cuts = _cuts(new, low, high, depth)
    changed = False
    for nibble, (a, b) in enumerate(pairwise(cuts)):
        if a < b:
            child = _with(children[nibble], new, a, b, depth + 1)
            changed |= child is not children[nibble]
            children[nibble] = child
    return _Fork(tuple(children)) if changed else node


def _without(
    node: _Node | None, gone: Sequence[bytes], low: int, high: int, depth: int
) -> _Node | None:
    """`node` without gone[low:high]; `node` itself when it had none of them."""
    if node is None:
        return None
    if isinstance(node, _Page):
        drop = set(gone[low:high])
        kept = [digest for digest in split_digests(node.joined) if digest not in drop]
        return node if len(kept) == node.count else _build(kept, 0, len(kept), depth)
    children = list(node.children)
    cuts = _cuts(gone, low, high, depth)
    for nibble, (a, b) in enumerate(pairwise(cuts)):
        if a < b:
            children[nibble] = _without(children[nibble], gone, a, b, depth + 1)
    fork = _Fork(tuple(children))
    if fork.count == node.count:
        return node
    if fork.count <= _FOLD_BELOW:
        return _Page(b"".join(_pages(fork))) if fork.count else None
    return fork


def _pages(node: _Node | None) -> Iterator[bytes]:
    if isinstance(node, _Page):
        yield node.joined
    elif node is not None:
        for child in node.children:
            yield from _pages(child)


# --- the tree --------------------------------------------------------------------------------


class Tree:
    """An immutable set of digests with a Merkle digest for every prefix.

    `add` and `remove` give a new tree that shares all it can with the old one.
    """

    __slots__ = ("_top",)

    def __init__(self, digests: Iterable[Digest] = ()) -> None:
        """A tree of `digests`, in any order, duplicates allowed."""
        distinct = sorted(set(digests))
        self._top = _build(distinct, 0, len(distinct), 0)

    @classmethod
    def _of(cls, top: _Node | None) -> Tree:
        tree = cls.__new__(cls)
        tree._top = top
        return tree

    @classmethod
    def from_sorted(cls, chunks: Iterable[bytes]) -> Tree:
        """A tree from chunks of joined digests that ascend strictly, as an index scan gives them.

        Only one 256th of the digests is held beside the tree, whatever their number.
        """
        groups: list[_Node | None] = [None] * 256
        pending: list[Digest] = []
        for chunk in chunks:
            for digest in split_digests(chunk):
                if pending and pending[-1][0] != digest[0]:
                    groups[pending[0][0]] = _build(pending, 0, len(pending), 2)
                    pending = []
                pending.append(digest)
        if pending:
            groups[pending[0][0]] = _build(pending, 0, len(pending), 2)
        uppers = [_joined(groups[at : at + 16]) for at in range(0, 256, 16)]
        return cls._of(_joined(uppers))

    def __len__(self) -> int:
        return self._top.count if self._top is not None else 0

    def __contains__(self, digest: Digest) -> bool:
        node, depth = self._top, 0
        while isinstance(node, _Fork):
            byte = digest[depth >> 1]
            node = node.children[byte & 15 if depth & 1 else byte >> 4]
            depth += 1
        return node is not None and digest in node

    def __iter__(self) -> Iterator[Digest]:
        return self.digests()

    @property
    def root(self) -> Digest:
        """The digest of the whole set."""
        return self._top.digest(0) if self._top is not None else EMPTY.digest

    def add(self, digests: Iterable[Digest]) -> Tree:
        """This set and `digests` together, in any order, known ones allowed."""
        return self._changed(_with, digests)

    def remove(self, digests: Iterable[Digest]) -> Tree:
        """This set without `digests`, in any order, unknown ones allowed."""
        return self._changed(_without, digests)

    def bucket(self, prefix: str) -> Bucket:
        """Count and digest of the bucket at `prefix`, at any depth."""
        node, rest = self._find(prefix)
        if node is None:
            return EMPTY
        if rest is None:
            return Bucket(node.count, node.digest(len(prefix)))
        return Bucket(len(rest), hash_sorted(rest, len(prefix)))

    def children(self, prefix: str) -> list[Bucket | None]:
        """The sixteen buckets below `prefix`; None for an empty one."""
        node, rest = self._find(prefix)
        if isinstance(node, _Fork):
            return node.buckets(len(prefix))
        if isinstance(node, _Page) and rest is None:
            rest = split_digests(node.joined)
        if not rest:
            return [None] * 16
        cuts = _cuts(rest, 0, len(rest), len(prefix))
        return [
            Bucket(b - a, _hash_range(rest, a, b, len(prefix) + 1)) if a < b else None
            for a, b in pairwise(cuts)
        ]

    def digests(self, prefix: str = "", after: bytes = b"") -> Iterator[Digest]:
        """The digests below `prefix` that are greater than `after`, ascending."""
        if not after.hex().startswith(prefix[: 2 * len(after)]):
            if after.hex() > prefix:
                return
            after = b""
        node, rest = self._find(prefix)
        if rest is None:
            yield from _ascending(node, len(prefix), after)
        else:
            yield from (digest for digest in rest if digest > after)

    def _changed(self, change: _Change, digests: Iterable[Digest]) -> Tree:
        distinct = sorted(set(digests))
        if not distinct:
            return self
        top = change(self._top, distinct, 0, len(distinct), 0)
        return self if top is self._top else Tree._of(top)

    def _find(self, prefix: str) -> tuple[_Node | None, list[Digest] | None]:
        """The node at `prefix`; or the page above it and the digests in it that match."""
        node = self._top
        for nibble in prefix:
            if node is None:
                return None, []
            if isinstance(node, _Page):
                digests = split_digests(node.joined)
                low, high = prefix_range(prefix)
                first = bisect_left(digests, low)
                last = len(digests) if high is None else bisect_left(digests, high)
                return node, digests[first:last]
            node = node.children[int(nibble, 16)]
        return node, None


def _joined(children: Sequence[_Node | None]) -> _Node | None:
    """The node above sixteen children, folded into a page where it is small."""
    fork = _Fork(tuple(children))
    if fork.count > PAGE_MAX:
        return fork
    return _Page(b"".join(_pages(fork))) if fork.count else None


def _ascending(node: _Node | None, depth: int, after: bytes) -> Iterator[Digest]:
    """The digests below `node`, `depth` nibbles down, that are greater than `after`."""
    if node is None:
        return
    if isinstance(node, _Page):
        yield from (digest for digest in split_digests(node.joined) if digest > after)
        return
    skipped = 0
    if after:
        half, odd = divmod(depth, 2)
        if half < len(after):
            skipped = after[half] & 15 if odd else after[half] >> 4
    for nibble in range(skipped, 16):
        # Only the child on the path of `after` has to look at it again.
        yield from _ascending(node.children[nibble], depth + 1, after if nibble == skipped else b"")
