"""The sketcher: owns the sketch of the node's set, and keeps it in step with the keeper's tree.

One sketch serves all peers. It is an immutable value beside the tree of the same moment. When
somebody asks, it is made from the sketch before: what has changed is what the two trees differ by,
so nobody notes changes as they happen. Long work runs on a thread, and nobody waits for it. Whoever
asks meanwhile is told that there is no sketch, and compares trees.
"""

from __future__ import annotations

import anyio

from mesh.actors.keeper import Keeper
from mesh.core.digest import Digest
from mesh.core.shortcut import Moment
from mesh.core.tree import Tree
from mesh.core.tree.overlay import changes, in_batches
from mesh.offload import Offload

# Changes since the last moment, about 10 µs each: so many are made on the event loop at once, a
# few milliseconds' worth; so many are waited for, a fifth of a second's on a thread. With more,
# the sketch is brought up to date beside the rounds, which go without it.
_AT_ONCE = 256
_WAITED_FOR = 16_384

# Making a sketch anew takes half a microsecond a digest, so it is cheaper than bringing one up to
# date when more than this share has changed: as while an empty node is being filled.
_ANEW = 1 / 20

_BATCH = 16_384  # digests that are taken out of the tree at a time: 512 KiB


class Sketcher:
    """See the module. `run` is supervised by the node; `present` may be called by any task."""

    def __init__(self, keeper: Keeper, work: Offload, cells: int, secret: bytes) -> None:
        """`cells`: how many are kept; 0 for no sketch. `secret`: what the mesh shares, or b""."""
        self.work = work
        self._keeper = keeper
        self._cells = cells
        self._secret = secret
        self._moment: Moment | None = None
        self._lock = anyio.Lock()
        self._wake = anyio.Event()

    async def run(self) -> None:
        """Make the sketch, and catch up whenever much has changed, until cancelled."""
        if not self._cells:
            return
        await self._keeper.built()
        while True:
            await self.catch_up()
            self._wake = anyio.Event()
            if not self._behind():
                await self._wake.wait()

    def nudge(self) -> None:
        """The set has changed. Nothing is done before much has, or somebody asks."""
        if self._behind():
            self._wake.set()

    async def present(self) -> Moment | None:
        """The tree and its sketch; None while the sketch is being made, or when there is none."""
        moment, tree = self._moment, self._keeper.tree
        if moment is None or tree is None or moment.tree is tree:
            return moment
        if self._behind():
            self._wake.set()
            return None
        await self.catch_up()
        return self._moment

    def find(self, root: Digest) -> Moment | None:
        """The moment that was told of last, if its root is `root`; the set may have moved on."""
        moment = self._moment
        return moment if moment is not None and moment.tree.root == root else None

    async def catch_up(self) -> None:
        """Bring the sketch in step with the tree as it is now, however much that is."""
        async with self._lock:
            tree, moment = self._keeper.ready_tree(), self._moment
            changed = abs(len(tree) - len(moment.tree)) if moment is not None else 0
            if moment is None or changed > max(_AT_ONCE, len(tree) * _ANEW):
                self._moment = await self.work(self._made, tree)
            elif changed <= _AT_ONCE:
                self._moment = _changed(moment, tree)
            else:
                self._moment = await self.work(_changed, moment, tree)

    def _behind(self) -> bool:
        """Whether more has changed than anybody should wait for."""
        moment, tree = self._moment, self._keeper.tree
        if moment is None or tree is None:
            return False
        return abs(len(tree) - len(moment.tree)) > _WAITED_FOR

    def _made(self, tree: Tree) -> Moment:
        from mesh.core.sketch import Key, Sketch

        key = Key.of(self._secret)
        return Moment(tree, Sketch.of(key, self._cells, in_batches(tree, _BATCH)))


def _changed(moment: Moment, tree: Tree) -> Moment:
    if moment.tree is tree:
        return moment
    added, removed = changes(moment.tree, tree)
    return Moment(tree, moment.sketch.changed(added, removed))
