"""Which part of a large blob a node takes from whom, while others fetch the same blob.

A large blob is shared out in stretches. Each node that fetches it looks a few stretches ahead of
what it has; that is its window. For each stretch in the window there are three cases, in this
order:

1. Somebody who fetches the blob as well, or did so before, has the stretch already: it is taken
   from there.
2. Of the nodes in whose windows the stretch lies, one is its owner, by a hash that all of them
   compute alike. When that is another node, it is asked, and it answers as soon as it has it.
3. This node is the owner: it takes the stretch from a node that has the whole.

So each stretch leaves a whole holder about once, whatever the number of those who fetch. No node
waits in a circle: whom it waits for has the higher hash. Who does not come forward is asked for no
stretch again that it did not bring, and owns none until it is seen to be ahead; then a whole holder
is asked.

Nothing here is trusted: only the whole, once it is hashed, tells whether the stretches were right.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from mesh.core.digest import Digest
from mesh.core.holder import Configured

# One request's worth. A request costs both sides some 3 ms together, and 4 MiB some 40 ms of
# receiving, hashing and writing. Larger ones would cost memory, as a stretch is held until those
# before it have come.
STRETCH = 4 * 1024 * 1024

# Stretches that a node may be ahead of what it has in order: two for each of four nodes. What is
# held of one blob is bounded by that, 32 MiB.
WINDOW = 8

# Stretches behind what a node is known to have of which it may be the owner. More than WINDOW, as
# what is known of it is a little old. A node that is this far behind is not waited for.
REACH = 2 * WINDOW

# A smaller blob has come before two nodes have found each other.
LEAST = WINDOW * STRETCH

# Requests at a time to one node, so that the next answer is on its way while one is taken in.
_AT_ONCE = 2

# A giver is given up after so many failures in a row, as for a blob that is not traded.
_FRUITLESS = 3


class Ask(NamedTuple):
    """Stretch `number`, the bytes [start, stop), is to be asked of `giver`.

    It has the `whole`, or fetches the blob as well.
    """

    number: int
    start: int
    stop: int
    giver: Configured
    whole: bool


class _Giver:
    """What is known of one node."""

    def __init__(self) -> None:
        self.node = b""
        self.whole = False
        self.fellow = False  # it fetches the blob as well, or did when it was first heard of
        self.front = 0  # bytes from the beginning that it has
        self.window = 0  # stretches behind these that it may fetch
        self.late = False  # it owns nothing until it is ahead again
        self.missed: set[int] = set()  # stretches that it did not bring
        self.here = False  # it answered when it was asked last how far it is
        self.banned = False  # nothing is asked of it any more
        self.failures = 0
        self.busy = 0


class Trade:
    """The plan of one blob of `size` bytes at the node `node`, which has the first `front`."""

    def __init__(self, digest: Digest, size: int, node: bytes, front: int = 0) -> None:
        self.size = size
        self.front = front
        self._digest = digest
        self._node = node
        self._givers: dict[Configured, _Giver] = {}
        self._asked: dict[int, Ask] = {}
        self._held: set[int] = set()

    # --- what is told ------------------------------------------------------------------------

    def heard(self, giver: Configured, node: bytes, front: int, window: int) -> None:
        """`giver` is `node`; it has the first `front` bytes, and fetches `window` stretches."""
        known = self._givers.setdefault(giver, _Giver())
        known.node, known.window, known.here = node, window, True
        known.front = min(front, self.size)
        known.fellow |= front < self.size
        if front >= self.size and not known.whole:
            known.whole = True
            known.banned, known.failures = False, 0  # it broke off to finish, maybe
        if known.front > self.front:
            known.late = False

    def gone(self, giver: Configured) -> None:
        """`giver` does not answer, or does not trade; until it is heard again."""
        if (known := self._givers.get(giver)) is not None:
            known.here = False

    def came(self, ask: Ask) -> None:
        """What was asked for is here, in memory."""
        self._answered(ask).failures = 0
        self._held.add(ask.number)

    def failed(self, ask: Ask, *, fatal: bool) -> None:
        """It did not come; `fatal`: nor would more of that giver."""
        giver = self._answered(ask)
        giver.failures += 1
        giver.banned |= fatal or giver.failures >= _FRUITLESS
        if giver.fellow:
            giver.missed.add(ask.number)
            giver.late = True

    def written(self, front: int) -> None:
        """The first `front` bytes are in their place."""
        self.front = front
        self._held = {index for index in self._held if self._bounds(index)[1] > front}

    def left(self) -> None:
        """The trade has ended: what was under way, or came early, is dropped."""
        for ask in self._asked.values():
            self._givers[ask.giver].busy -= 1
        self._asked.clear()
        self._held.clear()

    # --- what follows ------------------------------------------------------------------------

    @property
    def index(self) -> int:
        """The first stretch that is not here."""
        return self.front // STRETCH

    @property
    def waiting(self) -> bool:
        """Whether something was asked for and has neither come nor failed."""
        return bool(self._asked)

    @property
    def worth(self) -> bool:
        """Whether anybody fetches the blob with whom to share it, and somebody has the whole."""
        givers = self._usable().values()
        return any(each.whole for each in givers) and any(
            each.front > self.front or self._reaches(each, self.front)
            for each in givers
            if each.fellow
        )

    def next(self) -> Ask | None:
        """What to ask for now; None when that is nothing.

        When the trade is not `worth` it any more, only the gaps are filled.
        """
        if self.front >= self.size:
            return None
        last = -(-self.size // STRETCH)
        if self.worth:
            last = min(last, self.index + WINDOW)
        else:
            last = max([*self._held, *self._asked], default=-1)
        for index in range(self.index, last):
            if index not in self._held and index not in self._asked:
                giver = self._choose(index)
                if giver is not None:
                    known = self._givers[giver]
                    known.busy += 1
                    ask = Ask(index, *self._bounds(index), giver, known.whole)
                    self._asked[index] = ask
                    return ask
        return None

    def _choose(self, index: int) -> Configured | None:
        """Whom to ask for a stretch; None when that one is busy, or there is nobody."""
        stop = self._bounds(index)[1]
        usable = self._usable()
        fellows = {
            key: each for key, each in usable.items() if each.fellow and index not in each.missed
        }
        ahead = [key for key, each in fellows.items() if each.front >= stop]
        if ahead:
            return self._free(ahead, now=index == self.index)
        owner: Configured | None = None
        highest = self._weight(index, self._node)
        for key, each in fellows.items():
            if self._reaches(each, stop - 1) and self._weight(index, each.node) > highest:
                owner, highest = key, self._weight(index, each.node)
        if owner is not None:
            return self._free([owner], now=index == self.index)
        return self._free([key for key, each in usable.items() if each.whole])

    def _usable(self) -> dict[Configured, _Giver]:
        return {key: each for key, each in self._givers.items() if each.here and not each.banned}

    def _free(self, keys: list[Configured], *, now: bool = False) -> Configured | None:
        """The least busy of some, if it may be asked for more.

        What is to be written next is asked for `now`: a giver may be busy with what it waits for
        itself, and in the end it may wait for this node.
        """
        free = [key for key in keys if now or self._givers[key].busy < _AT_ONCE]
        return min(free, key=lambda key: self._givers[key].busy, default=None)

    def _reaches(self, giver: _Giver, at: int) -> bool:
        """Whether the byte `at` lies in the window of one that fetches, and is not late."""
        ahead = (giver.front // STRETCH + giver.window) * STRETCH
        return not giver.late and giver.window > 0 and giver.front <= at < ahead

    def _weight(self, index: int, node: bytes) -> bytes:
        text = self._digest + index.to_bytes(8, "big") + node
        return blake2b(text, digest_size=8, person=b"mesh-trade-v1").digest()

    def _bounds(self, index: int) -> tuple[int, int]:
        """The bytes of a stretch that are to be had: of the first one only what is not here."""
        start = index * STRETCH
        return max(start, min(self.front, start + STRETCH)), min(start + STRETCH, self.size)

    def _answered(self, ask: Ask) -> _Giver:
        del self._asked[ask.number]
        giver = self._givers[ask.giver]
        giver.busy -= 1
        return giver
