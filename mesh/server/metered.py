"""Uploads take a place only once they hold memory: one that stands still keeps nobody out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Self

import anyio

# What an upload may bring before it needs a place: a thousand that stop here hold 64 MB.
_FREE = 64 * 1024


class Metered:
    """The chunks of a body; beyond _FREE bytes it waits for, and then holds, one of `places`."""

    def __init__(self, chunks: AsyncIterator[bytes], places: anyio.CapacityLimiter) -> None:
        self._chunks = chunks
        self._places = places
        self._size = 0
        self._held = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._held:
            self._places.release()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await anext(self._chunks)
        self._size += len(chunk)
        if not self._held and self._size > _FREE:
            await self._places.acquire()
            self._held = True
        return chunk
