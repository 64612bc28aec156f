"""Blocking work, away from the event loop: threads in a node, inline in a simulation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
from anyio import create_task_group

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


class _Call(Generic[T]):
    """A call for a thread, and what came of it."""

    def __init__(self, func: Callable[..., T], args: tuple[Any, ...]) -> None:
        self._func = func
        self._args = args
        self._outcome: list[T] = []
        self._failure: BaseException | None = None
        # Held from the beginning of the call to its end; and by whoever takes it back before.
        self._taken = threading.Lock()
        self.ended = threading.Event()

    def __call__(self) -> None:
        """Made on the thread, unless it was taken back."""
        if not self._taken.acquire(blocking=False):
            return
        try:
            self._outcome.append(self._func(*self._args))
        except BaseException as error:  # noqa: BLE001 - carried over to the caller, whole
            self._failure = error
        self.ended.set()

    def take_back(self) -> bool:
        """Whether the call had not begun, and will not."""
        return self._taken.acquire(blocking=False)

    def result(self) -> T:
        """What it returned; its error is raised here."""
        if self._failure is not None:
            raise self._failure
        return self._outcome[0]


def _then(call: _Call[Any], done: Callable[[], None], token: Any) -> Callable[[], None]:
    """`call`, for a thread that is not anyio's, and then `done` on the event loop of `token`."""

    def work() -> None:
        call()
        with suppress(anyio.RunFinishedError):  # nobody waits any more
            anyio.from_thread.run_sync(done, token=token)

    return work


async def _wait_for(call: _Call[Any]) -> None:
    """Return once a thread has done with `call`, whose caller is cancelled.

    A shield keeps anyio's cancellation away, and asyncio's own goes through it: Quart cancels the
    task of a request in that way when its client goes, and so may a program that has a node inside.
    The thread would go on alone, and write to a file that is closed meanwhile, whose number another
    file may have got. A task group takes that cancellation as well, and waits for its tasks.
    """
    if not call.ended.is_set() and not call.take_back():
        async with create_task_group() as group:
            group.start_soon(_ended, call)


async def _ended(call: _Call[Any]) -> None:
    with anyio.CancelScope(shield=True):
        # Not on a thread of the limit, all of which may be waited for in this way.
        await anyio.to_thread.run_sync(call.ended.wait, limiter=anyio.CapacityLimiter(1))


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
        call = _Call(func, args)
        try:
            await anyio.to_thread.run_sync(call, limiter=self._limiter)
        except BaseException:
            await _wait_for(call)
            raise
        return call.result()

    def close(self) -> None:
        """The threads are anyio's."""


class Reading:
    """Runs it on a thread of its own, which is left alone when the caller is cancelled.

    For reading what a user named, which changes nothing: a FIFO, or a file system that hangs, may
    keep the thread for ever, and must not keep anybody who waits for it, nor the process.
    """

    async def __call__(self, func: Callable[..., T], *args: Any) -> T:
        """func(*args) in a new thread."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        call = _Call(func, args)
        done = anyio.Event()
        work = _then(call, done.set, anyio.lowlevel.current_token())
        threading.Thread(target=work, name="mesh-reading", daemon=True).start()
        await done.wait()
        return call.result()

    def close(self) -> None:
        """Each thread ends with its call."""


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
        call = _Call(func, args)
        done = anyio.Event()
        answered = _then(call, done.set, anyio.lowlevel.current_token())
        self._calls.put(answered)
        try:
            with anyio.CancelScope(shield=True):
                await done.wait()
        except BaseException:
            await _wait_for(call)
            raise
        return call.result()

    def close(self) -> None:
        """Have the thread end when it has done what was asked before.

        It is not waited for: whoever asked for that may need the event loop, which is where we are.
        """
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
