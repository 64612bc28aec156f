"""The configuration of a node: file < environment < flags, and no typo goes unnoticed."""

from mesh.config.keys import Secret, read_keys
from mesh.config.loading import Given, Sources, given, load, problems
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
from mesh.config.places import DEFAULT_PORT, is_loopback, join_host, parse_listen
from mesh.config.ranges import FEWEST_CELLS, MOST_CELLS
from mesh.config.schema import Config
from mesh.config.sizes import GIB, parse_size

__all__ = [
    "BLOBSTASH_PORT",
    "DEFAULT_PORT",
    "DIRECTIONS",
    "FEWEST_CELLS",
    "GIB",
    "MOST_CELLS",
    "Address",
    "Config",
    "Given",
    "PeerEntry",
    "Secret",
    "Sources",
    "flag_peers",
    "given",
    "is_loopback",
    "join_host",
    "load",
    "parse_listen",
    "parse_peer",
    "parse_size",
    "problems",
    "read_keys",
    "redacted",
    "split_peers",
]
