"""Requests that last until something happens are told when the node stops.

A stop lets requests under way end by themselves for a while. One that waits for other nodes might
not end before that time is over, and would stretch every stop to its longest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from anyio import create_task_group

from mesh.errors import MeshError, Stopping

T = TypeVar("T")


async def unless_stopping(stop: anyio.Event, work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work`, which is cancelled when `stop` is set: then Stopping is raised."""
    done: list[T] = []
    failed: list[MeshError] = []
    async with create_task_group() as group:

        async def watch() -> None:
            await stop.wait()
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            done.append(await work())
        except MeshError as error:
            failed.append(error)
        group.cancel_scope.cancel()
    if failed:
        raise failed[0]
    if not done:
        raise Stopping("the node is stopping")
    return done[0]
