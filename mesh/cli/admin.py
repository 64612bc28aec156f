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
from mesh.errors import InputError, printable
from mesh.status import PeerStatus, RoundStats, ScrubStatus, Status, WaitReport
from mesh.transport.client import NodeClient, node_client

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class _Waited(msgspec.Struct, frozen=True):
    level: bool
    peers: list[WaitReport]


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
            print(bytes(raw).decode())
            return
        node = await client.status(Status)
    print(f"{node.name} ({node.node_id}), mesh {node.version}, {node.state}")
    print(f"{node.blobs} blobs, {size_text(node.bytes)}; root {node.root or 'is being built'}")
    if node.store.state != "ok":
        print(f"store: {node.store.state}: {node.store.reason}")
    _print_wanted(node)
    if not node.peers:
        print("no peers")
        return
    table = Table("peer", "state", "in sync", "missing here", "missing there", "last success")
    for peer in node.peers:
        table.add_row(*map(Text, _row(peer)))
    Console().print(table)
    for peer in node.peers:
        print(f"{peer.name}: {peer.url}" + (f": {peer.last_error}" if peer.last_error else ""))


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
        "?" if peer.missing_here is None else str(peer.missing_here),
        "?" if peer.missing_there is None else str(peer.missing_there),
        "never" if ago is None else f"{ago:.0f} s ago",
    )


async def scrub(address: Address, verb: str | None, *, as_json: bool) -> None:
    """Tell the scrub what to do, and how it stands then."""
    async with node_client(address) as client:
        if as_json:
            print(bytes(await client.scrub(verb, msgspec.Raw)).decode())
            return
        stands = await client.scrub(verb, ScrubStatus)
    read = stands.now
    found = f"{read.blobs} of {stands.blobs} blobs ({size_text(read.bytes)}) read"
    print(f"scrub: {stands.state}; {found}, {read.damaged} damaged in this pass")
    print(f"at up to {size_text(stands.bytes_per_second)} a second; passes done: {stands.passes}")
    if stands.next_seconds is not None:
        print(f"the next pass begins in {stands.next_seconds / 3600:.1f} hours")


async def sync(node: Address, names: list[str]) -> bool:
    """A round with each of the peers, at the same time; whether all went well."""
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
        moved = (
            f"{stats.fetched} blobs ({size_text(stats.fetched_bytes)}) here, "
            f"{stats.sent} ({size_text(stats.sent_bytes)}) there"
        )
        left = "" if stats.proven else f", not compared ({stats.state})"
        if stats.proven and (stats.missing_here or stats.failed):
            left = f", {stats.missing_here} still missing here"
        if stats.error:
            left = f"; failed: {stats.error}"
        print(f"{stats.peer}: {moved}{left}")
        for reason in () if stats.level else stats.reasons:
            print(f"{stats.peer}: not level: {printable(reason)}")
    return all(stats.error is None and not stats.useless for stats in results.values())


def _place(url: str) -> str:
    """host:port of a peer, which is unambiguous."""
    return url.partition("://")[2]


async def _one(client: NodeClient, name: str, results: dict[str, RoundStats]) -> None:
    results[name] = await client.sync(name, RoundStats)


async def wait(node: Address, timeout: float | None) -> bool:
    """Whether every peer is level within the time; what is missing is said on stderr."""
    async with node_client(node) as client:
        waited = await client.wait(timeout, _Waited)
    for report in waited.peers:
        if not report.level:
            print(f"mesh: {report.peer}: {_lacking(report)}", file=sys.stderr)
    return waited.level


def _lacking(report: WaitReport) -> str:
    if report.error is not None:
        return report.error
    if report.missing_here is None:
        return "not compared yet"
    return f"{report.missing_here} blobs missing here, {report.missing_there} missing there"


def size_text(size: float) -> str:
    """Bytes for people: 1.5 MiB."""
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"
