"""What was ordered about peers while a node ran, and the peers that follow from it.

The configuration is never rewritten. The orders lie beside it, in `peers.json` of the data
directory, and shadow it: a peer that is known by its URL in the configuration, or by the URL with
which it was added first, may be removed, paused or moved to another URL. What was ordered stays in
force until another order takes it back, also when the configuration changes meanwhile: a peer that
was removed does not come back because somebody edits a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from mesh.config.peers import Address, PeerEntry, parse_peer, redacted
from mesh.config.schema import Config
from mesh.decoding import json_of
from mesh.errors import ConfigError, Undecodable

PEERS_FILE = "peers.json"

_FORMAT = 1


class Change(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is in force for one peer.

    `of`: its URL in the configuration, or with which it was added. `added`: how it was added; it is
    what counts, also when the configuration lists the same URL. `url`, `name`: where it is now, and
    what it is called, after `set-url`.
    """

    of: str
    added: PeerEntry | None = None
    removed: bool = False
    paused: bool = False
    url: str | None = None
    name: str | None = None


class Changes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of them, each `of` once, in the order in which the peers were first changed."""

    peers: tuple[Change, ...] = ()
    format: int = _FORMAT

    def of(self, anchor: str) -> Change:
        """What is in force for the peer that is known as `anchor`."""
        return next((each for each in self.peers if each.of == anchor), Change(anchor))

    def with_change(self, change: Change) -> Changes:
        """The same with one peer's change replaced; one that changes nothing is left out."""
        others = [each for each in self.peers if each.of != change.of]
        if len(others) == len(self.peers):
            kept = [*others, change]
        else:
            kept = [change if each.of == change.of else each for each in self.peers]
        plain = Change(change.of)
        return Changes(tuple(each for each in kept if each != plain))


class Listed(NamedTuple):
    """A peer that is in force: under which URL it is known, and what it is."""

    anchor: str
    address: Address
    paused: bool
    configured: bool


def listed(config: Config, changes: Changes) -> list[Listed]:
    """The peers of the configuration as they were changed, then those that were added.

    Each URL once, and each name once: of two peers at one URL the first counts, and of two of one
    name the later one goes by its own. ConfigError when the key file of an added peer cannot be
    read.
    """
    configured = {address.url: address for address in reversed(config.addresses())}
    in_order = list(dict.fromkeys(address.url for address in config.addresses()))
    in_order += [each.of for each in changes.peers if each.added and each.of not in configured]
    found: dict[str, Listed] = {}
    names: set[str] = set()
    for anchor in in_order:
        change = changes.of(anchor)
        if change.removed:
            continue
        if change.added is not None:
            address = _added(config, change, change.added)
        else:
            address = configured[anchor]
        if change.url is not None:
            address = msgspec.structs.replace(
                address, url=change.url, name=change.name or address.name
            )
        if address.name in names:
            address = msgspec.structs.replace(address, name=None)
        if address.url not in found:
            found[address.url] = Listed(anchor, address, change.paused, anchor in configured)
            names.update([address.name] if address.name else [])
    return list(found.values())


def removed(config: Config, changes: Changes) -> list[Address]:
    """The peers of the configuration that were removed."""
    return [each for each in config.addresses() if changes.of(each.url).removed]


def _added(config: Config, change: Change, entry: PeerEntry) -> Address:
    try:
        return config.address_of(entry)
    except ConfigError as error:
        raise ConfigError(
            f"{error} (peer {change.of} in {PEERS_FILE}, which `mesh peers add` has written; "
            "put the key file back, or take the peer out of there)"
        ) from error


def encode_changes(changes: Changes) -> bytes:
    """As they are kept in the file: JSON, indented for people."""
    return msgspec.json.format(msgspec.json.encode(changes), indent=2) + b"\n"


def decode_changes(data: bytes, where: str) -> Changes:
    """What `encode_changes` made; ConfigError, which says what to do, for anything else."""
    cure = f"restore {where} from a backup, or delete it to have the peers of the configuration"
    try:
        changes = json_of(Changes).read(data)
    except Undecodable as error:
        raise ConfigError(f"{where} is damaged ({error}); {cure}") from error
    if changes.format != _FORMAT:
        raise ConfigError(
            f"{where} is of format {changes.format}; this program knows {_FORMAT}: run a later "
            "version, or delete the file to have the peers of the configuration"
        )
    if len({each.of for each in changes.peers}) < len(changes.peers):
        raise ConfigError(f"{where} is damaged (it has a peer twice); {cure}")
    for url in (url for each in changes.peers for url in (each.of, each.url) if url is not None):
        try:
            plain = parse_peer(url).url == url
        except ConfigError:
            plain = False
        if not plain:
            raise ConfigError(f"{where} is damaged ({redacted(url)[:80]!a} is no URL); {cure}")
    return changes


def names_of(peers: Sequence[Listed]) -> set[str]:
    """The names that were given to peers; none that a peer gave itself."""
    return {each.address.name for each in peers if each.address.name is not None}
