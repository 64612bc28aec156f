"""Sets that peers are descending into, kept for them while ours moves on.

Trees are immutable and share what they have in common, so keeping one costs what has changed
since: a peer finishes its descent on the set where it began, whatever is written meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from mesh.core.digest import Digest
from mesh.core.tree import Tree

# A descent takes seconds, or minutes where listing waits for transfers. Each kept tree may come
# to cost as much as the present one (50 bytes a blob) when everything under it has changed.
_MOST = 4
_SECONDS = 120.0


class _Kept(NamedTuple):
    """A tree, when it was last told of or asked about, and whether it was asked about at all."""

    tree: Tree
    at: float
    asked: bool


class EarlierTrees:
    """Recent trees by root."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Digest, _Kept] = OrderedDict()

    def keep(self, tree: Tree, now: float, *, asked: bool = False) -> None:
        """Somebody has been told of this tree's root; `asked`: and asks below it."""
        before = self._kept.pop(tree.root, None)
        asked = asked or (before is not None and before.asked)
        self._kept[tree.root] = _Kept(tree, now, asked)
        while next(iter(self._kept.values())).at < now - _SECONDS:
            self._kept.popitem(last=False)
        if len(self._kept) > _MOST:
            del self._kept[self._least_needed()]

    def find(self, root: Digest) -> Tree | None:
        """The tree with that root, if it is kept."""
        found = self._kept.get(root)
        return found.tree if found is not None else None

    def _least_needed(self) -> Digest:
        """The oldest one that nobody asks below, but for the last; else the oldest of all.

        Whoever only asks for our root while our set changes, be it all the time, thus takes no
        tree away from a peer that is comparing.
        """
        *earlier, _ = self._kept
        return next((root for root in earlier if not self._kept[root].asked), earlier[0])
