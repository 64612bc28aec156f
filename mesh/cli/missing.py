"""What is still missing while a node levels with its peers, as its status tells."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import anyio

from mesh.cli.progress import Progress
from mesh.cli.teller import Teller
from mesh.errors import PeerError
from mesh.racing import beside
from mesh.status import PeerStatus, Status
from mesh.transport.client import NodeClient

T = TypeVar("T")

# Seconds from one look at the node's status to the next. One costs the node about a millisecond.
_LOOK = 1.0


async def watched(
    client: NodeClient,
    teller: Teller,
    work: Callable[[], Awaitable[T]],
    counts: Callable[[PeerStatus], bool] = lambda _peer: True,
) -> T:
    """The outcome of `work()`, beside which is told what the peers that count lack, and have got.

    Nobody is asked when nobody watches.
    """
    if not teller.watched:
        return await work()
    return await teller.over(partial(beside, partial(_look, client, teller, counts), work))


async def _look(client: NodeClient, teller: Teller, counts: Callable[[PeerStatus], bool]) -> None:
    levelling = Levelling()
    while True:
        # A node that does not answer this one is found out by the request beside it.
        with suppress(PeerError):
            status = await client.status(Status)
            teller.update(levelling.seen([peer for peer in status.peers if counts(peer)]))
        await anyio.sleep(_LOOK)


class Levelling:
    """What has been moved since the first look, and what is missing still."""

    def __init__(self) -> None:
        self._before: tuple[int, int] | None = None
        self._total_bytes = 0

    def seen(self, peers: Sequence[PeerStatus]) -> Progress:
        """How far it is. The totals are unknown while a peer does not know what is missing."""
        blobs = sum(peer.fetched_blobs + peer.sent_blobs for peer in peers)
        size = sum(peer.fetched_bytes + peer.sent_bytes for peer in peers)
        before = self._before = self._before or (blobs, size)
        # A node that was restarted counts from zero.
        moved, done = max(0, blobs - before[0]), max(0, size - before[1])
        left = _sum((peer.missing_here, peer.missing_there) for peer in peers)
        left_bytes = _sum((peer.missing_here_bytes, peer.missing_there_bytes) for peer in peers)
        if left_bytes is not None:
            # What is left is less by the parts that have come of large blobs; what was moved has
            # only whole blobs. So the parts are what is missing in the sum of the two.
            self._total_bytes = max(self._total_bytes, done + left_bytes)
            done = self._total_bytes - left_bytes
        return Progress(
            "levelling",
            moved,
            None if left is None else moved + left,
            done,
            None if left_bytes is None else self._total_bytes,
            sum(peer.fetch_bytes_per_second + peer.send_bytes_per_second for peer in peers),
        )


def _sum(pairs: Iterable[tuple[int | None, int | None]]) -> int | None:
    """Of all that is missing here and there; None when one number is not known."""
    numbers = [number for pair in pairs for number in pair]
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None
