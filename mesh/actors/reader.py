"""The reader: what clients read, from the store; healed, or fetched from a peer, when need be.

A read tries what is here. When that fails, the blob is healed: the keeper lets go of what is
damaged, and the fetcher brings the blob from a peer. Then the read tries again, from the byte that
it had come to. This one loop, `_tries`, serves sizes, bytes and batches alike.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from anyio import create_task_group

from mesh.actors.fetcher import PLACES, Fetcher
from mesh.actors.keeper import Keeper
from mesh.actors.transfer import CHUNK, frames_of
from mesh.core.digest import Digest
from mesh.errors import Corrupt, StoreError, one_line
from mesh.store.base import Entry

log = logging.getLogger("mesh")

# How often one read begins again after damage. A disk that fails each first read would otherwise
# keep it for ever.
_HEALINGS = 3


class Reader:
    """Reads on behalf of clients. Peers are never answered through it: see the door."""

    def __init__(self, keeper: Keeper, fetcher: Fetcher | None) -> None:
        """`fetcher`: None when only what is here is to be read."""
        self._keeper = keeper
        self._door = keeper.door
        self._fetcher = fetcher

    async def size(self, digest: Digest) -> int | None:
        """A blob's size in bytes, after it was fetched if it was not here; None when nobody has it.

        Raises StoreError.
        """
        async with aclosing(self._tries(digest)) as tries:
            async for _ in tries:
                size = await self._door.size(digest)
                if size is not None:
                    return size
        return None

    async def stream(
        self, digest: Digest, size: int, start: int, stop: int
    ) -> AsyncGenerator[bytes, None] | None:
        """The bytes [start, stop) of a blob of which `size` said that it is here.

        None when it turned out to be damaged, and nobody else has it. All that comes is verified;
        damage that is met half-way is healed and passed over, or raised as Corrupt.
        """
        pieces = _begun(self._pieces(digest, size, start, stop))
        try:
            await anext(pieces)
        except StoreError:
            if await self._door.size(digest) is None:
                return None
            raise
        return pieces

    async def frames(self, digests: Sequence[Digest]) -> AsyncGenerator[bytes, None]:
        """A batch as `transfer.frames_of` gives it, of which nothing is absent that can be had."""
        async with aclosing(frames_of(self._entries, digests)) as frames:
            async for chunk in frames:
                yield chunk

    async def _entries(self, digests: Sequence[Digest], most: int) -> list[Entry]:
        """As Door.batch, after what is not here was healed: so many blobs as come at a time.

        Behind them the answer is cut, so that a client who waits hears something soon.
        """
        entries = await self._door.batch(digests, most)
        absent = [at for at, entry in enumerate(entries) if entry.size is None]
        if len(absent) > PLACES:
            del entries[absent[PLACES] :]

        async def heal(at: int) -> None:
            try:
                entries[at] = await self._entry(entries[at].digest)
            except StoreError as error:  # the others of the batch are not concerned
                log.warning("blob %s: %s", entries[at].digest.hex(), one_line(error))

        async with create_task_group() as group:
            for at in absent[:PLACES]:
                group.start_soon(heal, at)
        return entries

    async def _entry(self, digest: Digest) -> Entry:
        """One blob of a batch that was not here at first."""
        async with aclosing(self._tries(digest)) as tries:
            async for _ in tries:
                (entry,) = await self._door.batch([digest], CHUNK)
                if entry.size is not None:
                    return entry
        return Entry(digest, None, None)

    async def _pieces(
        self, digest: Digest, size: int, start: int, stop: int
    ) -> AsyncGenerator[bytes, None]:
        failure: StoreError | None = None
        async with aclosing(self._tries(digest)) as tries:
            async for _ in tries:
                try:
                    async with aclosing(self._door.whole(digest, size, start, stop)) as pieces:
                        async for piece in pieces:
                            if piece:  # none while the blob is being verified
                                start += len(piece)
                                yield piece
                    return
                except StoreError as error:
                    failure = error
        if isinstance(failure, Corrupt):
            raise Corrupt(f"{one_line(failure)}, and no reachable peer has it") from failure
        if failure is not None:
            raise failure

    async def _tries(self, digest: Digest) -> AsyncGenerator[None, None]:
        """Turns to read a blob: one at once, and another one each time after it was healed."""
        yield
        for _ in range(_HEALINGS):
            if not await self._healed(digest):
                return
            yield

    async def _healed(self, digest: Digest) -> bool:
        """Whether a blob is here again, after what was damaged has been let go of."""
        await self._keeper.settled(digest)
        if await self._door.size(digest) is not None:
            return True  # the read that failed was wrong, or it has come back already
        return self._fetcher is not None and await self._fetcher.fetch(digest)


async def _begun(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """What is empty once the first piece is there, and then the pieces.

    The caller goes on with a generator that has begun: closing one that has not would close
    nothing of what it holds, and leave a file open.
    """
    async with aclosing(pieces):
        first = await anext(pieces, b"")
        yield b""
        if first:
            yield first
        async for piece in pieces:
            yield piece
