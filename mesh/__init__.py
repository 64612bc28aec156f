"""mesh keeps immutable, content-addressed blobs identical on many nodes, with no leader.

For programs: `Client` talks to a node, `Node` is one, `Blobs` is what both can do, and
`mesh.sync.Client` is for code without async. docs/api.md shows each of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mesh.sync as sync
    from mesh.api.blobs import BlobInfo, Blobs, Events, Range, Source, Stream
    from mesh.api.client import Client
    from mesh.api.node import Node
    from mesh.config import Config, PeerEntry
    from mesh.errors import (
        ConfigError,
        Corrupt,
        Full,
        InputError,
        MeshError,
        NotFound,
        PeerError,
        Refused,
        StoreError,
        TooMuch,
        Unreachable,
    )
    from mesh.events import (
        Began,
        Damaged,
        Dropped,
        Event,
        Healed,
        PeerEvent,
        RoundEvent,
        Stored,
    )
    from mesh.status import PeerStatus, RoundStats, Status, WaitAnswer, WaitReport

    __version__: str

_HOMES = {
    "mesh.api.blobs": ("BlobInfo", "Blobs", "Events", "Range", "Source", "Stream"),
    "mesh.api.client": ("Client",),
    "mesh.api.node": ("Node",),
    "mesh.config": ("Config", "PeerEntry"),
    "mesh.errors": (
        "ConfigError",
        "Corrupt",
        "Full",
        "InputError",
        "MeshError",
        "NotFound",
        "PeerError",
        "Refused",
        "StoreError",
        "TooMuch",
        "Unreachable",
    ),
    "mesh.events": (
        "Began",
        "Damaged",
        "Dropped",
        "Event",
        "Healed",
        "PeerEvent",
        "RoundEvent",
        "Stored",
    ),
    "mesh.status": ("PeerStatus", "RoundStats", "Status", "WaitAnswer", "WaitReport"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - in the order of the documentation
    "Blobs", "Client", "Node", "Config", "PeerEntry", "sync",
    "BlobInfo", "Range", "Source", "Stream",
    "Event", "Events", "Began", "Stored", "Damaged", "Healed", "PeerEvent", "RoundEvent", "Dropped",
    "Status", "PeerStatus", "RoundStats", "WaitAnswer", "WaitReport",
    "MeshError", "ConfigError", "InputError", "NotFound", "PeerError", "Unreachable", "Refused",
    "TooMuch", "StoreError", "Corrupt", "Full",
    "__version__",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """The public names, loaded when first asked for: a command need not load them all."""
    if name == "__version__":
        return import_module("mesh.version").package_version()
    if name == "sync":
        return import_module("mesh.sync")
    if name not in _HOME:
        raise AttributeError(f"module 'mesh' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
