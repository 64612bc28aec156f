"""What this node tells of its peers when another node asks, and how it passes the question on.

This is the one question of the protocol that makes a node call anybody: along the route that the
question carries, and to its own configured peers only. The route gets shorter with each hop, so
the question ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import msgspec

from mesh.actors.keeper import Keeper
from mesh.actors.peer import Peer
from mesh.actors.roster import Roster
from mesh.actors.scheduler import Scheduler
from mesh.core.horizon import MAX_PEERS, MAX_WORDS, Edge, age
from mesh.core.schedule import HINT_SPACING
from mesh.core.standing import State
from mesh.errors import InputError, PeerError, Refused, one_line
from mesh.wire.messages import MAX_NAME, StandingReply, StandingRequest

# Questions that are being passed on at a time. Each waits for another node, for some seconds if
# that one hangs; whoever is turned away asks again.
_PASSED_ON = 8
_BUSY_SECONDS = 1.0

# Somebody waits for a peer that is failing: it is tried so many seconds after the last try, and
# not after the growing pauses of the schedule.
_TRY_AGAIN = 5.0

_WHY = {
    State.NEW: "it has not been reached yet",
    State.BUILDING: "it is still building its tree",
}


class Teller:
    """Answers `standing`."""

    def __init__(
        self,
        name: str,
        peers: Sequence[Peer],
        roster: Roster[Peer],
        keeper: Keeper,
        scheduler: Scheduler,
    ) -> None:
        """`name`: what this node is called. For the others see Node."""
        self._name = name
        self._peers = peers
        self._roster = roster
        self._keeper = keeper
        self._scheduler = scheduler
        self._places = anyio.Semaphore(_PASSED_ON)

    async def answer(self, request: StandingRequest) -> StandingReply:
        """How we stand with our peers, or a node behind us with its.

        Refused when busy; InputError for a route that goes in a circle.
        """
        if len(set(request.route)) < len(request.route):
            raise InputError("a route passes each node once")
        if request.route:
            return await self._passed_on(request)
        return self._own(request.since)

    def _own(self, since: int | None) -> StandingReply:
        tree = self._keeper.tree
        root = tree.root if tree is not None else None
        now = anyio.current_time()
        counting = [peer for peer in self._peers if peer.counts]
        edges: list[Edge] = []
        for peer in counting[:MAX_PEERS]:
            standing = peer.standing
            at = standing.level_since(root, now) if since is None else standing.shared_since
            ago = None if at is None else age(at, now)
            late = ago is None or (since is not None and ago > since)
            if late and since is not None:
                self._scheduler.hint(peer, _TRY_AGAIN if standing.failures else HINT_SPACING)
            edges.append(_edge(peer, ago, late=late))
        return StandingReply(peers=edges, more=len(counting) > len(edges), root=root)

    async def _passed_on(self, request: StandingRequest) -> StandingReply:
        target, *rest = request.route
        peer = self._roster.find(target)
        if peer is None:
            return StandingReply(
                peers=[], error=f"node {target.hex()} is not a peer of {self._name}"
            )
        try:
            self._places.acquire_nowait()
        except anyio.WouldBlock:
            raise Refused("busy with other questions; try again", _BUSY_SECONDS) from None
        try:
            reply = await peer.tell(msgspec.structs.replace(request, route=rest))
        except PeerError as error:
            never = isinstance(error, Refused) and error.retry_after is None
            return StandingReply(peers=[], error=one_line(error)[:MAX_WORDS], never=never)
        finally:
            self._places.release()
        if reply is None:
            return StandingReply(peers=[], error="its protocol has no such question", never=True)
        return reply


def _edge(peer: Peer, ago: int | None, *, late: bool) -> Edge:
    """How we stand with one peer; `ago`: milliseconds since it was level; `late`: too many."""
    why = None
    if late:
        why = peer.standing.error or _WHY.get(peer.standing.state)
    if peer.paused:
        ago, why = None, f"it is paused here, and `mesh peers resume {peer.name}` ends that"
    if late and why is None and not peer.address.pushes:
        why = "blobs are only fetched from it, so it may lack some"
    return Edge(
        node=peer.node,
        name=peer.name[:MAX_NAME],
        level=ago,
        direction=peer.direction,
        error=why[:MAX_WORDS] if why else None,
    )
