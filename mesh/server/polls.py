"""Requests that last until something happens are told when the node stops.

A stop lets requests under way end by themselves for a while. One that waits for other nodes might
not end before that time is over, and would stretch every stop to its longest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from mesh.errors import Stopping
from mesh.racing import unless

T = TypeVar("T")


async def unless_stopping(stop: anyio.Event, work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work`, which is cancelled when `stop` is set: then Stopping is raised."""

    async def stopped() -> None:
        await stop.wait()

    return await unless(stopped, work, lambda: Stopping("the node is stopping"))
