"""What differs between this node and one peer, found and told without moving any of it.

It is the comparison of a round and nothing else: no claim is taken, no blob asked for, and what the
node knows of its peer stays as it is. So it may run beside a round with the same peer.

Only what the two sides have at one moment can be compared. Where the peer's set moves away under
the comparison, a round begins anew; here something was told already that cannot be taken back, so
the comparison ends, and says that it proves nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import NamedTuple

from mesh.actors.keeper import Keeper
from mesh.core.digest import Digest
from mesh.errors import Refused
from mesh.transport.base import Comparison, Meeting, Replica
from mesh.wire.messages import Hello

# Digests that are told at a time: 64 kB of hex digits.
_AT_ONCE = 1000

_CHANGED = "one of the two sets changed while they were compared; try again"


class Found(NamedTuple):
    """Digests that only this node has, or only the peer; none of either: it still compares."""

    here: list[Digest]
    there: list[Digest]


class Differences:
    """One comparison: `begin`, iterate once, then read what it came to."""

    def __init__(
        self, keeper: Keeper, replica: Replica, hello: Callable[[], Hello], place: str
    ) -> None:
        self._keeper = keeper
        self._replica = replica
        self._hello = hello
        self._place = place
        self._meeting: Meeting | None = None
        self.only_here = 0
        self.only_there = 0
        self.proven = False
        """Whether all that was told, and nothing else, is what the two sets differ by."""

    @property
    def reason(self) -> str | None:
        """Why nothing is proven; None when it is."""
        return None if self.proven else _CHANGED

    async def begin(self) -> None:
        """Ask the peer how it stands.

        Raises PeerErrors; Refused while it builds its tree, and when it is this node itself, which
        is equal to itself and says nothing; StoreError while this node builds its tree.
        """
        self._keeper.ready_tree()
        hello = self._hello()
        meeting = await self._replica.meet(hello)
        if meeting.hello is not None and meeting.hello.node == hello.node:
            raise Refused(f"{self._place} is this node itself, or a copy of it; name another peer")
        if not meeting.ready:
            raise Refused(f"{self._place} is still building its tree; try again in a moment", 1.0)
        self.proven = meeting.equal
        self._meeting = meeting

    async def __aiter__(self) -> AsyncGenerator[Found, None]:
        """What differs, as it is found. Raises PeerErrors."""
        if self._meeting is None or self._meeting.equal:
            return
        comparison = self._replica.compare(self._keeper.ready_tree, self._meeting)
        async with aclosing(self._pieces(comparison)) as pieces:
            async for piece in pieces:
                yield piece
        self.proven = comparison.proven and not (comparison.restarts and self._told)

    @property
    def _told(self) -> bool:
        return bool(self.only_here or self.only_there)

    async def _pieces(self, comparison: Comparison) -> AsyncGenerator[Found, None]:
        restarts = 0
        async with aclosing(aiter(comparison)) as found:
            async for piece in found:
                if comparison.restarts != restarts:
                    restarts = comparison.restarts
                    if self._told:
                        return
                yield Found([], [])
                for there in _parts(piece.missing_here):
                    self.only_there += len(there)
                    yield Found([], there)
                for extra in piece.missing_there:
                    for here in _parts(extra):
                        self.only_here += len(here)
                        yield Found(here, [])


def _parts(digests: Iterable[Digest]) -> Iterator[list[Digest]]:
    part: list[Digest] = []
    for digest in digests:
        part.append(digest)
        if len(part) >= _AT_ONCE:
            yield part
            part = []
    if part:
        yield part
