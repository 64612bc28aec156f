"""The announcer: offers a peer at once what is new here, and never what came from it.

There is one for each peer, so that a peer that hangs does not delay the others. Announcements may
be lost, since the periodic rounds are the guarantee; but the peer actor is told of each one that
was lost, and looks what became of the peer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import anyio

from mesh.actors.keeper import Keeper
from mesh.actors.transfer import push
from mesh.core.digest import Digest
from mesh.core.holder import Configured
from mesh.core.round import Tally
from mesh.errors import MeshError, PeerError, one_line
from mesh.transport.base import Replica
from mesh.wire.messages import Hello

log = logging.getLogger("mesh")

# Blobs that come within this time share an announcement: unnoticeable for a person, and a client
# that puts a hundred blobs in a row costs some requests instead of a hundred.
_GATHER = 0.01

# Between two announcements to one peer while blobs keep coming: a bulk upload is better served
# by the rounds it causes, and each announcement costs both sides about a millisecond.
_SPACING = 0.25

# The same after it was said that there is more. Whoever is told begins a round a second at most
# (core/schedule.py), and a round takes all there is by then.
_SPACING_MORE = 1.0

# Beyond this many it is only said that there is more: a round moves them better than offers do.
_MOST = 1000

# From so many on, a peer that fetches by itself is only told that there is more. It then fetches
# thousands in one go. Pushing each small group to each peer took a third of the CPU of a node into
# which a directory was put, and its peers offered each other what both of them were fetching.
_FEW = 100


class Listener(Protocol):
    """Who is told what became of announcements: the peer actor."""

    holder: Configured

    def answered(self, hello: Hello | None, refusal: str, *, more: bool) -> None:
        """The peer answered, and stands as `hello` says, None when it did not say.

        `refusal`: why the peer did not take one of the blobs, or "". `more`: the peer does not
        fetch by itself and did not take all that is new, so a round has to bring the rest.
        """

    def unanswered(self, error: PeerError) -> None:
        """The announcement, or what followed it, failed."""


class _Moved:
    """What became of the blobs of one announcement; see transfer.Leaving."""

    def __init__(self, tally: Tally) -> None:
        """`tally`: of all announcements to this peer."""
        self._tally = tally
        self.refusal = ""
        self.later = False

    def stored(self, fresh: int, size: int, rejected: int = 0, *, exact: bool = True) -> None:
        """The peer has stored so many."""
        del exact
        self._tally.stored(fresh, size, rejected)

    def untaken(self, why: str) -> None:
        """One blob was not moved."""
        self._tally.untaken(why)
        self.refusal = why

    def put_off(self, why: str, seconds: float) -> None:
        """One cannot be sent yet: a round does that, and knows when to come back."""
        del seconds
        self.untaken(why)
        self.later = True


class Announcer:
    """What is new since the last announcement to one peer."""

    def __init__(
        self, keeper: Keeper, replica: Replica, hello: Callable[[], Hello], listener: Listener
    ) -> None:
        """`hello` tells how we stand."""
        self._keeper = keeper
        self._replica = replica
        self._hello = hello
        self._listener = listener
        self._fresh: list[Digest] = []
        self._more = False
        self._pulls = False
        self._wake = anyio.Event()
        self._scope = anyio.CancelScope()  # of the announcement under way
        self.muted = False
        self.tally = Tally()

    def note(self, digests: Sequence[Digest], *, theirs: bool) -> None:
        """Blobs have come; `theirs`: from the peer that is announced to, as far as we can tell.

        What it sent us itself is not offered back, but it learns that our root has changed.
        """
        if not theirs:
            if len(self._fresh) + len(digests) > _MOST:
                self._fresh.clear()
                self._more = True
            elif not self._more:
                self._fresh.extend(digests)
        self._wake.set()

    def mute(self) -> None:
        """Announce nothing, not even what was noted, and end the announcement under way."""
        self.muted = True
        self._fresh, self._more = [], False
        self._scope.cancel()

    def unmute(self) -> None:
        """Announce what is noted from now on."""
        self.muted = False

    async def run(self) -> None:
        """Announce what is noted, until cancelled."""
        while True:
            await self._wake.wait()
            await anyio.sleep(_GATHER)
            self._wake = anyio.Event()
            fresh, self._fresh = self._fresh, []
            more, self._more = self._more, False
            if self.muted:
                continue
            if self._pulls and len(fresh) > _FEW:
                fresh, more = [], True
            try:
                with anyio.CancelScope() as self._scope:
                    await self._announce(fresh, more)
            except MeshError as error:
                log.debug("announcement lost: %s", one_line(error))
                if isinstance(error, PeerError):
                    self._listener.unanswered(error)
            await anyio.sleep(_SPACING_MORE if more else _SPACING)

    async def _announce(self, fresh: list[Digest], more: bool) -> None:
        offered = await self._replica.offer(self._hello(), fresh, more=more)
        self._pulls = offered.pulls
        self._keeper.journal.announced(self._listener.holder, len(fresh), len(offered.wants))
        theirs = offered.hello
        refusal = ""
        if offered.wants:
            moved = _Moved(self.tally)
            theirs = await push(self._keeper, self._replica, self._listener.holder, offered, moved)
            refusal, more = moved.refusal, more or moved.later
        # A peer that cannot say how it stands is only asked again where there surely is more: it
        # may have what it does not want.
        rest = more or (theirs is not None and len(offered.wants) < len(fresh))
        self._listener.answered(theirs, refusal, more=rest and not offered.pulls)
