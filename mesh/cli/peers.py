"""`mesh peers` and `mesh reload`: show and change the peers of a node, with its control key."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import msgspec

from mesh.cli.words import calls_from_text
from mesh.config import Address, Secret, is_loopback, read_keys
from mesh.config.places import parse_place
from mesh.core.spelling import unspelled
from mesh.decoding import utf8
from mesh.errors import ConfigError, Misbehaved, Undecodable, printable
from mesh.status import ListedPeer, PeersAnswer, Reloaded
from mesh.transport.client import NodeClient, node_client
from mesh.wire.control import CONTROL_FILE, Challenge

T = TypeVar("T")


class Keys(NamedTuple):
    """Where the control key may be: a file of its own, or the node's data directory."""

    file: str | None
    data: str | None


async def show(node: Address, *, as_json: bool) -> None:
    """Print the peers."""
    async with node_client(node) as client:
        answer = await client.peers(PeersAnswer)
    if as_json:
        _print_json(answer)
    elif not answer.peers:
        print("no peers")
    else:
        _print_table(answer.peers)


async def change(node: Address, order: str, wanted: object, keys: Keys, *, as_json: bool) -> None:
    """Give an order about a peer, and print what it did."""
    async with node_client(node) as client:
        answer = await ordered(client, node, order, wanted, keys, PeersAnswer)
    if as_json:
        _print_json(answer)
    else:
        print(printable(answer.said))


async def reload(node: Address, keys: Keys, *, as_json: bool) -> None:
    """Have the node read its configuration again, and print what has changed."""
    async with node_client(node) as client:
        answer = await ordered(client, node, "reload", {}, keys, Reloaded)
    if as_json:
        _print_json(answer)
        return
    for line in answer.changed or ["nothing has changed"]:
        print(printable(line))
    for key in answer.restart:
        print(printable(f"takes effect when the node is restarted: {key}"))


async def ordered(
    client: NodeClient, node: Address, order: str, wanted: object, keys: Keys, kind: type[T]
) -> T:
    """Give an order, with the control key where it is found; the answer, of type `kind`."""
    key = _given(keys)
    challenge = await client.challenge()
    if key is None:
        key = _found(node, challenge)
    shown = key.reveal() if key is not None else None
    return await client.control(order, wanted, shown, challenge, kind)


def _found(node: Address, challenge: Challenge) -> Secret | None:
    """The control key of a node of ours; None where the key for requests may do: an admin's."""
    try:
        return local_key(node, challenge)
    except ConfigError:
        if node.key is None:
            raise
        return None


def _given(keys: Keys) -> Secret | None:
    """The control key that the user points to."""
    if keys.file is not None:
        return read_keys(keys.file)[0]
    if keys.data is not None:
        return read_keys(os.path.join(keys.data, CONTROL_FILE))[0]
    return None


def local_key(node: Address, challenge: Challenge) -> Secret:
    """The key in the directory that a node on this machine names.

    Of a node elsewhere the path means nothing here, and a key that happens to lie there is that of
    another node. Also here somebody else may listen where a node was, and name a directory of his:
    so a link is not followed, which would make a key of any file, and a FIFO is not waited for.
    """
    host, _ = parse_place(node.place) or ("", None)
    how = f"give --control-key-file, a copy of {CONTROL_FILE} in the node's data directory"
    if not is_loopback(host):
        raise ConfigError(f"this needs the control key of {node.place}: {how}")
    try:
        data = os.fsdecode(unspelled("data", challenge.data, challenge.data_hex))
    except (ValueError, Undecodable) as error:
        raise Misbehaved(f"{node.place} is not a mesh node: {error}") from error
    file = os.path.join(data, CONTROL_FILE)
    try:
        return read_keys(file, plain=True, follow=False)[0]
    except ConfigError as error:
        raise ConfigError(f"{error}; run this as the user of the node, or {how}") from error


def _print_json(answer: object) -> None:
    print(utf8(msgspec.json.encode(answer)))


def _print_table(peers: Sequence[ListedPeer]) -> None:
    rows = [("PEER", "STATE", "FROM", "DIRECTION", "URL")]
    rows += [(_name(each), each.state, each.origin, each.direction, _url(each)) for each in peers]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())
    for each in peers:
        for note in _notes(each):
            print(printable(f"{each.name}: {note}"))


def _name(peer: ListedPeer) -> str:
    return printable(peer.name)


def _url(peer: ListedPeer) -> str:
    return peer.url if peer.protocol == "mesh" else f"{peer.protocol}+{peer.url}"


def _notes(peer: ListedPeer) -> list[str]:
    notes = []
    if peer.moved_from is not None:
        notes.append(f"was at {peer.moved_from} before `set-url`")
    if peer.state == "removed":
        notes.append(f"the configuration lists it; `mesh peers add {peer.url}` takes it back")
    if peer.last_error:
        notes.append(peer.last_error)
    if peer.calls_from is not None:
        notes.append(calls_from_text(peer.name, peer.calls_from))
    return notes
