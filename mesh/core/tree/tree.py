"""The canonical Merkle trie over a set of digests, as an immutable value.

A bucket is the set of digests that begin with some hex prefix. Its digest is a function of that
set alone, never of the order of arrival or of how this module happens to hold it:

- at most LEAF_MAX digests: BLAKE2b-256 of the sorted digests, joined, person `mesh-leaf-v1`
  (the empty bucket is the hash of nothing under that person);
- more: BLAKE2b-256 under the person `mesh-node-v1`. Hashed is a 16-bit bitmap of the children that
  are not empty (bit 15 is child 0). Then follow, for each of them in order, its 32-byte digest and
  its count in 8 bytes. Everything is big-endian.

The shape in memory is another matter. Digests lie joined in pages of up to PAGE_MAX; pages hang
in 16-way forks. Nodes are never changed, only replaced along one path. So an older `Tree` stays
whole for as long as somebody holds it, and a peer can finish its descent on the set where it began.
A node's digest is computed when first asked for and kept.

Constants, measured at N = 1,000,000 (tests/benchmarks/bench_tree.py): about 50 bytes a digest;
adding one digest copies one path and re-hashes one page of at most PAGE_MAX digests.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise

from mesh.core.digest import Digest, split_digests
from mesh.core.tree.hashes import EMPTY, Bucket, cuts_of, hash_range, hash_sorted, prefix_range
from mesh.core.tree.nodes import (
    Change,
    Fork,
    Node,
    Page,
    ascending,
    build,
    folded,
    with_added,
    without,
)


class Tree:
    """An immutable set of digests with a Merkle digest for every prefix.

    `add` and `remove` give a new tree that shares all it can with the old one.
    """

    __slots__ = ("top",)

    def __init__(self, digests: Iterable[Digest] = ()) -> None:
        """A tree of `digests`, in any order, duplicates allowed."""
        distinct = sorted(set(digests))
        self.top = build(distinct, 0, len(distinct), 0)

    @classmethod
    def _of(cls, top: Node | None) -> Tree:
        tree = cls.__new__(cls)
        tree.top = top
        return tree

    @classmethod
    def from_sorted(cls, chunks: Iterable[bytes]) -> Tree:
        """A tree from chunks of joined digests that ascend strictly, as an index scan gives them.

        Only one 256th of the digests is held beside the tree, whatever their number.
        """
        groups: list[Node | None] = [None] * 256
        pending: list[Digest] = []
        for chunk in chunks:
            for digest in split_digests(chunk):
                if pending and pending[-1][0] != digest[0]:
                    groups[pending[0][0]] = build(pending, 0, len(pending), 2)
                    pending = []
                pending.append(digest)
        if pending:
            groups[pending[0][0]] = build(pending, 0, len(pending), 2)
        uppers = [folded(groups[at : at + 16]) for at in range(0, 256, 16)]
        return cls._of(folded(uppers))

    def __len__(self) -> int:
        return self.top.count if self.top is not None else 0

    def __contains__(self, digest: Digest) -> bool:
        node, depth = self.top, 0
        while isinstance(node, Fork):
            byte = digest[depth >> 1]
            node = node.children[byte & 15 if depth & 1 else byte >> 4]
            depth += 1
        return node is not None and digest in node

    def __iter__(self) -> Iterator[Digest]:
        return self.digests()

    @property
    def root(self) -> Digest:
        """The digest of the whole set."""
        return self.top.digest(0) if self.top is not None else EMPTY.digest

    def add(self, digests: Iterable[Digest]) -> Tree:
        """This set and `digests` together, in any order, known ones allowed."""
        return self._changed(with_added, digests)

    def remove(self, digests: Iterable[Digest]) -> Tree:
        """This set without `digests`, in any order, unknown ones allowed."""
        return self._changed(without, digests)

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
        if isinstance(node, Fork):
            return node.buckets(len(prefix))
        if isinstance(node, Page) and rest is None:
            rest = split_digests(node.joined)
        if not rest:
            return [None] * 16
        cuts = cuts_of(rest, 0, len(rest), len(prefix))
        return [
            Bucket(b - a, hash_range(rest, a, b, len(prefix) + 1)) if a < b else None
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
            yield from ascending(node, len(prefix), after)
        else:
            yield from (digest for digest in rest if digest > after)

    def _changed(self, change: Change, digests: Iterable[Digest]) -> Tree:
        distinct = sorted(set(digests))
        if not distinct:
            return self
        top = change(self.top, distinct, 0, len(distinct), 0)
        return self if top is self.top else Tree._of(top)

    def _find(self, prefix: str) -> tuple[Node | None, list[Digest] | None]:
        """The node at `prefix`; or the page above it and the digests in it that match."""
        node = self.top
        for nibble in prefix:
            if node is None:
                return None, []
            if isinstance(node, Page):
                digests = split_digests(node.joined)
                low, high = prefix_range(prefix)
                first = bisect_left(digests, low)
                last = len(digests) if high is None else bisect_left(digests, high)
                return node, digests[first:last]
            node = node.children[int(nibble, 16)]
        return node, None
