"""The shape in memory: pages of digests, hung in forks; never changed, only replaced."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

from mesh.core.digest import Digest, split_digests
from mesh.core.tree.hashes import Bucket, cuts_of, hash_body, hash_sorted

# A page is re-hashed as a whole (25 µs at 128), and each page costs about 200
# bytes beside its digests: smaller pages cost memory, larger ones cost time per put.
PAGE_MAX = 128
# A fork whose bucket shrank is folded into a page well below PAGE_MAX, so that a set that
# hovers around the limit does not split and fold with every change.
FOLD_BELOW = PAGE_MAX // 2


class Page:
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


class Fork:
    """Sixteen children by the next nibble; more than FOLD_BELOW digests below."""

    __slots__ = ("_body", "_digest", "children", "count")

    def __init__(self, children: tuple[Node | None, ...]) -> None:
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


Node: TypeAlias = Page | Fork
Change: TypeAlias = Callable[["Node | None", Sequence[bytes], int, int, int], "Node | None"]


def build(digests: Sequence[bytes], low: int, high: int, depth: int) -> Node | None:
    if low == high:
        return None
    if high - low <= PAGE_MAX:
        return Page(b"".join(digests[low:high]))
    cuts = cuts_of(digests, low, high, depth)
    return Fork(tuple(build(digests, a, b, depth + 1) for a, b in pairwise(cuts)))


def with_added(
    node: Node | None, new: Sequence[bytes], low: int, high: int, depth: int
) -> Node | None:
    """`node` and new[low:high] together; `node` itself when it had them all."""
    if node is None:
        return build(new, low, high, depth)
    if isinstance(node, Page):
        joined = _inserted(node.joined, new[low:high])
        if len(joined) <= 32 * PAGE_MAX:
            return node if len(joined) == len(node.joined) else Page(joined)
        return build(split_digests(joined), 0, len(joined) // 32, depth)
    children = list(node.children)
    cuts = cuts_of(new, low, high, depth)
    changed = False
    for nibble, (a, b) in enumerate(pairwise(cuts)):
        if a < b:
            child = with_added(children[nibble], new, a, b, depth + 1)
            changed |= child is not children[nibble]
            children[nibble] = child
    return Fork(tuple(children)) if changed else node


def _inserted(joined: bytes, new: Sequence[bytes]) -> bytes:
    """A page's digests and those of `new`, both sorted, together.

    Most pages get one or two digests of a commit. To cut a page into its digests, and to sort and
    join these again, takes ten times as long as to find the place of one.
    """
    count, done = len(joined) // 32, 0
    pieces: list[bytes] = []
    for digest in new:
        at = 32 * bisect_left(
            range(count), digest, lo=done // 32, key=lambda n: joined[32 * n : 32 * n + 32]
        )
        if not joined.startswith(digest, at):
            pieces += (joined[done:at], digest)
            done = at
    pieces.append(joined[done:])
    return b"".join(pieces)


def without(
    node: Node | None, gone: Sequence[bytes], low: int, high: int, depth: int
) -> Node | None:
    """`node` without gone[low:high]; `node` itself when it had none of them."""
    if node is None:
        return None
    if isinstance(node, Page):
        drop = set(gone[low:high])
        kept = [digest for digest in split_digests(node.joined) if digest not in drop]
        return node if len(kept) == node.count else build(kept, 0, len(kept), depth)
    children = list(node.children)
    cuts = cuts_of(gone, low, high, depth)
    for nibble, (a, b) in enumerate(pairwise(cuts)):
        if a < b:
            children[nibble] = without(children[nibble], gone, a, b, depth + 1)
    fork = Fork(tuple(children))
    if fork.count == node.count:
        return node
    if fork.count <= FOLD_BELOW:
        return Page(b"".join(pages(fork))) if fork.count else None
    return fork


def pages(node: Node | None) -> Iterator[bytes]:
    if isinstance(node, Page):
        yield node.joined
    elif node is not None:
        for child in node.children:
            yield from pages(child)


def folded(children: Sequence[Node | None]) -> Node | None:
    """The node above sixteen children, folded into a page where it is small."""
    fork = Fork(tuple(children))
    if fork.count > PAGE_MAX:
        return fork
    return Page(b"".join(pages(fork))) if fork.count else None


def ascending(node: Node | None, depth: int, after: bytes) -> Iterator[Digest]:
    """The digests below `node`, `depth` nibbles down, that are greater than `after`."""
    if node is None:
        return
    if isinstance(node, Page):
        yield from (digest for digest in split_digests(node.joined) if digest > after)
        return
    skipped = 0
    if after:
        half, odd = divmod(depth, 2)
        if half < len(after):
            skipped = after[half] & 15 if odd else after[half] >> 4
    for nibble in range(skipped, 16):
        # Only the child on the path of `after` has to look at it again.
        yield from ascending(node.children[nibble], depth + 1, after if nibble == skipped else b"")
