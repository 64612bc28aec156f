"""Everything that can be set, as a value."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import msgspec

from mesh.config.keys import Key
from mesh.config.peers import Address, PeerEntry, Resolved, address_of, resolve
from mesh.config.places import DEFAULT_PORT, parse_listen
from mesh.config.sizes import GIB


class Config(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True
):  # `dict`: beside its fields, which are what a user may set, it holds what they stand for.
    """Everything that can be set, with units in the names.

    Making one reads the key files that it names, and raises ConfigError when one cannot be used.
    """

    listen: str = f"127.0.0.1:{DEFAULT_PORT}"
    data: str = "./data"
    # A list in a program or a file; kept as a tuple, since a Config is a value.
    peers: Sequence[str | PeerEntry] = ()
    # Keys that clients and peers must show, one a line, maybe with a name and roles
    # (config/roles.py); without one, a node on loopback is open.
    key_file: str | None = None
    # The key that this node shows to peers without a key file of their own.
    peer_key_file: str | None = None
    # Whether the node answers BlobStash's requests, and lists leaves as its server does
    # ("over-long") or by their prefix alone ("exact"); docs/blobstash.md.
    blobstash: bool = True
    blobstash_listing: str = "over-long"
    name: str | None = None
    # Names in the Host of requests that are meant for this node; see server/browsers.py.
    host_names: Sequence[str] = ()
    backend: str = "asyncio"
    interval_seconds: float = 30.0
    # What a client may put here. None: what replication carries, since checkpoints and videos are
    # large, and the reserve keeps a mistake from filling the disk.
    max_blob_bytes: int | None = None
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

    def __post_init__(self) -> None:
        """Read the key files, once: a Config in use never looks at a file again.

        ConfigError names the first peer that is malformed, or the key file that holds no key.
        """
        msgspec.structs.force_setattr(self, "peers", tuple(self.peers))
        msgspec.structs.force_setattr(self, "host_names", tuple(self.host_names))
        _ = self._resolved

    @cached_property
    def _resolved(self) -> Resolved:
        return resolve(self.peers, self.key_file, self.peer_key_file)

    def addresses(self) -> list[Address]:
        """The peers, each with the key that it is shown."""
        return list(self._resolved.addresses)

    def address_of(self, peer: PeerEntry) -> Address:
        """A peer that is not in the configuration, with the key that it is shown.

        Reads the key file of its own, if it has one, also while a node runs, which must not wait
        for a FIFO. ConfigError when that or the peer is no good.
        """
        return address_of(peer, self._resolved.shown, plain=True)

    def accepted_keys(self) -> tuple[Key, ...]:
        """The keys that clients and peers may show here; none when the node is open."""
        return self._resolved.accepted

    def key_files(self) -> list[str]:
        """The files that hold keys, each once."""
        own = [each.key_file for each in self.peers if isinstance(each, PeerEntry)]
        files = dict.fromkeys([self.key_file, self.peer_key_file, *own])
        return [file for file in files if file is not None]

    def shared_secret(self) -> bytes:
        """What the nodes of a mesh share, for the key of their sketches; b"" without keys.

        Nodes with different ones still converge, by their trees alone.
        """
        secret = self._resolved.shared
        return secret.reveal() if secret is not None else b""

    def most_per_put(self) -> int:
        """Bytes of the largest blob that a client may put."""
        given = self.max_blob_bytes
        return given if given is not None else self.max_replica_bytes

    def endpoint(self) -> tuple[str, int]:
        """Host and port to listen on; port 0 means any free one."""
        return parse_listen(self.listen)
