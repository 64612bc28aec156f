"""The announcer: offers a peer at once what is new here, and never what came from it.

One for each peer, so that one that hangs delays the others by nothing. Announcements may be
lost: the periodic rounds are the guarantee.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import anyio

from mesh.actors.keeper import Holder, Keeper
from mesh.actors.transfer import push
from mesh.core.digest import Digest
from mesh.core.round import Tally
from mesh.errors import MeshError, one_line
from mesh.transport.base import Replica
from mesh.wire.messages import Hello

log = logging.getLogger("mesh")

# Blobs that come within this time share an announcement: unnoticeable for a person, and a client
# that puts a hundred blobs in a row costs some requests instead of a hundred.
_GATHER = 0.01

# Between two announcements to one peer while blobs keep coming: a bulk upload is better served
# by the rounds it causes, and each announcement costs both sides about a millisecond.
_SPACING = 0.25

# Beyond this many it is only said that there is more: a round moves them better than offers do.
_MOST = 1000


class Announcer:
    """What is new since the last announcement to one peer."""

    def __init__(
        self,
        keeper: Keeper,
        replica: Replica,
        hello: Callable[[], Hello],
        heard: Callable[[Hello], None],
        level: Callable[[], None],
    ) -> None:
        """`hello` tells how we stand; `heard` is told how the peer stands, as it answers.

        `level` asks for a round of ours: there is more for a peer that does not fetch it.
        """
        self._level = level
        self._keeper = keeper
        self._replica = replica
        self._hello = hello
        self._heard = heard
        self._fresh: list[Digest] = []
        self._more = False
        self._wake = anyio.Event()
        self.tally = Tally()

    def note(self, digests: Sequence[Digest], source: Holder, peer: Holder | None) -> None:
        """Blobs have come from `source`; `peer` is the one announced to, once it is known.

        What it sent us itself is not offered back, but it learns that our root has changed.
        """
        if source != peer:
            if len(self._fresh) + len(digests) > _MOST:
                self._fresh.clear()
                self._more = True
            elif not self._more:
                self._fresh.extend(digests)
        self._wake.set()

    async def run(self) -> None:
        """Announce what is noted, until cancelled."""
        while True:
            await self._wake.wait()
            await anyio.sleep(_GATHER)
            self._wake = anyio.Event()
            fresh, self._fresh = self._fresh, []
            more, self._more = self._more, False
            try:
                await self._announce(fresh, more)
            except MeshError as error:
                log.debug("announcement lost: %s", one_line(error))
            await anyio.sleep(_SPACING)

    async def _announce(self, fresh: list[Digest], more: bool) -> None:
        offered = await self._replica.offer(self._hello(), fresh, more=more)
        theirs = offered.hello
        if offered.wants:
            theirs = await push(self._keeper, self._replica, offered, self.tally)
        if theirs is not None:
            self._heard(theirs)
        if more and not offered.pulls:
            self._level()
