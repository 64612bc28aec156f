"""The table of settings: what each is called, its default, its unit, and why it is as it is.

It is the one source of the flags' help, of `mesh config init`, `show` and `check`, and of the table
in docs/operations.md, which a test compares with it. Plain tuples, so that a command which only
prints help loads nothing else; what a setting may be is checked in mesh/config.
"""

from __future__ import annotations

from typing import NamedTuple


class Setting(NamedTuple):
    """One setting.

    `default` is written as in TOML; "" where there is none. `unset` says what holds then, and for a
    default that needs words. `example` stands in the file of `config init` in place of the default.
    `about` fits on a line of help. `why` has lines for the file. `reloads`: a new value is taken
    over by `mesh reload`.
    """

    key: str
    kind: str
    default: str
    about: str
    flag: str = ""
    unset: str = ""
    example: str = ""
    why: tuple[str, ...] = ()
    reloads: bool = False

    @property
    def variable(self) -> str:
        """What it is called in the environment."""
        return f"MESH_{self.key.upper()}"

    @property
    def shown_default(self) -> str:
        """The default as people read it."""
        return self.unset or self.default.strip('"')

    @property
    def help(self) -> str:
        """A line for the help of its flag."""
        return f"{self.about}; default {self.shown_default}"


# What a value of each kind looks like, in the file and in the environment.
KINDS = {
    "text": "text",
    "file": "the path of a file, as seen from where the node is started",
    "peers": "a list; in the environment separated by commas",
    "names": "a list; in the environment separated by commas",
    "seconds": "seconds",
    "days": "days",
    "size": "bytes, with a unit where you like: 500MB, 1GiB, 64K (K, M, G, T alone are binary)",
    "rate": "bytes a second, with a unit where you like: 10MB, 1GiB",
    "cells": "a number of cells",
    "switch": "true or false; in the environment 1 or 0",
}

# The parts of the file, in order, and the settings in each.
SECTIONS: tuple[tuple[str, tuple[Setting, ...]], ...] = (
    (
        "Where the node is, and what it is called",
        (
            Setting(
                "listen",
                "text",
                '"127.0.0.1:7280"',
                "host:port to listen on; port 0 is any free one",
                "--listen",
                why=(
                    "Only this machine reaches 127.0.0.1. Others need an address of this machine,",
                    'or "0.0.0.0:7280" for all of them, and then a key_file as well.',
                ),
            ),
            Setting(
                "data",
                "text",
                '"./data"',
                "directory for the blobs",
                "--data",
                why=("Disk use only grows, so give it a disk with room.",),
            ),
            Setting(
                "name",
                "text",
                "",
                "what peers call this node",
                "--name",
                unset="node- and eight digits of its id",
                example='"a"',
            ),
            Setting(
                "host_names",
                "names",
                "[]",
                "more names by which a node without keys may be asked, such as its DNS names",
                unset="none",
                example='["mesh.example", "node-a"]',
                why=(
                    "Without keys, a request whose Host is another name is refused: a page in a",
                    "browser may be behind it. Known are addresses, localhost, the host of listen",
                    'and the name of the machine. "*" admits every name.',
                ),
            ),
            Setting(
                "node_id",
                "text",
                "",
                "the id that the data directory must have, 32 hex digits",
                "--node-id",
                unset="any",
                example='"0123456789abcdef0123456789abcdef"',
                why=(
                    "`mesh status` shows it. When it is set, the node refuses a directory of",
                    "another node, and an empty one, such as that of a disk that is not mounted.",
                ),
            ),
            Setting(
                "backend",
                "text",
                '"asyncio"',
                "the event loop: asyncio or trio",
                "--backend",
            ),
        ),
    ),
    (
        "The other nodes",
        (
            Setting(
                "peers",
                "peers",
                "[]",
                "nodes to keep equal with: host, host:port or URL, maybe behind name=",
                "--peers",
                example='["b=10.0.0.2:7280", "c=10.0.0.3:7280"]',
                unset="none",
                why=(
                    "More forms are https://host, [::1]:7281 and name=https://host:443.",
                    "A peer may be a table with a key file and a direction of its own:",
                    '{ url = "d=https://d.example:7280", key_file = "d.key", direction = "push" }.',
                    "`direction` is both, pull (only fetch from it) or push (only send to it).",
                    "`mesh peers` changes them while the node runs.",
                ),
                reloads=True,
            ),
            Setting(
                "interval_seconds",
                "seconds",
                "30.0",
                "time between two rounds with a peer, varied by ±20 %",
                "--interval",
                why=(
                    "New blobs are announced at once; rounds find what an announcement has missed.",
                    "A round with an equal peer is one request of 150 bytes.",
                ),
            ),
            Setting(
                "read_through",
                "switch",
                "true",
                "fetch a blob that a client asks for and that is not here from a peer",
                "--read-through/--no-read-through",
            ),
        ),
    ),
    (
        "Keys",
        (
            Setting(
                "key_file",
                "file",
                "",
                "file of the keys that this node accepts, one a line",
                "--key-file",
                unset="none: everybody on the machine may use the node",
                example='"/etc/mesh/mesh.key"',
                why=(
                    "A line is a key, or a name, roles and a key. A key without roles may read and",
                    "write every blob. `mesh key new` makes keys. Only the node's user should read",
                    "the file.",
                ),
                reloads=True,
            ),
            Setting(
                "peer_key_file",
                "file",
                "",
                "file with the key that this node shows to peers",
                "--peer-key-file",
                unset="none",
                example='"/etc/mesh/mesh.key"',
                why=("Its first line counts. A peer's table may name another file.",),
                reloads=True,
            ),
            Setting(
                "insecure",
                "switch",
                "false",
                "allow listening beyond this machine without a key",
                "--insecure",
                why=("Everybody who reaches the port can then read and write.",),
            ),
        ),
    ),
    (
        "Sizes",
        (
            Setting(
                "max_blob_bytes",
                "size",
                "",
                "the largest blob that a client may put",
                "--max-blob",
                unset="as max_replica_bytes",
                example='"1GiB"',
                why=("The reserve keeps a mistake from filling the disk, whatever this is.",),
            ),
            Setting(
                "max_replica_bytes",
                "size",
                '"64GiB"',
                "the largest blob that is fetched from peers, at least 4 MiB",
                why=(
                    "Nodes that differ in it cannot become equal, so keep it equal on all of them.",
                ),
            ),
            Setting(
                "reserve_bytes",
                "size",
                "",
                "space on the disk that the node leaves free",
                unset="1 % of the file system, at most 1 GiB",
                example='"1GiB"',
                why=("Below it nothing is fetched, and puts get 507.",),
            ),
            Setting(
                "sketch_cells",
                "cells",
                "262144",
                "memory for finding differences quickly: 2048 to 4194304 cells, or 0 for none",
                why=(
                    "262144 cells take 4 MiB and are enough for 190,000 differing blobs. Peers may",
                    "have different numbers. Leave it.",
                ),
            ),
        ),
    ),
    (
        "Care and stops",
        (
            Setting(
                "scrub_days",
                "days",
                "30.0",
                "time from the beginning of one scrub to the next, varied by ±10 %",
                why=("A scrub reads every blob again to find what has rotted.",),
            ),
            Setting(
                "scrub_bytes_per_second",
                "rate",
                '"10MB"',
                "how fast a scrub reads when nobody else does",
                why=("A tenth of what a hard disk gives, and 25 TB in 30 days.",),
            ),
            Setting(
                "shutdown_seconds",
                "seconds",
                "10.0",
                "how long a stop waits for requests under way",
            ),
        ),
    ),
    (
        "BlobStash (docs/blobstash.md)",
        (
            Setting(
                "blobstash",
                "switch",
                "true",
                "answer BlobStash's requests",
                "--blobstash/--no-blobstash",
            ),
            Setting(
                "blobstash_listing",
                "text",
                '"over-long"',
                "how leaves are listed: over-long, as its server does, or exact",
            ),
        ),
    ),
)

SETTINGS = {setting.key: setting for _, settings in SECTIONS for setting in settings}


def help_of(key: str) -> str:
    """The help of the flag of a setting."""
    return SETTINGS[key].help
