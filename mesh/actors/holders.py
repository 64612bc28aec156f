"""On how many peers blobs are, for somebody who waits for the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
from anyio import create_task_group

from mesh.actors.keeper import Keeper
from mesh.actors.peer import Peer
from mesh.core.digest import Digest
from mesh.errors import PeerError, one_line
from mesh.status import BlobHolders, HoldersAnswer, SilentPeer

# For the two small requests that a peer is asked by. One that takes longer is of no use to somebody
# at a terminal, and is said to be silent.
_PATIENCE = 5.0

# Questions of clients at a time; each may ask every peer. More wait.
_AT_A_TIME = 4


class Holders:
    """Asks all peers at once, and waits for none longer than _PATIENCE."""

    def __init__(self, keeper: Keeper, peers: Callable[[], Sequence[Peer]]) -> None:
        """`peers`: gives those to ask now."""
        self._keeper = keeper
        self._peers = peers
        self._places = anyio.CapacityLimiter(_AT_A_TIME)

    async def of(self, digests: Sequence[Digest]) -> HoldersAnswer:
        """Where these blobs are, in the order in which they were asked for."""
        lacked = set(await self._keeper.lacking(digests))
        counts = dict.fromkeys(digests, 0)
        silent: list[SilentPeer] = []

        async def ask(peer: Peer) -> None:
            if peer.paused:
                silent.append(SilentPeer(peer.name, "it is paused here"))
                return
            reason = f"no answer within {_PATIENCE:g} s"
            try:
                with anyio.move_on_after(_PATIENCE):
                    held = await peer.holding(digests)
                    if held is not None:
                        for digest in held:
                            counts[digest] += 1
                        return
                    reason = "its protocol has no such question"
            except PeerError as error:
                reason = one_line(error)
            silent.append(SilentPeer(peer.name, reason))

        async with self._places, create_task_group() as group:
            asked = [peer for peer in self._peers() if peer.counts]
            for peer in asked:
                group.start_soon(ask, peer)
        blobs = [BlobHolders(d.hex(), d not in lacked, counts[d]) for d in digests]
        return HoldersAnswer(
            blobs=blobs, peers=len(asked), silent=sorted(silent, key=lambda each: each.peer)
        )
