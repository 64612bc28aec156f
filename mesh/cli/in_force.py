"""`mesh config running`: the settings of a node that runs."""

from __future__ import annotations

from typing import Any

from mesh.cli.config import print_settings
from mesh.cli.peers import Keys, ordered
from mesh.config import Address, Shown
from mesh.transport.client import node_client

_SETTINGS: Any = dict[str, Shown]


async def show(node: Address, keys: Keys, *, as_json: bool) -> None:
    """Print what a running node uses now."""
    async with node_client(node) as client:
        settings = await ordered(client, node, "config", {}, keys, _SETTINGS)
    print_settings(settings, as_json=as_json)
