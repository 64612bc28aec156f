"""BlobStash's `sync` package, in Python: its whole surface, and its wire protocol both ways.

docs/blobstash.md says what a real server does and what mesh does, side by side.
"""

from mesh.blobstash.client import LocalBlobs, SyncClient
from mesh.blobstash.stats import SyncStats
from mesh.blobstash.sync import Sync
from mesh.blobstash.tree import LeafState, State, StateTree, new_hash

__all__ = [
    "LeafState",
    "LocalBlobs",
    "State",
    "StateTree",
    "Sync",
    "SyncClient",
    "SyncStats",
    "new_hash",
]
