"""The fetcher: brings one blob from whichever peer has it, because somebody wants to read it now.

The question is the same that a round asks for a large blob, and a peer answers it from its own
store alone: a read travels one hop, never more.

Clients who want the same blob share one request (see `actor.Mailbox`). Each of `PLACES` workers
fetches one blob at a time: it waits a moment for a round that brings the blob already, then asks
the peers, and stores the first answer.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import anyio
from anyio import create_task_group

from mesh.actors.actor import Mailbox
from mesh.actors.keeper import Keeper
from mesh.actors.transfer import take_large
from mesh.core.digest import Digest
from mesh.core.holder import Configured
from mesh.errors import Misbehaved, PeerError, StoreError, one_line
from mesh.transport.base import Replica

log = logging.getLogger("mesh")

# Blobs fetched at a time; each may hold up to 4 MiB before it becomes a file. More wait.
PLACES = 8

# The next peer is asked when the one before has answered no, or has said nothing for so long. On a
# local network a yes comes within some ms, so the blob is not sent by two peers.
_STAGGER = 0.1

# For the first byte, from a peer that was reachable at the last try, and from one that was not.
_PATIENCE = 5.0
_LITTLE_PATIENCE = 1.0

# Without a byte for so long another peer takes over; a round would wait 30 s.
_STALLED = 10.0

# A blob that is on its way in a round is waited for so long before it is fetched beside it.
_OTHERS = 1.0


class Candidate(NamedTuple):
    """A peer that may have the blob: its holder, the way to it, whether it answered last."""

    holder: Configured
    replica: Replica
    reachable: bool


class _Search:
    """What the attempts of one blob share."""

    def __init__(self, digest: Digest) -> None:
        self.digest = digest
        self.taking = anyio.Lock()
        self.found = False
        self.error: StoreError | None = None


class _Attempt:
    """One peer's part in it."""

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.ended = anyio.Event()


class Fetcher:
    """See the module. `run` is supervised by the node."""

    def __init__(
        self, keeper: Keeper, limit: int, candidates: Callable[[], Sequence[Candidate]]
    ) -> None:
        """`limit`: bytes a blob may have; `candidates`: gives the peers to ask now."""
        self._keeper = keeper
        self._limit = limit
        self._candidates = candidates
        # Everybody who asks waits for the answer, and nobody only tells: there is room for none.
        self._mailbox: Mailbox[Digest, bool] = Mailbox("the fetcher", 0, StoreError)

    async def fetch(self, digest: Digest) -> bool:
        """Whether a blob is here now. Those who want the same one share the fetch.

        Raises StoreError when it cannot be kept. Whoever is cancelled leaves the fetch to others.
        """
        return await self._mailbox.ask(digest, share=digest)

    def close(self) -> None:
        """`run` has ended for good; whoever still waits is told so."""
        self._mailbox.close()

    async def run(self) -> None:
        """Fetch what is asked for, until cancelled."""
        async with create_task_group() as group:
            for _ in range(PLACES):
                group.start_soon(self._work)

    async def _work(self) -> None:
        while True:
            with self._mailbox.turn() as turn:
                request = await turn.take()
                try:
                    request.reply.set(await self._from_any(request.question))
                except StoreError as error:
                    request.reply.fail(error)

    async def _from_any(self, digest: Digest) -> bool:
        """Ask the peers, one a moment, and all that are silent at the same time."""
        end = anyio.current_time() + _OTHERS
        while self._keeper.coming(digest) and (left := end - anyio.current_time()) > 0:
            await self._keeper.wait_for_change(left)
        if await self._keeper.door.size(digest) is not None:
            return True
        search = _Search(digest)
        async with create_task_group() as group:
            for candidate in self._candidates():
                attempt = _Attempt()
                group.start_soon(self._ask, candidate, search, attempt, group.cancel_scope)
                with anyio.move_on_after(_STAGGER):
                    await attempt.answered.wait()
                if attempt.answered.is_set():
                    await attempt.ended.wait()  # it sends: another would send it once more
        if search.error is not None:
            raise search.error
        return search.found

    async def _ask(
        self,
        candidate: Candidate,
        search: _Search,
        attempt: _Attempt,
        all_of_them: anyio.CancelScope,
    ) -> None:
        digest = search.digest
        try:
            await self._take(candidate, search, attempt)
            if search.found:
                all_of_them.cancel()
        except Misbehaved as error:
            log.warning("read-through: %s", one_line(error))
            self._keeper.failed(candidate.holder, [digest], one_line(error))
        except PeerError as error:
            log.debug("read-through: %s", one_line(error))
        except StoreError as error:  # no peer can help with that
            search.error = error
            all_of_them.cancel()
        finally:
            attempt.answered.set()
            attempt.ended.set()

    async def _take(self, candidate: Candidate, search: _Search, attempt: _Attempt) -> None:
        patience = _PATIENCE if candidate.reachable else _LITTLE_PATIENCE
        with anyio.CancelScope(deadline=anyio.current_time() + patience) as scope:
            async with candidate.replica.fetch_large(search.digest, 0) as chunks:
                first = await anext(chunks, b"")
                scope.deadline = math.inf
                attempt.answered.set()
                async with search.taking:
                    if search.found:
                        return
                    await self._keep(candidate, search.digest, _lively(first, chunks, scope))
                    search.found = True

    async def _keep(
        self, candidate: Candidate, digest: Digest, chunks: AsyncIterator[bytes]
    ) -> None:
        """Store what comes; claimed meanwhile, unless a round has claimed it already."""
        claimed = not self._keeper.coming(digest) and self._keeper.hold(candidate.holder, digest)
        try:
            await take_large(self._keeper, candidate.holder, digest, chunks, self._limit)
        finally:
            if claimed:
                self._keeper.release(candidate.holder, [digest])


async def _lively(
    first: bytes, chunks: AsyncIterator[bytes], scope: anyio.CancelScope
) -> AsyncIterator[bytes]:
    """The chunks; `scope` is cancelled when none comes for a while. Storing them is not counted."""
    yield first
    while True:
        scope.deadline = anyio.current_time() + _STALLED
        chunk = await anext(chunks, None)
        scope.deadline = math.inf
        if chunk is None:
            return
        yield chunk
