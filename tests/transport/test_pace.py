"""The no-progress rule, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from mesh.errors import Stalled
from mesh.transport.pace import SILENCE, Pulse

pytestmark = pytest.mark.trio


async def chunks(pause: float, empty: int) -> AsyncIterator[bytes]:
    """So many empty chunks, as of a blob that is being verified, and then one that is not."""
    for _ in range(empty):
        await trio.sleep(pause)
        yield b""
    await trio.sleep(pause)
    yield b"data"


async def sent(pause: float, empty: int) -> bytes:
    pulse = Pulse("a test")
    with pulse.watch():
        return b"".join([chunk async for chunk in pulse.beat(chunks(pause, empty))])
    raise AssertionError


async def test_an_empty_chunk_of_what_we_send_is_a_sign_of_life(autojump_clock: MockClock) -> None:
    assert await sent(1.0, 1000) == b"data"


async def test_silence_of_what_we_send_is_none(autojump_clock: MockClock) -> None:
    with pytest.raises(Stalled):
        await sent(SILENCE + 1.0, 0)
