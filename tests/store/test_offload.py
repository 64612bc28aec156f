"""Threads and lanes: what was begun is waited for, and nothing holds up the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from anyio import create_task_group, move_on_after
from anyio.lowlevel import checkpoint

from mesh.offload import Lane, Reading, Threads

pytestmark = pytest.mark.anyio


async def test_a_lane_is_closed_without_waiting_for_the_call_that_is_under_way() -> None:
    lane, begun, go_on = Lane("test"), threading.Event(), threading.Event()
    answers: list[str] = []

    def slow() -> str:
        begun.set()
        assert go_on.wait(30)
        return "done"

    async def ask() -> None:
        answers.append(await lane(slow))

    async with create_task_group() as group:
        group.start_soon(ask)
        while not begun.is_set():
            await checkpoint()
        # The call's answer needs the loop, which would be waiting for the call.
        lane.close()
        go_on.set()
    assert answers == ["done"]


WORKS = {"threads": lambda: Threads(1), "lane": lambda: Lane("test")}


@pytest.mark.parametrize("make", WORKS.values(), ids=WORKS)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_call_that_has_begun_is_waited_for_however_its_caller_is_cancelled(
    make: Callable[[], Threads | Lane],
) -> None:
    work, begun, go_on = make(), threading.Event(), threading.Event()
    written: list[str] = []

    def slow() -> None:
        begun.set()
        assert go_on.wait(30)
        written.append("to an open file")

    # As Quart does when a client goes away; anyio's own cancellation is shielded from anyway.
    task = asyncio.ensure_future(work(slow))
    while not begun.is_set():
        await checkpoint()
    for _ in range(2):
        task.cancel()
        for _ in range(20):
            await checkpoint()
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert written == ["to an open file"]
    work.close()


@pytest.mark.parametrize("make", WORKS.values(), ids=WORKS)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_call_that_has_not_begun_is_not_made_for_a_caller_that_is_cancelled(
    make: Callable[[], Threads | Lane],
) -> None:
    work, begun, go_on = make(), threading.Event(), threading.Event()
    made: list[str] = []

    def slow() -> None:
        begun.set()
        assert go_on.wait(30)

    first = asyncio.ensure_future(work(slow))
    while not begun.is_set():
        await checkpoint()
    second = asyncio.ensure_future(work(made.append, "nobody asks any more"))
    for _ in range(20):
        await checkpoint()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    await first
    await work(made.append, "the next one")
    assert made == ["the next one"]
    work.close()


async def test_reading_that_hangs_is_left_alone_when_its_caller_is_cancelled() -> None:
    work, go_on = Reading(), threading.Event()
    with move_on_after(0.05) as scope:
        await work(go_on.wait, 30)
    assert scope.cancelled_caught
    assert not go_on.is_set()
    go_on.set()
    assert await work(go_on.wait, 30)
    with pytest.raises(ZeroDivisionError):
        await work(divmod, 1, 0)
