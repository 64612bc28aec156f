"""`mesh sync` and `mesh wait`: level the nodes, and see that they are."""

from __future__ import annotations

from functools import partial

import msgspec
from anyio import create_task_group

from mesh.cli.missing import watched
from mesh.cli.teller import Teller
from mesh.cli.words import count_text, size_text
from mesh.config import Address
from mesh.errors import InputError, printable
from mesh.status import (
    PeerStatus,
    RoundStats,
    Status,
    WaitAnswer,
)
from mesh.transport.client import NodeClient, node_client

# States of a peer that is no replica beside the node, or is paused by an order: it is left out of
# what `sync` promises, and named.
_IGNORED = ("self", "duplicate", "paused")


async def sync(node: Address, names: list[str], teller: Teller) -> bool:
    """A round with each of the peers, at the same time; whether they are level after it."""
    async with node_client(node) as client:
        if not names:
            names = [_place(peer.url) for peer in (await client.status(Status)).peers]
        if not names:
            raise InputError("this node has no peers; add one with `mesh peers add`")
        wanted = list(dict.fromkeys(names))
        rounds = partial(_rounds, client, wanted)
        results = await watched(client, teller, rounds, lambda peer: _is_named(peer, wanted))
    for stats in results:
        _tell(stats, teller)
    counting = [stats for stats in results if stats.state not in _IGNORED]
    if not counting:
        teller.error("none of these peers is another node that is not paused; nothing was moved")
    good = bool(counting) and all(stats.level for stats in counting)
    teller.ended(ok=good, peers=results)
    return good


async def _rounds(client: NodeClient, names: list[str]) -> list[RoundStats]:
    """What each round did, in the order of the names."""
    results: dict[str, RoundStats] = {}
    async with create_task_group() as group:
        for name in names:
            group.start_soon(_one, client, name, results)
    return [results[name] for name in names]


def _tell(stats: RoundStats, teller: Teller) -> None:
    """A line for a round; what is not level is said with `--quiet`, too."""
    text = f"{stats.peer}: {_outcome(stats)}"
    if stats.level or stats.state in _IGNORED:
        teller.said(text)
    else:
        teller.line(text)


def _is_named(peer: PeerStatus, names: list[str]) -> bool:
    return peer.name in names or peer.url in names or _place(peer.url) in names


def _outcome(stats: RoundStats) -> str:
    """What a round moved, what it did not, and why."""
    if stats.state in _IGNORED:
        return f"not compared ({stats.state})"
    moved = (
        f"fetched {count_text(stats.fetched, 'blob')} ({size_text(stats.fetched_bytes)}), "
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


async def wait(node: Address, timeout: float | None, teller: Teller, *, whole: bool) -> bool:
    """Whether every peer is level within the time; with `whole`, every node behind them as well.

    How far that was seen is said on stdout, or on stderr when not all of it is level.
    """
    async with node_client(node) as client:
        asking = partial(client.wait, timeout, WaitAnswer, whole=whole)
        answer: WaitAnswer = await watched(client, teller, asking)
    if answer.level:
        teller.said(printable(answer.said))
    else:
        teller.error(printable(answer.said))
    teller.ended(ok=answer.level, **msgspec.structs.asdict(answer))
    return answer.level
