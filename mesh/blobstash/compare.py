"""What differs from a BlobStash server: leaf by leaf, only where the bucket hashes differ."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from mesh.blobstash.remote import Remote
from mesh.blobstash.tree import State, StateTree, under
from mesh.core.digest import Digest
from mesh.core.tree import Tree


class LeafDifference(NamedTuple):
    """One diverging bucket: what is missing here, what is missing there, ascending.

    `changed`: the server's leaf was not what its state had promised, so it was written to.
    """

    prefix: str
    missing_here: list[Digest]
    missing_there: list[Digest]
    changed: bool


def diverging(ours: StateTree, state: State) -> list[str]:
    """The prefixes whose buckets differ, ascending."""
    here = ours.level1()
    prefixes = sorted({*here, *state.leaves})
    return [prefix for prefix in prefixes if here.get(prefix) != state.leaves.get(prefix)]


async def differences(
    remote: Remote, tree: Tree, state: State, prefixes: list[str]
) -> AsyncIterator[LeafDifference]:
    """The differences, a request for each bucket that the server does not say is empty."""
    for prefix in prefixes:
        theirs: list[Digest] = []
        if prefix in state.leaves:
            theirs = under(prefix, (await remote.leaf(prefix)).hashes)
        listed = Tree(theirs)
        changed = StateTree(listed).level1_prefix(prefix) != state.leaves.get(prefix, "")
        missing_here = [digest for digest in theirs if digest not in tree]
        missing_there = [digest for digest in tree.digests(prefix) if digest not in listed]
        yield LeafDifference(prefix, missing_here, missing_there, changed)
