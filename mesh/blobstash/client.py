"""SyncClient: one sync with one BlobStash server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import anyio
from anyio import create_task_group

from mesh.blobstash.compare import differences, diverging
from mesh.blobstash.remote import Remote
from mesh.blobstash.stats import SyncStats, go_duration
from mesh.blobstash.tree import LeafState, State, StateTree
from mesh.core.digest import Digest, parse_digest
from mesh.core.tree import Tree
from mesh.errors import InputError, MeshError, Refused
from mesh.offload import Offload

# Blobs on their way at a time. A request for each is what the protocol has; more than this only
# makes them wait for each other on the server's side.
_AT_A_TIME = 8


class LocalBlobs(Protocol):
    """This side of a sync."""

    async def tree(self) -> Tree:
        """Everything that is here."""

    def read(
        self, digest: Digest
    ) -> AbstractAsyncContextManager[tuple[int, AsyncIterator[bytes]] | None]:
        """A blob's size and its bytes; None when it is not here."""

    async def write(self, digest: Digest, chunks: AsyncIterator[bytes]) -> tuple[bool, int]:
        """Store what comes, durably; whether it was new, and its size.

        Misbehaved when it is not the blob of that name; then nothing is stored.
        """


class OneWayConflict(Refused):
    """A one-way sync found blobs that exist only here: nothing was transferred.

    `only_here`: how many there are.
    """

    def __init__(self, only_here: int) -> None:
        super().__init__(
            f"{only_here} blobs exist only here, so a one-way sync transfers nothing; sync both "
            "ways, or push them first"
        )
        self.only_here = only_here


class SyncClient:
    """A sync between `local` and the server behind `remote`. All errors are MeshErrors."""

    def __init__(
        self, remote: Remote, local: LocalBlobs, work: Offload, *, one_way: bool = False
    ) -> None:
        """`work` hashes away from the event loop. `one_way`: take everything, give nothing."""
        self._remote = remote
        self._local = local
        self._work = work
        self._one_way = one_way

    async def remote_state(self) -> State:
        """What the server holds, in short."""
        return await self._remote.state()

    async def remote_leaf(self, prefix: str) -> LeafState:
        """The digests of one of the server's buckets, cut to the two-digit prefix."""
        return await self._remote.leaf(prefix)

    async def send(self, digest: str) -> int:
        """Send one blob; its size in bytes. InputError when it is not here."""
        name = parse_digest(digest)
        async with self._local.read(name) as found:
            if found is None:
                raise InputError(f"blob {digest} is not here")
            size, chunks = found
            await self._remote.post(name, size, chunks)
        return size

    async def receive(self, digest: str) -> int:
        """Fetch one blob and store it; its size in bytes. Refused when the server lacks it."""
        name = parse_digest(digest)
        async with self._remote.get(name) as found:
            if found is None:
                raise Refused(f"the server listed blob {digest} and does not have it")
            _, size = await self._local.write(name, found[1])
        return size

    async def sync(self) -> SyncStats:
        """Level both sides (or only this one); what that moved."""
        began = anyio.current_time()
        stats = SyncStats(one_way=self._one_way)
        state = await self._remote.state()
        tree = await self._local.tree()
        ours = StateTree(tree)
        stats.already_synced = await self._work(ours.root) == state.root
        if not stats.already_synced:
            await self._level(tree, state, await self._work(diverging, ours, state), stats)
        stats.duration = go_duration(anyio.current_time() - began)
        return stats

    async def _level(self, tree: Tree, state: State, prefixes: list[str], stats: SyncStats) -> None:
        found = differences(self._remote, tree, state, prefixes)
        if self._one_way:
            # Whether anything may be transferred is only known when everything was compared.
            leaves = [leaf async for leaf in found]
            if only_here := sum(len(leaf.missing_there) for leaf in leaves):
                raise OneWayConflict(only_here)
            for leaf in leaves:
                await self._all(leaf.missing_here, self._receive_counted, stats)
            return
        async for leaf in found:
            await self._all(leaf.missing_here, self._receive_counted, stats)
            await self._all(leaf.missing_there, self._send_counted, stats)

    async def _all(
        self,
        digests: list[Digest],
        move: Callable[[Digest, SyncStats], Awaitable[None]],
        stats: SyncStats,
    ) -> None:
        """Move several at a time; the first error is raised when those under way are done."""
        errors: list[MeshError] = []
        waiting = iter(digests)

        async def worker() -> None:
            for digest in waiting:
                if errors:
                    return
                try:
                    await move(digest, stats)
                except MeshError as error:
                    errors.append(error)

        async with create_task_group() as group:
            for _ in range(min(_AT_A_TIME, len(digests))):
                group.start_soon(worker)
        if errors:
            raise errors[0]

    async def _receive_counted(self, digest: Digest, stats: SyncStats) -> None:
        # Not `+= await`: that would add to what the sum was before the others' turns.
        size = await self.receive(digest.hex())
        stats.downloaded_size += size
        stats.downloaded += 1

    async def _send_counted(self, digest: Digest, stats: SyncStats) -> None:
        size = await self.send(digest.hex())
        stats.uploaded_size += size
        stats.uploaded += 1
