"""How far a `wait` sees: from the peers of this node on, through what each node says of its own.

**Theory.** A node calls nobody but its own peers. So it cannot look at a node behind them; but it
can ask a peer how that one stands with its peers, and can have the question passed on to one of
these, by a *route* of node ids. The asker chooses every route itself and asks each node once in a
pass. Hence a circle of peers ends by itself, and one question makes one request for each hop.

What a node had when it was level with this one, at a time t, is everything that was here when the
wait began. If that node says that it has been level with one of its peers since a time that is
not before t, all of it is there too. Its word is a time span (`Edge.level`), which is taken from
the time at which the question was *sent*: so no clocks are compared, and no delay makes a peer
look better than it is. Blobs never go away, so a node that was once level in this sense stays so.

`Horizon` is told the answers and says whom to ask next, what is not level, and what cannot be seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
    blobs are moved in that direction; null when that is not known. `error`: why not.
    """

    node: _Node | None
    name: Annotated[str, Meta(max_length=_MAX_NAME)]
    level: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    direction: Annotated[str, Meta(max_length=4)] = "both"
    error: Annotated[str, Meta(max_length=MAX_WORDS)] | None = None


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
    def level(self) -> bool:
        """Whether every node that can be reached has answered, and all their peers are level."""
        return not self.problems()

    @property
    def open(self) -> bool:
        """Whether another pass may find out more."""
        return any(not seen.settled for seen in self._seen.values())

    def ask(self) -> list[Question]:
        """Whom to ask now: every node that is level and whose peers are not all level yet."""
        return [Question(s.route, s.since) for s in self._seen.values() if not s.settled]

    def told(
        self, question: Question, edges: Sequence[Edge], sent: float, now: float, *, more: bool
    ) -> list[Question]:
        """What the node at the end of a route says of its peers; whom to ask because of it.

        `sent`: when the question was sent. `more`: the node has more peers than it told of.
        """
        teller = self._seen[question.route[-1]]
        teller.answered, teller.error = True, None
        behind = []
        fresh = []
        for edge in edges:
            if edge.node == self._us or edge.node in self._seen:
                continue
            if edge.level is None or sent - edge.level / 1000 < teller.since:
                behind.append(edge)
            elif edge.node is not None:
                fresh += self._reached(edge.node, edge.name, teller, now)
        teller.behind = tuple(behind)
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
        return lines

    def _reached(self, node: bytes, name: str, teller: _Seen, now: float) -> list[Question]:
        if len(teller.route) > MAX_HOPS or len(self._seen) >= MAX_NODES:
            teller.never = f"{name}, a peer of {teller.name}, is too far away to be asked"
            return []
        route = (*teller.route, node)
        self._seen[node] = _Seen(name, route, now)
        return [Question(route, now)]

    def _through(self, seen: _Seen) -> str:
        """By whom a node was asked that is not a peer of ours."""
        if len(seen.route) == 1:
            return ""
        return f", a peer of {self._seen[seen.route[-2]].name},"
