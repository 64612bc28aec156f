"""The reader: what clients read, from the store; healed, or fetched from a peer, when need be."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from mesh.actors.fetcher import Fetcher
from mesh.actors.keeper import Keeper
from mesh.core.digest import Digest
from mesh.core.limits import LARGE_BLOB
from mesh.errors import Corrupt

# How often one read begins again after damage. A disk that fails each first read would otherwise
# keep it for ever.
_HEALINGS = 3


class Reader:
    """Reads on behalf of clients. Peers are never answered through it: see the fetcher."""

    def __init__(self, keeper: Keeper, fetcher: Fetcher | None) -> None:
        """`fetcher`: None when only what is here is to be read."""
        self._keeper = keeper
        self._fetcher = fetcher

    async def size(self, digest: Digest) -> int | None:
        """A blob's size in bytes, after it was fetched if it was not here; None when nobody has it.

        Raises StoreError.
        """
        size = await self._keeper.store.size(digest)
        if size is None:
            self._keeper.missing(digest)
            if await self._healed(digest):
                size = await self._keeper.store.size(digest)
        return size

    async def stream(
        self, digest: Digest, size: int, start: int, stop: int
    ) -> AsyncGenerator[bytes, None] | None:
        """The bytes [start, stop) of a blob of which `size` said that it is here.

        None when it turned out to be damaged, and nobody else has it. All that comes is verified;
        damage that is met half-way is healed and passed over, or raised as Corrupt.
        """
        pieces = self._pieces(digest, size, start, stop)
        try:
            first = await anext(pieces, b"")
        except Corrupt:
            if await self._keeper.store.size(digest) is None:
                return None
            raise
        return _resumed(first, pieces)

    async def _pieces(
        self, digest: Digest, size: int, start: int, stop: int
    ) -> AsyncGenerator[bytes, None]:
        if size < LARGE_BLOB:
            yield (await self._small(digest))[start:stop]
            return
        healings = 0
        while start < stop:
            try:
                async with aclosing(self._keeper.store.stream(digest, start, stop)) as pieces:
                    async for piece in pieces:
                        if piece:  # none while the blob is being verified
                            start += len(piece)
                            yield piece
            except Corrupt:
                healings += 1
                if healings > _HEALINGS or not await self._healed(digest):
                    raise

    async def _small(self, digest: Digest) -> bytes:
        for _ in range(_HEALINGS):
            try:
                data = await self._keeper.store.read(digest)
            except Corrupt:
                data = None
            if data is not None:
                return data
            if not await self._healed(digest):
                break
        raise Corrupt(f"blob {digest.hex()} is damaged, and no reachable peer has it")

    async def _healed(self, digest: Digest) -> bool:
        """Whether a blob is here again, after what was damaged has been let go of."""
        await self._keeper.settled(digest)
        if await self._keeper.store.size(digest) is not None:
            return True  # the read that failed was wrong, or it has come back already
        return self._fetcher is not None and await self._fetcher.fetch(digest)


async def _resumed(
    first: bytes, pieces: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        yield first
        async for piece in pieces:
            yield piece
