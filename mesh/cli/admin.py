"""`mesh ls`, `status`, `sync` and `wait`: how a node stands."""

from __future__ import annotations

import sys
from datetime import datetime

import msgspec
from anyio import create_task_group
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mesh.config import Address
from mesh.decoding import utf8
from mesh.errors import InputError, printable
from mesh.status import (
    InboundStatus,
    PeerStatus,
    RoundStats,
    ScrubStatus,
    Status,
    WaitAnswer,
)
from mesh.transport.client import NodeClient, node_client

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


# States of a peer that is no replica beside the node, and is left out of what `sync` promises.
_IGNORED = ("self", "duplicate")


async def ls(node: Address, prefix: str, *, as_json: bool) -> None:
    """A line for each blob: digest and size, or a JSON object."""
    async with node_client(node) as client:
        async for blob in client.listing(prefix):
            if as_json:
                print(msgspec.json.encode(blob).decode())
            else:
                print(f"{blob.digest} {blob.size:>12}")


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


async def scrub(address: Address, verb: str | None, *, as_json: bool) -> None:
    """Tell the scrub what to do, and how it stands then."""
    async with node_client(address) as client:
        if as_json:
            print(utf8(bytes(await client.scrub(verb, msgspec.Raw))))
            return
        stands = await client.scrub(verb, ScrubStatus)
    read = stands.now
    found = f"{read.blobs} of {stands.blobs} blobs ({size_text(read.bytes)}) read"
    print(f"scrub: {stands.state}; {found}, {read.damaged} damaged in this pass")
    print(f"at up to {size_text(stands.bytes_per_second)} a second; passes done: {stands.passes}")
    if stands.next_seconds is not None:
        print(f"the next pass begins in {stands.next_seconds / 3600:.1f} hours")


async def sync(node: Address, names: list[str]) -> bool:
    """A round with each of the peers, at the same time; whether they are level after it."""
    async with node_client(node) as client:
        if not names:
            names = [_place(peer.url) for peer in (await client.status(Status)).peers]
        if not names:
            raise InputError("this node has no peers; start it with --peers")
        results: dict[str, RoundStats] = {}
        async with create_task_group() as group:
            for name in dict.fromkeys(names):
                group.start_soon(_one, client, name, results)
    for stats in results.values():
        print(f"{stats.peer}: {_outcome(stats)}")
    counting = [stats for stats in results.values() if stats.state not in _IGNORED]
    if not counting:
        print("mesh: no other node is among these peers; nothing was moved", file=sys.stderr)
    return bool(counting) and all(stats.level for stats in counting)


def _outcome(stats: RoundStats) -> str:
    """What a round moved, what it did not, and why."""
    if stats.state in _IGNORED:
        return f"not compared ({stats.state})"
    moved = (
        f"fetched {stats.fetched} blobs ({size_text(stats.fetched_bytes)}), "
        f"sent {stats.sent} ({size_text(stats.sent_bytes)})"
    )
    if stats.error:
        return f"failed: {stats.error}" + (f"; {moved}" if stats.fetched or stats.sent else "")
    return moved + _left(stats)


def _left(stats: RoundStats) -> str:
    """What a round that did not fail has left, and why."""
    left = [] if stats.proven else [f"not compared to the end ({stats.state})"]
    if stats.proven and stats.missing_here and stats.direction != "push":
        left.append(f"{stats.missing_here} still missing here")
    if stats.proven and stats.missing_there and stats.direction != "pull":
        left.append(f"{stats.missing_there} still missing there")
    return "".join(f", {text}" for text in left) + "".join(f"; {why}" for why in stats.reasons)


def _place(url: str) -> str:
    """host:port of a peer, which is unambiguous."""
    return url.partition("://")[2]


async def _one(client: NodeClient, name: str, results: dict[str, RoundStats]) -> None:
    results[name] = await client.sync(name, RoundStats)


async def wait(node: Address, timeout: float | None, *, whole: bool) -> bool:
    """Whether every peer is level within the time; with `whole`, every node behind them as well.

    How far that was seen is said on stdout, or on stderr when not all of it is level.
    """
    async with node_client(node) as client:
        answer = await client.wait(timeout, WaitAnswer, whole=whole)
    if answer.level:
        print(printable(answer.said))
    else:
        print(f"mesh: {printable(answer.said)}", file=sys.stderr)
    return answer.level


def size_text(size: float) -> str:
    """Bytes for people: 1.5 MiB."""
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"
