"""`mesh ls`: which blobs a node has."""

from __future__ import annotations

import msgspec

from mesh.config import Address
from mesh.transport.client import node_client


async def ls(node: Address, prefix: str, *, as_json: bool) -> None:
    """A line for each blob: digest and size, or a JSON object."""
    async with node_client(node) as client:
        async for blob in client.listing(prefix):
            if as_json:
                print(msgspec.json.encode(blob).decode())
            else:
                print(f"{blob.digest} {blob.size:>12}")
