"""How long an upload of a client may pause: for ever, unless others need what it holds.

A client often sends what another program makes (`pg_dump | mesh put -`), and that program may be
silent for an hour. A connection whose other end has died is closed by TCP's keep-alive (serve.py).
So silence by itself ends nothing. What an upload does hold is one of the places that bound the
memory of all uploads (metered.py). When every place is taken and another upload waits for one, an
upload that has brought nothing for SILENCE seconds is cut, and its client told 408.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Self

import anyio

from mesh.errors import Stalled
from mesh.transport.pace import SILENCE


class Pausing:
    """The chunks of a body that may pause."""

    def __init__(self, chunks: AsyncIterator[bytes], places: anyio.CapacityLimiter) -> None:
        """`places`: those of all uploads."""
        self._chunks = chunks
        self._places = places

    def __aiter__(self) -> Self:
        """Itself."""
        return self

    async def __anext__(self) -> bytes:
        """The next chunk; Stalled when it does not come and others wait."""
        while True:
            with anyio.move_on_after(SILENCE):
                return await anext(self._chunks)
            if self._places.statistics().tasks_waiting:
                raise Stalled(
                    f"upload: nothing came for {SILENCE:g} s, and other uploads wait for its place"
                )
