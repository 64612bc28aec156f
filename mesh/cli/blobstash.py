"""`mesh blobstash sync`: one sync with a BlobStash server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from anyio import create_task_group

from mesh.actors.keeper import Keeper
from mesh.actors.local import KeeperBlobs
from mesh.blobstash import LocalBlobs, Sync, SyncStats
from mesh.blobstash.remote import Remote
from mesh.config import Address, Config, parse_peer, read_keys
from mesh.core.digest import Digest, parse_digest
from mesh.core.holder import CLIENT, Holder
from mesh.core.tree import Tree
from mesh.offload import Lane, Threads
from mesh.store.directory import DataDirectory
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles
from mesh.transport.client import NodeClient, node_client
from mesh.transport.http import Http, credentials, new_client

_WORKERS = 2


def server(url: str, key_file: str | None) -> Address:
    """The BlobStash server of the command line; `blobstash+` before the URL may be left out."""
    address = parse_peer(url if "blobstash+" in url else f"blobstash+{url}")
    if key_file is None:
        return address
    return msgspec.structs.replace(address, key=read_keys(key_file)[0])


async def sync_directory(address: Address, data: Path, *, one_way: bool) -> SyncStats:
    """A sync between a data directory and a server."""
    directory = DataDirectory.claim(data)
    try:
        work = Threads(_WORKERS)
        store = DiskStore(DiskFiles(directory.path), data / "index.sqlite", Lane, work)
        await store.open()
        keeper = Keeper(store, _nobody_to_tell)
        try:
            async with create_task_group() as group:
                group.start_soon(keeper.run)
                await keeper.built()
                local = KeeperBlobs(keeper, CLIENT, Config().max_replica_bytes)
                stats = await _sync(address, local, work, one_way=one_way)
                group.cancel_scope.cancel()
        finally:
            keeper.close()
            await store.close()
    finally:
        directory.release()
    return stats


async def sync_node(address: Address, node: Address, *, one_way: bool) -> SyncStats:
    """A sync between a running node and a server."""
    async with node_client(node) as client:
        return await _sync(address, _NodeBlobs(client), Threads(_WORKERS), one_way=one_way)


async def _sync(address: Address, local: LocalBlobs, work: Threads, *, one_way: bool) -> SyncStats:
    async with new_client() as client:

        def connect(url: str, api_key: str) -> Remote:
            del url, api_key  # both are in the address
            return Remote(Http(client, address.url, credentials(address)), address.place)

        return await Sync(local, connect, work).sync(address.url, "", one_way)


def _nobody_to_tell(_digests: Sequence[Digest], _holder: Holder) -> None:
    """What is new here is announced by nobody: no node runs."""


class _NodeBlobs:
    """The blobs of a running node. See blobstash.client.LocalBlobs."""

    def __init__(self, client: NodeClient) -> None:
        self._client = client
        self._sizes: dict[Digest, int] = {}

    async def tree(self) -> Tree:
        """Everything that the node lists."""
        async for blob in self._client.listing(""):
            self._sizes[parse_digest(blob.digest)] = blob.size
        return Tree(self._sizes)

    @asynccontextmanager
    async def read(self, digest: Digest) -> AsyncIterator[tuple[int, AsyncIterator[bytes]] | None]:
        """A blob's size and its bytes; the server checks them."""
        size = self._sizes.get(digest)
        if size is None:
            yield None
            return
        async with self._client.get(digest) as chunks:
            yield size, chunks

    async def write(self, digest: Digest, chunks: AsyncIterator[bytes]) -> tuple[bool, int]:
        """Store what comes; the node refuses what is another blob."""
        return True, (await self._client.put_named(digest, chunks)).size


def shown(stats: SyncStats, *, as_json: bool) -> str:
    """The outcome in a line, or in BlobStash's JSON form."""
    if as_json:
        return msgspec.json.encode(stats).decode()
    if stats.already_synced:
        return f"already in sync ({stats.duration})"
    return (
        f"{stats.downloaded} blobs ({stats.downloaded_size} bytes) here, "
        f"{stats.uploaded} ({stats.uploaded_size} bytes) there, in {stats.duration}"
    )
