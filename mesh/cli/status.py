"""`mesh status`: how a node and its peers stand."""

from __future__ import annotations

from datetime import datetime

import msgspec

from mesh.cli.words import size_text
from mesh.config import Address
from mesh.decoding import utf8
from mesh.errors import printable
from mesh.status import (
    InboundStatus,
    PeerStatus,
    Status,
)
from mesh.transport.client import node_client


async def status(address: Address, *, as_json: bool) -> None:
    """The node and its peers."""
    async with node_client(address) as client:
        if as_json:
            raw = await client.status(msgspec.Raw)
            print(utf8(bytes(raw)))
            return
        node = await client.status(Status)
    print(f"{node.name} ({node.node_id}), mesh {node.version}, {node.state}")
    print(f"{node.blobs} blobs, {size_text(node.bytes)}; root {node.root or 'is being built'}")
    if node.store.state != "ok":
        print(f"store: {node.store.state}: {node.store.reason}")
    _print_wanted(node)
    _print_peers(node.peers)
    _print_inbound(node.inbound)


def _print_peers(peers: list[PeerStatus]) -> None:
    if not peers:
        print("no peers")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("peer", "state", "in sync", "missing here", "missing there", "last success")
    for peer in peers:
        table.add_row(*map(Text, _row(peer)))
    Console().print(table)
    for peer in peers:
        print(f"{peer.name}: {peer.url}" + (f": {peer.last_error}" if peer.last_error else ""))


def _print_inbound(nodes: list[InboundStatus]) -> None:
    """The nodes that pull from this one and are not among its peers."""
    if not nodes:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("inbound", "node id", "in sync", "blobs", "lacks at least", "last seen")
    for node in nodes:
        row = (
            printable(node.name),
            node.node_id,
            "yes" if node.in_sync else "no",
            _number(node.blobs),
            _number(node.missing),
            f"{node.last_seen_seconds_ago:.0f} s ago",
        )
        table.add_row(*map(Text, row))
    Console().print(table)


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)


def _print_wanted(node: Status) -> None:
    """The blobs that were found damaged and have not come back."""
    for wanted in node.wanted:
        since = datetime.fromtimestamp(wanted.since).strftime("%Y-%m-%d %H:%M")
        print(f"wanted since {since}: {wanted.digest}: {printable(wanted.reason)}")
    if node.wanted_blobs > len(node.wanted):
        print(f"wanted: {node.wanted_blobs - len(node.wanted)} more")


def _row(peer: PeerStatus) -> tuple[str, ...]:
    ago = peer.last_success_seconds_ago
    return (
        peer.name,
        peer.state,
        "yes" if peer.in_sync else "no",
        _number(peer.missing_here),
        _number(peer.missing_there),
        "never" if ago is None else f"{ago:.0f} s ago",
    )
