"""Who is who: peers are known by node id, addresses are hints that may change."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Generic, TypeVar

from mesh.wire.messages import Hello

P = TypeVar("P")

# Runs of a peer's process that are remembered, to recognise one that still answers at another
# address. A peer could name a new run in every answer.
_MOST_RUNS = 16


class Role(Enum):
    """What a peer turned out to be, by the node id and the run that it said."""

    PEER = auto()  # a node beside this one
    SELF = auto()  # this process
    CLONE = auto()  # another process with this node's id: a copied data directory
    TWIN = auto()  # the same for another peer: an earlier run of it that still answers
    DUPLICATE = auto()  # another address of a run that is known


class _Known(Generic[P]):
    """Who answers for a node: a peer, and the runs of that node's process, the last one first."""

    __slots__ = ("earlier", "instance", "peer")

    def __init__(self, peer: P, instance: bytes) -> None:
        self.peer = peer
        self.instance = instance
        self.earlier: deque[bytes] = deque(maxlen=_MOST_RUNS)

    def now(self, peer: P, instance: bytes) -> None:
        """Another run, or another address."""
        if instance != self.instance:
            self.earlier.append(self.instance)
        self.peer, self.instance = peer, instance


class Roster(Generic[P]):
    """Which of the configured peers answers for which node."""

    def __init__(self, node: bytes, instance: bytes) -> None:
        """`node`, `instance`: our own, see wire.messages.Hello."""
        self._node = node
        self._instance = instance
        self._known: dict[bytes, _Known[P]] = {}

    def recognise(self, peer: P, hello: Hello) -> Role:
        """What `peer` turned out to be."""
        if hello.node == self._node:
            return Role.SELF if hello.instance == self._instance else Role.CLONE
        for node in [n for n, known in self._known.items() if known.peer is peer]:
            if node != hello.node:
                del self._known[node]  # another node answers at that address now
        known = self._known.setdefault(hello.node, _Known(peer, hello.instance))
        if known.peer is not peer:
            if hello.instance == known.instance:
                return Role.DUPLICATE
            if hello.instance in known.earlier:
                return Role.TWIN
        known.now(peer, hello.instance)
        return Role.PEER

    def forget(self, peer: P) -> None:
        """A peer that does not answer: another address of its node may take over."""
        for node in [n for n, known in self._known.items() if known.peer is peer]:
            del self._known[node]

    def find(self, node: bytes) -> P | None:
        """The peer that answers for a node; None for a stranger."""
        known = self._known.get(node)
        return known.peer if known is not None else None

    def is_us(self, hello: Hello) -> bool:
        """Whether the speaker has our identity."""
        return hello.node == self._node
