"""What a setting may be: each limit, and what to do about a value beyond it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mesh.config.peers import NAME
from mesh.config.places import is_host_name, is_loopback
from mesh.config.schema import Config
from mesh.core.limits import LARGE_BLOB
from mesh.errors import ConfigError

# Fewer cells tell too little to be worth their upkeep; more take 64 MiB.
FEWEST_CELLS = 2048
MOST_CELLS = 2**22


def problems_of(config: Config) -> Iterator[str]:
    """A line for each setting that cannot work."""
    yield from _names(config)
    yield from _rates(config)
    yield from _limits(config)


def _names(config: Config) -> Iterator[str]:
    try:
        host, _ = config.endpoint()
    except ConfigError as error:
        host = "127.0.0.1"
        yield str(error)
    if not is_loopback(host) and config.key_file is None and not config.insecure:
        yield (
            f"listening on {host} without a key lets everybody who reaches it read and write; "
            "give --key-file, or say --insecure if the network is private"
        )
    for setting in ("listen", "data"):
        if not getattr(config, setting):
            yield (f"{setting} is empty; is a variable unset?")
    if "\0" in config.data:
        yield (f"data is {config.data[:80]!a}; no path can be so")
    if config.blobstash_listing not in ("over-long", "exact"):
        yield (f"blobstash_listing is {config.blobstash_listing!a}; there are over-long and exact")
    if config.backend not in ("asyncio", "trio"):
        yield (f"unknown backend '{config.backend}'; there are asyncio and trio")
    if config.name is not None and not NAME.fullmatch(config.name):
        yield (f"a node's name is up to 64 letters, digits, '.', '_' and '-', not {config.name!a}")
    for name in config.host_names:
        if not is_host_name(name):
            yield (f"host_names has {name[:80]!a}; expected a name without a port, or '*' for any")
    if config.node_id is not None and not re.fullmatch(r"[0-9a-f]{32}", config.node_id, re.ASCII):
        yield (f"node_id {config.node_id!a} is not 32 lower-case hex digits")


def _rates(config: Config) -> Iterator[str]:
    if not 0.05 <= config.interval_seconds <= 86_400 * 7:
        yield (f"an interval of {config.interval_seconds} s; expected 0.05 s to a week")
    if not 0 <= config.shutdown_seconds <= 3600:
        yield (f"a shutdown of {config.shutdown_seconds} s; expected 0 to 3600")
    if not 1000 <= config.scrub_bytes_per_second <= 10**12:
        yield (f"a scrub of {config.scrub_bytes_per_second} bytes/s; expected 1 kB/s to 1 TB/s")
    if not 0.001 <= config.scrub_days <= 3650:
        yield (f"a scrub each {config.scrub_days} days; expected 0.001 to 3650")


def _limits(config: Config) -> Iterator[str]:
    if not 1 <= config.most_per_put() <= config.max_replica_bytes:
        yield (
            f"a limit of {config.most_per_put()} bytes a blob; expected 1 to what replication "
            f"carries, {config.max_replica_bytes}"
        )
    if config.max_replica_bytes < LARGE_BLOB:
        yield (
            f"max_replica_bytes is {config.max_replica_bytes}; expected at least {LARGE_BLOB}, the "
            "size up to which blobs travel together"
        )
    if config.reserve_bytes is not None and config.reserve_bytes < 0:
        yield (f"a reserve of {config.reserve_bytes} bytes; expected 0 or more")
    if config.sketch_cells and not FEWEST_CELLS <= config.sketch_cells <= MOST_CELLS:
        yield (
            f"a sketch of {config.sketch_cells} cells; expected {FEWEST_CELLS} to {MOST_CELLS}, "
            "or 0 for none"
        )
