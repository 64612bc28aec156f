"""An upload may pause for as long as nobody needs its place."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
from anyio import create_task_group
from trio.testing import MockClock

from mesh.errors import Stalled
from mesh.server.pauses import Pausing

pytestmark = pytest.mark.trio

HOUR = 3600.0


class Chunks:
    """A chunk, an hour of silence, another one."""

    def __init__(self) -> None:
        self._begun = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._begun:
            await anyio.sleep_until(HOUR)
            return b"end"
        self._begun = True
        return b"start"


async def test_a_pause_ends_nothing(autojump_clock: MockClock) -> None:
    chunks = Pausing(Chunks(), anyio.CapacityLimiter(1))
    assert await anext(chunks) == b"start"
    assert await anext(chunks) == b"end"
    assert anyio.current_time() == HOUR


async def test_a_pause_ends_when_others_wait_for_the_place(autojump_clock: MockClock) -> None:
    places = anyio.CapacityLimiter(1)
    chunks = Pausing(Chunks(), places)
    async with places, create_task_group() as group:
        assert await anext(chunks) == b"start"

        async def another() -> None:
            await anyio.sleep_until(100.0)
            async with places:
                pass

        group.start_soon(another)
        with pytest.raises(Stalled, match="other uploads wait"):
            await anext(chunks)
        assert anyio.current_time() == 120.0
        group.cancel_scope.cancel()
