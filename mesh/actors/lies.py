"""Who was shown to have sent wrong bytes."""

from __future__ import annotations

import logging

log = logging.getLogger("mesh")

_MOST_LIARS = 1000  # the first ones go; peers are some dozen, strangers that push may be many


class Lies:
    """The last lie of each peer that was shown to have lied; said as long as the process runs."""

    def __init__(self) -> None:
        self._by: dict[bytes, str] = {}

    def note(self, liar: bytes, what: str) -> None:
        """`liar`, a keeper.Holder, did `what`."""
        log.warning("peer %s lied: %s", liar.hex(), what)
        self._by.pop(liar, None)
        self._by[liar] = what
        if len(self._by) > _MOST_LIARS:
            del self._by[next(iter(self._by))]

    def get(self, holder: bytes) -> str | None:
        """What `holder` did; None for nothing."""
        return self._by.get(holder)
