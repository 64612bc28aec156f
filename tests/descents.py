"""A descent driven to its end, as the actor of a peer does it, without a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.msgpack import encode

from mesh.core.reconcile import (
    MAX_ASKS,
    MAX_LISTED,
    SHORT_HASH,
    WINDOW,
    Answer,
    Ask,
    Descent,
    Listed,
    Surplus,
    answer,
)
from mesh.core.tree import Tree


class Honest:
    """Answers from one tree after another: it moves on after the requests numbered `moves`."""

    def __init__(
        self,
        *trees: Tree,
        moves: Iterable[int] = (),
        most: int = MAX_ASKS,
        page: int = MAX_LISTED,
    ) -> None:
        """`most`: answers to one request; `page`: digests of one listing in one answer."""
        self.tree = trees[0]
        self._later = dict(zip(moves, trees[1:], strict=True))
        self._most = most
        self._page = page
        self._requests = 0

    def name(self) -> tuple[bytes, int]:
        """The root and the count that this peer claims."""
        return self.tree.root, len(self.tree)

    def ask(self, asks: Sequence[Ask], width: int) -> list[Answer]:
        self._requests += 1
        self.tree = self._later.get(self._requests, self.tree)
        answers = answer(self.tree, asks, width)[: self._most]
        return [self._paged(reply) if ask.after is not None else reply
                for ask, reply in zip(asks, answers, strict=False)]  # fmt: skip

    def _paged(self, reply: Answer) -> Answer:
        assert isinstance(reply, Listed)
        cut = self._page * 32
        return Listed(reply.digests[:cut], True) if len(reply.digests) > cut else reply


@dataclass
class Round:
    missing_here: list[bytes] = field(default_factory=list)
    missing_there: list[Surplus] = field(default_factory=list)
    proven: bool = False
    descents: int = 1
    requests: int = 0
    answers: int = 0
    bytes: int = 0
    prefixes: list[str] = field(default_factory=list)


def descend(
    ours: Tree,
    peer: Any,
    width: int = SHORT_HASH,
    limit: int = WINDOW,
    requests: int = 2000,
) -> Round:
    """One descent, begun anew whenever the peer names another root; at most `requests` requests."""
    result = Round()
    descent = Descent(ours, *peer.name(), width)
    while not descent.done:
        assert result.requests < requests, "the descent has no end"
        asks = descent.asks(limit)
        answers = peer.ask(asks, width)
        result.requests += 1
        result.answers += len(answers)
        result.bytes += len(encode(answers))
        result.prefixes += [ask.prefix for ask in asks]
        root, count = peer.name()
        if root != descent.root:
            descent = Descent(ours, root, count, width)
            result.missing_here, result.missing_there = [], []
            result.descents += 1
            continue
        found = descent.feed(answers)
        result.missing_here += found.missing_here
        result.missing_there += found.missing_there
    result.missing_there += descent.rest().missing_there
    result.proven = descent.proven
    return result


def expect_all(result: Round, ours: Iterable[bytes], theirs: Iterable[bytes]) -> None:
    """The round is proven and found every difference, each once, and nothing else."""
    ours, theirs = set(ours), set(theirs)
    assert sorted(result.missing_here) == sorted(theirs - ours)
    there = [list(surplus) for surplus in result.missing_there]
    assert sorted(digest for some in there for digest in some) == sorted(ours - theirs)
    assert [surplus.count for surplus in result.missing_there] == [len(some) for some in there]
    assert all(there), "a surplus of nothing"
    assert result.proven
