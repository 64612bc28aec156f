"""The node's own blobs as the BlobStash room sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from mesh.actors.keeper import Keeper
from mesh.actors.transfer import take_large
from mesh.core.digest import Digest
from mesh.core.holder import Holder
from mesh.core.tree import Tree


class KeeperBlobs:
    """See blobstash.client.LocalBlobs."""

    def __init__(self, keeper: Keeper, holder: Holder, limit: int) -> None:
        """`holder`: under whose name blobs arrive. `limit`: bytes a blob."""
        self._keeper = keeper
        self._holder = holder
        self._limit = limit

    async def tree(self) -> Tree:
        """The present tree; StoreError while it is being built."""
        return self._keeper.ready_tree()

    @asynccontextmanager
    async def read(self, digest: Digest) -> AsyncIterator[tuple[int, AsyncIterator[bytes]] | None]:
        """A blob's size and its bytes."""
        size = await self._keeper.door.size(digest)
        if size is None:
            yield None
            return
        async with aclosing(self._keeper.door.whole(digest, size)) as chunks:
            yield size, chunks

    async def write(self, digest: Digest, chunks: AsyncIterator[bytes]) -> tuple[bool, int]:
        """Store what comes, if it is the blob of that name."""
        return await take_large(self._keeper, self._holder, digest, chunks, self._limit)
