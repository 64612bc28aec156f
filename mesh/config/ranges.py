"""What a setting may be: each limit, and what to do about a value beyond it."""

from __future__ import annotations

import re

from mesh.config.peers import NAME
from mesh.config.places import is_loopback
from mesh.config.schema import Config
from mesh.core.limits import LARGE_BLOB
from mesh.errors import ConfigError

# Fewer cells tell too little to be worth their upkeep; more take 64 MiB.
FEWEST_CELLS = 2048
MOST_CELLS = 2**22


def check(config: Config) -> None:
    """ConfigError names the first setting that cannot work."""
    _check_names(config)
    _check_rates(config)
    _check_limits(config)


def _check_names(config: Config) -> None:
    host, _ = config.endpoint()
    if not is_loopback(host) and config.key_file is None and not config.insecure:
        raise ConfigError(
            f"listening on {host} without a key lets everybody who reaches it read and write; "
            "give --key-file, or say --insecure if the network is private"
        )
    for setting in ("listen", "data"):
        if not getattr(config, setting):
            raise ConfigError(f"{setting} is empty; is a variable unset?")
    if config.blobstash_listing not in ("over-long", "exact"):
        raise ConfigError(
            f"blobstash_listing is {config.blobstash_listing!a}; there are over-long and exact"
        )
    if config.backend not in ("asyncio", "trio"):
        raise ConfigError(f"unknown backend '{config.backend}'; there are asyncio and trio")
    if config.name is not None and not NAME.fullmatch(config.name):
        raise ConfigError(
            f"a node's name is up to 64 letters, digits, '.', '_' and '-', not {config.name!a}"
        )
    if config.node_id is not None and not re.fullmatch(r"[0-9a-f]{32}", config.node_id, re.ASCII):
        raise ConfigError(f"node_id {config.node_id!a} is not 32 lower-case hex digits")


def _check_rates(config: Config) -> None:
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


def _check_limits(config: Config) -> None:
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
