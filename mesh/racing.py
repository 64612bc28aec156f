"""Work with something beside it that ends with it, or ends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from anyio import CancelScope, create_task_group

T = TypeVar("T")


async def beside(
    task: Callable[[], Coroutine[Any, Any, None]], work: Callable[[], Awaitable[T]]
) -> T:
    """The outcome of `work()`, beside which `task()` runs; what is left of `task` is cancelled.

    An error leaves `work` as it is. A task group alone would wrap it in a group of errors, which no
    caller expects, and which nobody could tell from a group that `work` itself has raised.
    """
    outcome: list[T] = []
    held = _Held()
    async with create_task_group() as group:
        group.start_soon(task)
        with held:
            outcome.append(await work())
        group.cancel_scope.cancel()
    if held.error is not None:
        raise held.error
    return outcome[0]


class _Held:
    """A block whose error is kept, to be raised where it is not wrapped."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Keep an error; not a cancellation, nor what ends the program."""
        if isinstance(error, Exception):
            self.error = error
        return self.error is not None


async def unless(
    happens: Callable[[], Awaitable[None]],
    work: Callable[[], Awaitable[T]],
    ended: Callable[[], Exception],
) -> T:
    """The outcome of `work()`; `ended()` is raised when `happens()` returns before, and ends it."""
    with CancelScope() as scope:

        async def watch() -> None:
            await happens()
            scope.cancel()

        return await beside(watch, work)
    raise ended()


class Ungrouped:
    """A block whose error leaves it as it was raised, also when a task group has wrapped it.

    For what programs call: they wait for the error of their own code, or for one of ours, and not
    for a group of errors with one member. A group of several stays one.
    """

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Raise the only member of a group in its place."""
        alone = error
        while isinstance(alone, BaseExceptionGroup) and len(alone.exceptions) == 1:
            (alone,) = alone.exceptions
        if alone is not None and alone is not error:
            raise alone from alone.__cause__
