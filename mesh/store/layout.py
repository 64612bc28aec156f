"""Where everything stands in a data directory. Names are relative to it and use '/'."""

from __future__ import annotations

from mesh.core.digest import Digest

PARTIAL = "partial"
"""Large blobs that arrive in several goes (store/large/partial.py)."""

DIRECTORIES = ("segments", "large", "tmp", "damaged", PARTIAL)


def large_name(digest: Digest) -> str:
    """The file of a large blob."""
    text = digest.hex()
    return f"large/{text[:2]}/{text}"
