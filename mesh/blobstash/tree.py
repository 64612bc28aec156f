"""BlobStash's state: 256 bucket hashes and a root, over hex digests in ascending order.

The root is BLAKE2b-256 over the hex digests of all blobs, joined in ascending order; a bucket's
hash is the same over the digests with its two-digit prefix. Source: recordings of a real server
(tests/vectors/blobstash), whose package builds the hashes in the order of insertion instead.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from mesh.core.digest import DIGEST_SIZE, Digest, parse_digest
from mesh.core.tree import Tree

if TYPE_CHECKING:
    from hashlib import blake2b

PREFIXES = tuple(f"{number:02x}" for number in range(256))


def new_hash() -> blake2b:
    """The hash of everything here, empty: BLAKE2b with 32 bytes and no key."""
    return hashlib.blake2b(digest_size=DIGEST_SIZE)


class State(msgspec.Struct, frozen=True):
    """What a store holds, in short: `GET /api/sync/state`.

    `root`: 64 hex digits. `count`: blobs. `leaves`: the hash of each bucket that is not empty, by
    its two-digit prefix.
    """

    root: str
    count: int
    leaves: dict[str, str]

    def __str__(self) -> str:
        return f"[State root={self.root}, hashes_cnt={self.count}, leaves_cnt={len(self.leaves)}]"


class LeafState(msgspec.Struct, frozen=True):
    """The digests of one bucket, ascending: `GET /api/sync/state/leaf/{prefix}`.

    `hashes` is null when there is none. A real server lists on beyond the prefix.
    """

    prefix: str
    count: int
    hashes: list[str] | None


class StateTree:
    """The state of a growing set of digests; additions in any order give the same tree.

    Only buckets that have changed are hashed again; the root, which has no structure, costs a
    pass over all digests once after a change (0.2 s a million). One owner; not for sharing
    between threads.
    """

    def __init__(self, tree: Tree | None = None) -> None:
        """Begin with the digests of `tree`."""
        self._tree = tree if tree is not None else Tree()
        self._added: list[Digest] = []
        self._leaves: dict[str, tuple[Digest, str]] = {}
        self._root: tuple[Digest, str] | None = None

    def add(self, digest: str) -> None:
        """Add one digest, 64 hex digits; InputError for anything else."""
        self._added.append(parse_digest(digest))

    def close(self) -> None:
        """Forget what is cached; BlobStash's trees had to be closed."""
        self._leaves.clear()
        self._root = None

    def following(self, tree: Tree) -> StateTree:
        """The state of another set; what is alike is taken over instead of hashed again."""
        after = StateTree(tree)
        after._leaves = dict(self._leaves)
        after._root = self._root
        return after

    @property
    def tree(self) -> Tree:
        """The set, as mesh's own tree."""
        if self._added:
            self._tree = self._tree.add(self._added)
            self._added = []
        return self._tree

    def count(self) -> int:
        """How many digests."""
        return len(self.tree)

    def level1(self) -> dict[str, str]:
        """The hash of every bucket that is not empty, by its two-digit prefix."""
        hashes = ((prefix, self.level1_prefix(prefix)) for prefix in PREFIXES)
        return {prefix: digest for prefix, digest in hashes if digest}

    def level1_prefix(self, prefix: str) -> str:
        """The hash of one bucket; "" when it is empty."""
        bucket = self.tree.bucket(prefix)
        if not bucket.count:
            return ""
        cached = self._leaves.get(prefix)
        if cached is None or cached[0] != bucket.digest:
            cached = self._leaves[prefix] = bucket.digest, _hash(self.tree, prefix)
        return cached[1]

    def root(self) -> str:
        """The hash of all digests."""
        tree = self.tree
        if self._root is None or self._root[0] != tree.root:
            self._root = tree.root, _hash(tree, "")
        return self._root[1]

    def state(self) -> State:
        """All of it."""
        return State(self.root(), self.count(), self.level1())

    def __str__(self) -> str:
        return f"[StateTree root={self.root()}, hashes_cnt={self.count()}]"


def _hash(tree: Tree, prefix: str) -> str:
    """The hash over the hex digests below a prefix."""
    hasher = new_hash()
    pending: list[str] = []
    for digest in tree.digests(prefix):
        pending.append(digest.hex())
        if len(pending) == 4096:
            hasher.update("".join(pending).encode())
            pending.clear()
    hasher.update("".join(pending).encode())
    return hasher.hexdigest()


def under(prefix: str, hashes: list[str] | None) -> list[Digest]:
    """The digests of a leaf listing that lie under its prefix; a real server lists beyond it."""
    return [parse_digest(text) for text in hashes or [] if text.startswith(prefix)]
