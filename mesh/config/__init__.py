"""The configuration of a node: file < environment < flags, and no typo goes unnoticed."""

from mesh.config.changes import (
    PEERS_FILE,
    Change,
    Changes,
    Listed,
    decode_changes,
    encode_changes,
    listed,
    names_of,
    removed,
)
from mesh.config.keys import exposed, key_of, named_keys, read_keys
from mesh.config.loading import Given, Sources, given, load, origins, problems
from mesh.config.peers import (
    BLOBSTASH_PORT,
    DIRECTIONS,
    Address,
    PeerEntry,
    flag_peers,
    parse_peer,
    redacted,
    split_peers,
)
from mesh.config.places import ANY_NAME, DEFAULT_PORT, is_loopback, join_host, parse_listen
from mesh.config.ranges import FEWEST_CELLS, MOST_CELLS, problems_of
from mesh.config.roles import PLAIN, ROLES, Key, parse_keys, parse_roles
from mesh.config.schema import Config
from mesh.config.secret import Secret
from mesh.config.showing import Shown, shown
from mesh.config.sizes import GIB, parse_size

__all__ = [
    "ANY_NAME",
    "BLOBSTASH_PORT",
    "DEFAULT_PORT",
    "DIRECTIONS",
    "FEWEST_CELLS",
    "GIB",
    "MOST_CELLS",
    "PEERS_FILE",
    "PLAIN",
    "ROLES",
    "Address",
    "Change",
    "Changes",
    "Config",
    "Given",
    "Key",
    "Listed",
    "PeerEntry",
    "Secret",
    "Shown",
    "Sources",
    "decode_changes",
    "encode_changes",
    "exposed",
    "flag_peers",
    "given",
    "is_loopback",
    "join_host",
    "key_of",
    "listed",
    "load",
    "named_keys",
    "names_of",
    "origins",
    "parse_keys",
    "parse_listen",
    "parse_peer",
    "parse_roles",
    "parse_size",
    "problems",
    "problems_of",
    "read_keys",
    "redacted",
    "removed",
    "shown",
    "split_peers",
]
