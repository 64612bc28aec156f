"""Sets that peers are descending into, kept for them while ours moves on.

Trees are immutable and share what they have in common, so keeping one costs what has changed
since: a peer finishes its descent on the set where it began, whatever is written meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict

from mesh.core.digest import Digest
from mesh.core.tree import Tree

# A descent takes seconds, or minutes where listing waits for transfers. Each kept tree may come
# to cost as much as the present one (50 bytes a blob) when everything under it has changed.
_MOST = 4
_SECONDS = 120.0


class Snapshots:
    """Recent trees by root."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Digest, tuple[Tree, float]] = OrderedDict()

    def keep(self, tree: Tree, now: float) -> None:
        """A peer has been told of this tree's root, or is still asking below it."""
        self._kept[tree.root] = (tree, now)
        self._kept.move_to_end(tree.root)
        while len(self._kept) > _MOST or next(iter(self._kept.values()))[1] < now - _SECONDS:
            self._kept.popitem(last=False)

    def find(self, root: Digest) -> Tree | None:
        """The tree with that root, if it is kept."""
        found = self._kept.get(root)
        return found[0] if found is not None else None
