"""Uploads take a place before they hold much: one that stands still early keeps nobody out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Self

import anyio

# What an upload may have brought when it asks for a place. It holds so much and one read more at
# most (repairs/inflow.py); what comes behind lies in the kernel until there is a place.
# tests/server/test_memory.py measures what many such uploads hold together.
_FREE = 64 * 1024


class Metered:
    """The chunks of a body; from _FREE bytes on it waits for, and then holds, one of `places`."""

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
        if not self._held and self._size >= _FREE:
            await self._places.acquire()
            self._held = True
        chunk = await anext(self._chunks)
        self._size += len(chunk)
        return chunk
