"""Which configured peer was shown to have sent wrong bytes.

Strangers are not noted: nothing is proven about who they are.
"""

from __future__ import annotations

import logging

from mesh.core.holder import Configured

log = logging.getLogger("mesh")

# The first ones go. Configured peers are some dozen, but the records of unfinished blobs may name
# peers of earlier configurations.
_MOST_LIARS = 1000


class Lies:
    """The last lie of each peer that was shown to have lied; said as long as the process runs."""

    def __init__(self) -> None:
        self._by: dict[Configured, str] = {}

    def note(self, liar: Configured, what: str) -> None:
        """`liar` did `what`."""
        log.warning("peer %s lied: %s", liar.url, what)
        self._by.pop(liar, None)
        self._by[liar] = what
        if len(self._by) > _MOST_LIARS:
            del self._by[next(iter(self._by))]

    def get(self, peer: Configured) -> str | None:
        """What `peer` did; None for nothing."""
        return self._by.get(peer)
