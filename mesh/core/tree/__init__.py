"""The canonical Merkle trie: see `tree`; `overlay` says what a change would make of it."""

from mesh.core.tree.hashes import (
    EMPTY,
    LEAF_MAX,
    Bucket,
    hash_body,
    hash_fork,
    hash_leaf,
    hash_sorted,
    prefix_range,
)
from mesh.core.tree.nodes import PAGE_MAX
from mesh.core.tree.tree import Tree

__all__ = [
    "EMPTY",
    "LEAF_MAX",
    "PAGE_MAX",
    "Bucket",
    "Tree",
    "hash_body",
    "hash_fork",
    "hash_leaf",
    "hash_sorted",
    "prefix_range",
]
