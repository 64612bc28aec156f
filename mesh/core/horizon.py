"""How far a `wait` sees: from the peers of this node on, through what each node says of its own.

**Theory.** A node calls nobody but its own peers. So it cannot look at a node behind them; but it
can ask a peer how that one stands with its peers, and can have the question passed on to one of
these, by a *route* of node ids. The asker chooses every route itself and asks each node once in a
pass. Hence a circle of peers ends by itself, and one question makes one request for each hop.

What a node had when it was level with this one, at a time t, is everything that was here when the
wait began. If that node says that a round with one of its peers, which began not before t, left
nothing missing there, all of it is there too. Its word is a time span (`Edge.level`), which is
taken from the time at which the question was *sent*: so no clocks are compared, and no delay makes
a peer look better than it is. What the node believed of its peer before t does not count: the peer
may have lost blobs since, by rot or with its disk. Nor does it count that the node only fetches
from its peer, and has all of it.

`Horizon` is told the answers and says whom to ask next, what is not level, and what cannot be seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

# What one node tells of its peers: so many of them, and so many characters of an error for each.
# 256 peers are 100 kB.
MAX_PEERS = 256
MAX_WORDS = 200
_MAX_NAME = 64

# Nodes that a question is passed through: each of them waits for the one behind it, and a mesh
# that needs more is a chain by mistake.
MAX_HOPS = 8

# Nodes that one wait looks at. Each costs a request, a pass, at every node on the way to it.
MAX_NODES = 1000

_Node = Annotated[bytes, Meta(min_length=16, max_length=16)]


class Edge(msgspec.Struct, frozen=True, array_like=True):
    """How a node stands with one of its peers.

    `node` is null for a peer that the node has not met, or that has no identity of this kind.
    `level`: what the node had so many milliseconds ago is there, and the other way round, as far as
    blobs are moved in that direction; null when that is not known. To a question with a time
    (`since`), only what a round has proven counts, and it counts in whatever direction blobs are
    moved that nothing is missing there. `error`: why it is not known.
    """

    node: _Node | None
    name: Annotated[str, Meta(max_length=_MAX_NAME)]
    level: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    direction: Annotated[str, Meta(max_length=4)] = "both"
    error: Annotated[str, Meta(max_length=MAX_WORDS)] | None = None


# Times are told in whole milliseconds, which must not make anybody look better than it is. A
# nanosecond is what the arithmetic with seconds may be wrong by.
_NOISE = 1e-6


def age(at: float, now: float) -> int:
    """The milliseconds from `at` to `now`, rounded up: what was level at `at` was not later."""
    return max(0, ceil(1000 * (now - at) - _NOISE))


def margin(since: float, sent: float) -> int:
    """The milliseconds from `since` to `sent`, rounded down: an age above that is from before."""
    return floor(1000 * (sent - since) + _NOISE)


class Question(NamedTuple):
    """To ask of `route[0]`, a peer of this node, and to be passed on along the rest of the route.

    `since`: when the node at the end of the route was found level, in this node's time.
    """

    route: tuple[bytes, ...]
    since: float


@dataclass(slots=True)
class _Seen:
    """A node that is level, how it is reached, and what it last said."""

    name: str
    route: tuple[bytes, ...]
    since: float
    settled: bool = False  # all its peers are level, or nothing will ever be known of them
    behind: tuple[Edge, ...] = ()  # its peers that were not level when it was asked last
    answered: bool = False
    error: str | None = None  # why it gave no answer
    never: str | None = None  # why it will never give one, or a whole one
    far: tuple[Edge, ...] = ()  # its level peers that are too many, or too far away, to be asked
    root: bytes | None = None  # as it said when it was asked last


class Horizon:
    """The search of one wait. `ask`, then `told` for each question, and again; read the rest."""

    def __init__(self, us: bytes, peers: Iterable[tuple[bytes | None, str, float]]) -> None:
        """`us`: our node id. `peers`: node id, name, and since when it is level, of our peers.

        A peer without a node id ends the search in its direction.
        """
        self._us = us
        self._seen: dict[bytes, _Seen] = {}
        self._peers = 0
        for node, name, since in peers:
            self._peers += 1
            if node is not None and node not in self._seen:
                self._seen[node] = _Seen(name, (node,), since)
        self._direct = len(self._seen)

    @property
    def beyond(self) -> int:
        """How many nodes behind our own peers are level."""
        return len(self._seen) - self._direct

    @property
    def depth(self) -> int:
        """How many hops away the farthest node is that was reached; 0 for none."""
        return max((len(seen.route) for seen in self._seen.values()), default=0)

    def alike(self, root: bytes) -> bool:
        """Whether every node that was reached said of itself that its root is `root`."""
        return all(seen.root == root for seen in self._seen.values())

    @property
    def open(self) -> bool:
        """Whether another pass may find out more."""
        return any(not seen.settled for seen in self._seen.values())

    def ask(self) -> list[Question]:
        """Whom to ask now: every node that is level and whose peers are not all level yet."""
        return [Question(s.route, s.since) for s in self._seen.values() if not s.settled]

    def told(
        self,
        question: Question,
        edges: Sequence[Edge],
        sent: float,
        now: float,
        *,
        more: bool,
        root: bytes | None = None,
    ) -> list[Question]:
        """What the node at the end of a route says of its peers; whom to ask because of it.

        `sent`: when the question was sent. `more`: the node has more peers than it told of.
        `root`: its own root, None when it told none.
        """
        teller = self._seen[question.route[-1]]
        teller.answered, teller.error, teller.root = True, None, root
        behind = []
        far = []
        fresh = []
        for edge in edges:
            if edge.node == self._us:
                continue
            if edge.node in self._seen:
                fresh += self._nearer(self._seen[edge.node], teller)
            elif edge.level is None or edge.level > margin(teller.since, sent):
                behind.append(edge)
            elif edge.node is None:
                continue
            elif self._room(teller):
                fresh.append(self._reached(edge.node, edge.name, teller, now))
            else:
                far.append(edge)
        teller.behind, teller.far = tuple(behind), tuple(far)
        if more:
            teller.never = f"{teller.name} has more peers than it tells of"
        teller.settled = not behind
        return fresh

    def failed(self, question: Question, error: str, *, never: bool) -> None:
        """The node at the end of a route gave no answer; with `never`, it never will."""
        teller = self._seen[question.route[-1]]
        teller.answered = True
        if never:
            teller.settled, teller.behind, teller.error = True, (), None
            teller.never = f"{teller.name} does not tell how it stands with its peers ({error})"
        else:
            teller.error = f"{teller.name}{self._through(teller)} does not answer: {error}"

    def problems(self) -> list[str]:
        """One line for each node that is not level, or that cannot be seen."""
        lines = []
        for seen in self._seen.values():
            if not seen.answered:
                lines.append(f"{seen.name} has not said yet how it stands with its peers")
            lines += [text for text in (seen.never, seen.error) if text is not None]
            for edge in seen.behind:
                if edge.node is None or edge.node not in self._seen:
                    why = f" ({edge.error})" if edge.error else ""
                    lines.append(f"{seen.name} says its peer {edge.name} is not level{why}")
            lines += [
                f"{edge.name}, a peer of {seen.name}, is too far away to be asked"
                for edge in seen.far
                if edge.node not in self._seen
            ]
        return lines

    def _room(self, teller: _Seen) -> bool:
        """Whether a peer of `teller` can be asked: it is near enough, and not one too many."""
        return len(teller.route) <= MAX_HOPS and len(self._seen) < MAX_NODES

    def _reached(self, node: bytes, name: str, teller: _Seen, now: float) -> Question:
        route = (*teller.route, node)
        self._seen[node] = _Seen(name, route, now)
        return Question(route, now)

    def _nearer(self, seen: _Seen, teller: _Seen) -> list[Question]:
        """A node is told of once more. Where that way is shorter, it is taken from now on.

        The node is asked again if it has peers that were too far away by the longer way.
        """
        if len(teller.route) + 1 >= len(seen.route):
            return []
        seen.route = (*teller.route, seen.route[-1])
        if not seen.far or not self._room(seen):
            return []
        seen.settled = False
        return [Question(seen.route, seen.since)]

    def _through(self, seen: _Seen) -> str:
        """By whom a node was asked that is not a peer of ours."""
        if len(seen.route) == 1:
            return ""
        return f", a peer of {self._seen[seen.route[-2]].name},"
