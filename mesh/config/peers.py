"""Peers: what a user writes, and the address that it stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

import msgspec

from mesh.config.keys import Key, Secret, named_keys, read_keys
from mesh.config.places import DEFAULT_PORT, join_host, parse_place
from mesh.config.roles import PLAIN
from mesh.errors import ConfigError, printable

BLOBSTASH_PORT = 8050

DIRECTIONS = ("both", "pull", "push")

# What a node or a peer may be called: it stands in logs, in URLs and before "=".
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class Address(msgspec.Struct, frozen=True):
    """Where a peer is, and how to treat it.

    `url` is a base URL without path, user and key; `name` is the one that the user gave it.
    `protocol`: mesh or blobstash. `direction`: both, pull (only fetch) or push (only send).
    `one_way`, for BlobStash: take everything, and transfer nothing if something is only here.
    """

    url: str
    name: str | None = None
    protocol: str = "mesh"
    key: Secret | None = None
    direction: str = "both"
    one_way: bool = False

    @property
    def pulls(self) -> bool:
        """Whether blobs are fetched from it."""
        return self.direction != "push"

    @property
    def pushes(self) -> bool:
        """Whether blobs are sent to it."""
        return self.direction != "pull" and not self.one_way

    @property
    def place(self) -> str:
        """host:port, which is what a peer is called until its name is known."""
        return self.url.partition("://")[2]


class PeerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A peer as a table of the configuration file."""

    url: str
    key_file: str | None = None
    direction: str = "both"
    one_way: bool = False


def split_peers(text: str) -> tuple[str, ...]:
    """A comma-separated peer list; "" is none. ConfigError when an element is empty."""
    if not text.strip():
        return ()
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise ConfigError(
            f"a peer in the list {redacted(text)!a} is empty; expected host:port,host:port,…"
        )
    return parts


class Resolved(NamedTuple):
    """What the peers and key files of a configuration stand for, read once.

    `shown`: the key for peers without one of their own. `shared`: what the nodes share.
    """

    addresses: tuple[Address, ...]
    accepted: tuple[Key, ...]
    shown: Secret | None
    shared: Secret | None


def resolve(
    peers: Sequence[str | PeerEntry], key_file: str | None, peer_key_file: str | None
) -> Resolved:
    """Parse the peers and read the key files.

    ConfigError names the first peer that is malformed, two peers of one name, or a key file that
    cannot be read.
    """
    shown = read_keys(peer_key_file)[0] if peer_key_file is not None else None
    addresses = tuple(address_of(peer, shown) for peer in peers)
    urls: dict[str, str] = {}
    for each in addresses:
        if each.name is not None and urls.setdefault(each.name, each.url) != each.url:
            raise ConfigError(f"two peers are called {each.name!a}; give each its own name")
    accepted = named_keys(key_file) if key_file is not None else ()
    return Resolved(addresses, accepted, shown, shared(shown, accepted))


def shared(shown: Secret | None, accepted: Sequence[Key]) -> Secret | None:
    """What a node has in common with its peers, as far as can be told from its own keys.

    That is the key which it shows, else the first one that it accepts from peers. Where the key
    which it shows is one for a node alone, by its roles, every node shows its own, and all have one
    key file: the first such key there is the same everywhere.
    """
    of_peers = [key for key in accepted if "peer" in key.roles]
    if shown is None:
        return of_peers[0].secret if of_peers else None
    of_nodes = [key.secret for key in of_peers if key.roles != PLAIN and "admin" not in key.roles]
    return of_nodes[0] if shown in of_nodes else shown


def address_of(peer: str | PeerEntry, shown: Secret | None, *, plain: bool = False) -> Address:
    """A peer as it is written; `shown` is the key for one without a key of its own.

    `plain`: see `read_keys`. ConfigError when it is malformed, or its key file cannot be read.
    """
    entry = PeerEntry(peer) if isinstance(peer, str) else peer
    address = parse_peer(entry.url)
    if entry.direction not in DIRECTIONS:
        raise _bad_peer(redacted(entry.url), f"direction is one of {', '.join(DIRECTIONS)}")
    if entry.one_way and address.protocol != "blobstash":
        raise _bad_peer(redacted(entry.url), "one_way is for BlobStash servers; use direction")
    key = address.key
    if key is None:
        file = entry.key_file
        key = read_keys(file, plain=plain)[0] if file is not None else shown
    return msgspec.structs.replace(
        address, key=key, direction=entry.direction, one_way=entry.one_way
    )


_MAYBE_KEY = re.compile(r"(//[^/:\[]*:)(?!\d{1,5}/?$).+", re.DOTALL)


def redacted(text: str) -> str:
    """`text` without what may be a key: all that stands before an @, whatever it looks like.

    Without an @ (a list is cut at commas, also at one in a key) what follows a host's colon and is
    no port.
    """
    if "@" in text:
        return "…@" + text.rpartition("@")[2]
    return _MAYBE_KEY.sub(r"\1…", text)


def parse_peer(text: str) -> Address:
    """`host`, `host:port`, `http://host:port`, `https://…`, `[::1]:7281`, or `name=` before it.

    `blobstash+http://host:8050` is a BlobStash server; a key may stand in the URL, as
    `blobstash+http://:KEY@host:8050`, though a key file is the better place.
    """
    name, equals, rest = text.partition("=")
    if not equals or "/" in name:
        name, rest = "", text
    elif not NAME.fullmatch(name):
        raise _bad_peer(text, "the name before '=' may have letters, digits, '.', '_' and '-'")
    scheme, separator, place = rest.partition("://")
    if not separator:
        scheme, place = "http", rest
    plain = scheme.removeprefix("blobstash+")
    protocol = "mesh" if plain == scheme else "blobstash"
    if plain not in ("http", "https"):
        raise _bad_peer(
            text,
            f"unknown scheme {redacted(scheme)!a}; expected http(s) or blobstash+http(s)",
        )
    key = None
    if protocol == "blobstash" and place.startswith(":") and "@" in place:
        secret, _, place = place[1:].rpartition("@")
        key = _url_key(text, secret)
    place = place.removesuffix("/")
    host, port = parse_place(place) or ("", None)
    if not host:
        raise _bad_peer(text, "expected host:port, [::1]:port or a URL of these, no path")
    if port == 0:
        raise _bad_peer(text, "port 0 cannot be reached")
    port = port or (DEFAULT_PORT if protocol == "mesh" else BLOBSTASH_PORT)
    return Address(f"{plain}://{join_host(host, port)}", name or None, protocol, key)


def _url_key(text: str, secret: str) -> Secret:
    key = unquote(secret)
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise _bad_peer(text, "the key in it is empty or has characters that no header carries")
    return Secret(key.encode())


def _bad_peer(text: str, why: str) -> ConfigError:
    text = redacted(text)
    shown = text if len(text) <= 80 else text[:77] + "..."
    return ConfigError(f"not a peer: '{printable(shown)}': {why}")


def flag_peers(values: Sequence[str] | None) -> tuple[str, ...] | None:
    """The peers of a repeatable, comma-separated flag; None when it was not given."""
    if not values:
        return None
    return tuple(peer for value in values for peer in split_peers(value))
