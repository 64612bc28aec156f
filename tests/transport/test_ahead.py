"""Reading ahead changes when chunks are asked for, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from mesh.errors import InputError, Unreachable
from mesh.transport.ahead import ahead

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


class Source:
    """Numbered chunks, and then an error, if there is one."""

    def __init__(self, chunks: int, error: Exception | None = None) -> None:
        self.given = 0
        self._chunks = chunks
        self._error = error

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        if self.given == self._chunks:
            raise self._error or StopAsyncIteration
        self.given += 1
        return b"%d" % self.given


async def test_all_chunks_come_in_order_and_some_before_they_are_asked_for() -> None:
    source, got = Source(100), []
    async with ahead(source) as chunks:
        async for chunk in chunks:
            got.append(chunk)
            await anyio.wait_all_tasks_blocked()
            # Those that wait, and the one that has no room.
            assert source.given == min(100, len(got) + 5)
    assert got == [b"%d" % number for number in range(1, 101)]


async def test_an_error_comes_behind_what_came_before_it() -> None:
    got = list[bytes]()

    async def take() -> None:
        async with ahead(Source(7, Unreachable("cut off"))) as chunks:
            while True:
                got.append(await anext(chunks))

    with pytest.raises(Unreachable, match="cut off"):
        await take()
    assert len(got) == 7


async def test_whoever_leaves_early_is_not_kept_and_its_error_is_its_own() -> None:
    source = Source(1_000_000)

    async def take(error: Exception | None) -> None:
        async with ahead(source) as chunks:
            await anext(chunks)
            if error is not None:
                raise error

    with anyio.fail_after(10):
        with pytest.raises(InputError, match="mine"):
            await take(InputError("mine"))
        await take(None)
    assert source.given < 20
