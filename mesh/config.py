"""The configuration of a node: file < environment < flags, and no typo goes unnoticed."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from mesh.core.limits import LARGE_BLOB
from mesh.decoding import from_toml
from mesh.errors import ConfigError, Undecodable, printable

DEFAULT_PORT = 7280
BLOBSTASH_PORT = 8050

GIB = 1024**3

# Fewer cells tell too little to be worth their upkeep; more take 64 MiB.
FEWEST_CELLS = 2048
MOST_CELLS = 2**22

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
    "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40,
}  # fmt: skip
# At most 18 digits: an exabyte, and no overflow.
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)\s*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


DIRECTIONS = ("both", "pull", "push")


class Secret:
    """A key. Never shown: it has no text but when asked for its bytes."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def reveal(self) -> bytes:
        """The key itself, for a request's header."""
        return self._key

    def __repr__(self) -> str:
        return "Secret(…)"


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


class PeerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A peer as a table of the configuration file."""

    url: str
    key_file: str | None = None
    direction: str = "both"
    one_way: bool = False


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set, with units in the names."""

    listen: str = f"127.0.0.1:{DEFAULT_PORT}"
    data: str = "./data"
    peers: tuple[str | PeerEntry, ...] = ()
    # Keys that clients and peers must show, one a line; without one, a node on loopback is open.
    key_file: str | None = None
    # The key that this node shows to peers without a key file of their own.
    peer_key_file: str | None = None
    # Whether the node answers BlobStash's requests, and lists leaves as its server does
    # ("over-long") or by their prefix alone ("exact"); docs/blobstash.md.
    blobstash: bool = True
    blobstash_listing: str = "over-long"
    name: str | None = None
    backend: str = "asyncio"
    interval_seconds: float = 30.0
    # What a client may put here: large enough for disk images, small enough that a mistake
    # does not fill every node of the mesh.
    max_blob_bytes: int = GIB
    # What replication may bring. Nodes that differ in it cannot become equal, so it has one
    # value everywhere unless all are changed together.
    max_replica_bytes: int = 64 * GIB
    # Free space that is not filled: below it nothing is fetched and puts get 507. None: 1 % of the
    # file system, at most 1 GiB.
    reserve_bytes: int | None = None
    # Cells of the sketch that tells at once what differs: 2^18 serve up to 190,000 differences and
    # take 4 MiB. 0 is no sketch: rounds descend the trees. Peers may differ in it.
    sketch_cells: int = 2**18
    # How long a stop waits for transfers under way before it cuts them.
    shutdown_seconds: float = 10.0
    # Allows listening beyond loopback, where everybody who reaches the port can read and write.
    insecure: bool = False
    # Whether a blob that is asked for and not here is fetched from a peer that has it.
    read_through: bool = True
    # How fast everything is read again to find what has rotted, how often a pass begins. 10 MB/s
    # are a tenth of what a hard disk gives, and 25 TB in 30 days.
    scrub_bytes_per_second: int = 10_000_000
    scrub_days: float = 30.0
    # When set, the data directory must be this node's: 32 hex digits, as `status` shows them.
    node_id: str | None = None

    def addresses(self) -> list[Address]:
        """The peers, parsed; ConfigError names the first that is malformed."""
        shared = read_keys(self.peer_key_file)[0] if self.peer_key_file is not None else None
        addresses = [_address(peer, shared) for peer in self.peers]
        urls: dict[str, str] = {}
        for each in addresses:
            if each.name is not None and urls.setdefault(each.name, each.url) != each.url:
                raise ConfigError(f"two peers are called {each.name!a}; give each its own name")
        return addresses

    def shared_secret(self) -> bytes:
        """What the nodes of a mesh share, for the key of their sketches; b"" without keys.

        Nodes with different ones still converge, by their trees alone.
        """
        file = self.peer_key_file or self.key_file
        return read_keys(file)[0].reveal() if file is not None else b""

    def endpoint(self) -> tuple[str, int]:
        """Host and port to listen on; port 0 means any free one."""
        return parse_listen(self.listen)


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """The configuration from its three sources; ConfigError names what is wrong and where.

    Flags that are None were not given. The environment's names are the keys in capitals behind
    MESH_ (MESH_INTERVAL_SECONDS); peers are separated by commas.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values.update(_from_file(file))
    for variable, text in environ.items():
        if variable.startswith("MESH_") and variable not in _OTHER_VARIABLES:
            key = variable.removeprefix("MESH_").lower()
            _check_key(key, "the environment", lambda name: f"MESH_{name.upper()}")
            values[key] = _parsed(key, text, variable)
    values.update({key: value for key, value in flags.items() if value is not None})
    try:
        config = msgspec.convert(values, Config, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"bad configuration: {error}") from error
    _check(config)
    return config


def _from_file(file: Path) -> dict[str, Any]:
    try:
        values = from_toml(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except Undecodable as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    for key in values:
        _check_key(key, str(file), str)
        if _is_size(key) and isinstance(values[key], str):
            values[key] = parse_size(values[key])
    return values


# Read by the client commands.
_OTHER_VARIABLES = ("MESH_NODE",)


def _check_key(key: str, where: str, spelled: Callable[[str], str]) -> None:
    """ConfigError, with the nearest name there is, unless `key` is a setting."""
    known = [field.name for field in msgspec.structs.fields(Config)]
    if key not in known:
        near = [spelled(name) for name in difflib.get_close_matches(key, known, n=1)]
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"unknown key {spelled(key)!a} in {where}; {hint}")


def _parsed(key: str, text: str, where: str) -> Any:
    if key == "peers":
        return split_peers(text)
    if _is_size(key):
        return parse_size(text)
    if key.endswith(("_seconds", "_days")):
        try:
            return float(text)
        except ValueError:
            unit = key.rpartition("_")[2]
            raise ConfigError(f"{where} is '{text}'; expected a number of {unit}") from None
    if key == "sketch_cells":
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise ConfigError(f"{where} is '{text}'; expected a number of cells")
        return int(text)
    if key in ("insecure", "blobstash", "read_through"):
        if text.lower() not in ("0", "1", "true", "false", "yes", "no"):
            raise ConfigError(f"{where} is '{text}'; expected 1 or 0")
        return text.lower() in ("1", "true", "yes")
    return text


def _is_size(key: str) -> bool:
    return key.endswith(("_bytes", "_bytes_per_second"))


def _check(config: Config) -> None:
    config.addresses()
    if config.key_file is not None:
        read_keys(config.key_file)
    host, _ = config.endpoint()
    if not is_loopback(host) and config.key_file is None and not config.insecure:
        raise ConfigError(
            f"listening on {host} without a key lets everybody who reaches it read and write; "
            "give --key-file, or say --insecure if the network is private"
        )
    if config.blobstash_listing not in ("over-long", "exact"):
        raise ConfigError(
            f"blobstash_listing is {config.blobstash_listing!a}; there are over-long and exact"
        )
    if config.backend not in ("asyncio", "trio"):
        raise ConfigError(f"unknown backend '{config.backend}'; there are asyncio and trio")
    if config.name is not None and not _NAME.fullmatch(config.name):
        raise ConfigError(
            f"a node's name is up to 64 letters, digits, '.', '_' and '-', not {config.name!a}"
        )
    if not 0.05 <= config.interval_seconds <= 86_400 * 7:
        raise ConfigError(f"an interval of {config.interval_seconds} s; expected 0.05 s to a week")
    if not 0 <= config.shutdown_seconds <= 3600:
        raise ConfigError(f"a shutdown of {config.shutdown_seconds} s; expected 0 to 3600")
    if not 1000 <= config.scrub_bytes_per_second <= 10**12:
        raise ConfigError(
            f"a scrub of {config.scrub_bytes_per_second} bytes/s; expected 1 kB/s to 1 TB/s"
        )
    if not 0.001 <= config.scrub_days <= 3650:
        raise ConfigError(f"a scrub each {config.scrub_days} days; expected 0.001 to 3650")
    if not 1 <= config.max_blob_bytes <= config.max_replica_bytes:
        raise ConfigError(
            f"a limit of {config.max_blob_bytes} bytes a blob; expected 1 to what replication "
            f"carries, {config.max_replica_bytes}"
        )
    if config.max_replica_bytes < LARGE_BLOB:
        raise ConfigError(
            f"max_replica_bytes is {config.max_replica_bytes}; expected at least {LARGE_BLOB}, the "
            "size up to which blobs travel together"
        )
    if config.reserve_bytes is not None and config.reserve_bytes < 0:
        raise ConfigError(f"a reserve of {config.reserve_bytes} bytes; expected 0 or more")
    if config.sketch_cells and not FEWEST_CELLS <= config.sketch_cells <= MOST_CELLS:
        raise ConfigError(
            f"a sketch of {config.sketch_cells} cells; expected {FEWEST_CELLS} to {MOST_CELLS}, "
            "or 0 for none"
        )
    if config.node_id is not None and not re.fullmatch(r"[0-9a-f]{32}", config.node_id, re.ASCII):
        raise ConfigError(f"node_id {config.node_id!a} is not 32 lower-case hex digits")


def parse_size(text: str) -> int:
    """A number of bytes: `1GiB`, `500 MB`, `4096`; K, M, G, T alone are binary."""
    match = _SIZE.fullmatch(text)
    unit = match[2].lower() if match else ""
    if not match or unit not in _UNITS:
        raise ConfigError(f"not a size: {text!a}; expected for example 4096, 500MB or 1GiB")
    return int(float(match[1]) * _UNITS[unit]) if "." in match[1] else int(match[1]) * _UNITS[unit]


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


def _address(peer: str | PeerEntry, shared: Secret | None) -> Address:
    """A configured peer; `shared` is the key for those without one of their own."""
    entry = PeerEntry(peer) if isinstance(peer, str) else peer
    address = parse_peer(entry.url)
    if entry.direction not in DIRECTIONS:
        raise _bad_peer(redacted(entry.url), f"direction is one of {', '.join(DIRECTIONS)}")
    if entry.one_way and address.protocol != "blobstash":
        raise _bad_peer(redacted(entry.url), "one_way is for BlobStash servers; use direction")
    key = address.key
    if key is None:
        key = read_keys(entry.key_file)[0] if entry.key_file is not None else shared
    return msgspec.structs.replace(
        address, key=key, direction=entry.direction, one_way=entry.one_way
    )


def read_keys(file: str) -> list[Secret]:
    """The keys of a key file, one a line; blank lines and lines that begin with # are not keys.

    ConfigError when the file cannot be read or holds none, or one that no header can carry.
    """
    try:
        lines = Path(file).read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read key file {file}: {error.strerror}") from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith(b"#")]
    if not keys:
        raise ConfigError(f"key file {file} holds no key; write one on a line of its own")
    for number, key in enumerate(keys, 1):
        if not all(0x21 <= byte <= 0x7E for byte in key):
            raise ConfigError(f"key {number} in {file} has blanks or characters beyond ASCII")
    return [Secret(key) for key in keys]


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
    elif not _NAME.fullmatch(name):
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
    host, port = _place(place) or ("", None)
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


def parse_listen(text: str) -> tuple[str, int]:
    """`host:port`, `:port` (loopback), `host`, `[::]:port`."""
    found = _place("127.0.0.1" + text if text[:1] in ("", ":") else text)
    if found is None:
        raise ConfigError(f"cannot listen on {text[:80]!a}; expected host:port")
    host, port = found
    return host, DEFAULT_PORT if port is None else port


# Strict on purpose: urllib's parser drops tabs and newlines, and what stands behind a bracket.
_PLACE = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9][A-Za-z0-9._-]{0,252}))(?::(\d{1,5}))?", re.ASCII
)


def _place(text: str) -> tuple[str, int | None] | None:
    """Host, without brackets, and port; None when `text` is no such thing."""
    match = _PLACE.fullmatch(text)
    if match is None or int(match[3] or 0) > 65535:
        return None
    if match[1] is None:
        return match[2].lower(), int(match[3]) if match[3] else None
    try:
        host = str(ipaddress.IPv6Address(match[1]))
    except ValueError:
        return None
    return host, int(match[3]) if match[3] else None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bad_peer(text: str, why: str) -> ConfigError:
    text = redacted(text)
    shown = text if len(text) <= 80 else text[:77] + "..."
    return ConfigError(f"not a peer: '{printable(shown)}': {why}")


def join_host(host: str, port: int) -> str:
    """host:port as it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def flag_peers(values: Sequence[str] | None) -> tuple[str, ...] | None:
    """The peers of a repeatable, comma-separated flag; None when it was not given."""
    if not values:
        return None
    return tuple(peer for value in values for peer in split_peers(value))
