"""Blocking work, away from the event loop: threads in a node, inline in a simulation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

T = TypeVar("T")


class Offload(Protocol):
    """Runs a blocking function and waits for it."""

    async def __call__(self, func: Callable[..., T], *args: Any) -> T:
        """func(*args), whose error is raised here. Once begun, it is not abandoned."""

    def close(self) -> None:
        """No more calls will come."""


class Inline:
    """Runs it at once: for memory, simulated disks and tests in virtual time."""

    async def __call__(self, func: Callable[..., T], *args: Any) -> T:
        """func(*args); other tasks get their turn before it."""
        await anyio.lowlevel.checkpoint()
        return func(*args)

    def close(self) -> None:
        """Nothing to let go of."""


class Threads:
    """Runs it on any of a few threads; for work that does not care which."""

    def __init__(self, most: int) -> None:
        """`most`: how many calls run at a time."""
        self._limiter: anyio.CapacityLimiter | None = None
        self._most = most

    async def __call__(self, func: Callable[..., T], *args: Any) -> T:
        """func(*args) in a worker thread."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._most)
        return await anyio.to_thread.run_sync(func, *args, limiter=self._limiter)

    def close(self) -> None:
        """The threads are anyio's."""


class Lane:
    """One thread that runs calls in the order in which they came.

    SQLite connections live on a lane: made, used and closed on one thread. anyio's own worker
    threads come and go, so that a connection could not belong to one of them.
    """

    def __init__(self, name: str) -> None:
        """`name`: what the thread is called in a debugger or profiler."""
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"mesh-{name}", daemon=True)
        self._thread.start()

    async def __call__(self, func: Callable[..., T], *args: Any) -> T:
        """func(*args) on the lane's thread; cancellation waits until it is done."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        done = anyio.Event()
        token = anyio.lowlevel.current_token()
        outcome: list[T] = []
        failure: list[BaseException] = []

        def call() -> None:
            try:
                outcome.append(func(*args))
            except BaseException as error:  # noqa: BLE001 - carried over to the caller, whole
                failure.append(error)
            with suppress(anyio.RunFinishedError):  # nobody waits any more
                anyio.from_thread.run_sync(done.set, token=token)

        self._calls.put(call)
        with anyio.CancelScope(shield=True):
            await done.wait()
        if failure:
            raise failure[0]
        return outcome[0]

    def close(self) -> None:
        """Have the thread end when it has done what was asked before.

        It is not waited for: whoever asked for that may need the event loop, which is where we are.
        """
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
