"""A key as a value that shows itself nowhere."""

from __future__ import annotations

import hmac


class Secret:
    """A key. Never shown: it has no text but when asked for its bytes."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def reveal(self) -> bytes:
        """The key itself, for a request's header."""
        return self._key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._key, other._key)

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return "Secret(…)"
