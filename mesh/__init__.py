"""mesh keeps immutable, content-addressed blobs identical on many nodes, with no leader."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.config import Config
    from mesh.core.digest import Digest
    from mesh.errors import MeshError
    from mesh.node import Node

    __version__: str

__all__ = ["Config", "Digest", "MeshError", "Node", "__version__"]


_HOMES = {
    "Config": "mesh.config",
    "Digest": "mesh.core.digest",
    "MeshError": "mesh.errors",
    "Node": "mesh.node",
}


def __getattr__(name: str) -> object:
    """The public names, loaded when first asked for: a command need not load them all."""
    if name == "__version__":
        return import_module("mesh.version").package_version()
    if name not in _HOMES:
        raise AttributeError(f"module 'mesh' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
