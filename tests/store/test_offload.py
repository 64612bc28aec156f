"""Lanes: one thread each, and none of them may hold up the event loop."""

from __future__ import annotations

import threading

import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint

from mesh.offload import Lane

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
