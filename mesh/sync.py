"""For programs without async: `mesh.sync.Client`."""

from mesh.api.blocking import Blob, Client

__all__ = ["Blob", "Client"]
