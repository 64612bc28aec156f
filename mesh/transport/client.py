"""A node's own API as a client sees it; what the command line is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh.config import Address
from mesh.transport.blob_calls import BatchStored, BlobCalls, ListedBlob, Part, Stored, checked
from mesh.transport.http import Http, credentials, new_client
from mesh.transport.mesh_calls import MeshCalls

__all__ = ["BatchStored", "ListedBlob", "NodeClient", "Part", "Stored", "checked", "node_client"]


class NodeClient(BlobCalls, MeshCalls):
    """One node: see Asking for deadlines and errors."""


@asynccontextmanager
async def node_client(address: Address, path: str = "") -> AsyncIterator[NodeClient]:
    """A client of the node at `address`, where an application has mounted it below `path`."""
    async with new_client() as client:
        http = Http(client, address.url + path, credentials(address))
        yield NodeClient(http, address.place)
