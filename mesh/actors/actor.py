"""What all actors share: being supervised, and answering exactly once."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from random import Random
from typing import Generic, TypeVar

import anyio

from mesh.errors import MeshError, one_line

log = logging.getLogger("mesh")

T = TypeVar("T")

# A bug that strikes at once must not turn into a busy loop; one that struck once should not keep
# an actor away for long.
_RESTART_FIRST = 0.1
_RESTART_CAP = 30.0
_CALM = 60.0  # after this long without a crash the next one counts as the first


class Reply(Generic[T]):
    """An answer that somebody waits for. The first `set` or `fail` counts."""

    def __init__(self) -> None:
        self._done = anyio.Event()
        self._value: T | None = None
        self._error: Exception | None = None

    def set(self, value: T) -> None:
        """Answer."""
        if not self._done.is_set():
            self._value = value
            self._done.set()

    def fail(self, error: Exception) -> None:
        """Answer with an error."""
        if not self._done.is_set():
            self._error = error
            self._done.set()

    async def wait(self) -> T:
        """The answer; raises the error that was given instead."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # set() gave it, None included


async def supervise(name: str, run: Callable[[], Awaitable[None]], random: Random) -> None:
    """Run an actor until it returns; after a crash, log it and start it again.

    One actor's bug is one actor's restart: the others live on. This is the only place in the
    package that catches everything.
    """
    crashes = 0
    while True:
        began = anyio.current_time()
        try:
            await run()
        except Exception as error:  # the supervisor's one broad except
            if anyio.current_time() - began > _CALM:
                crashes = 0
            crashes += 1
            if isinstance(error, MeshError):
                log.error("%s failed: %s; restarting it", name, one_line(error))
            else:
                log.exception("%s crashed; restarting it", name)
            ceiling = min(_RESTART_CAP, _RESTART_FIRST * 2.0 ** min(crashes, 16))
            await anyio.sleep(random.uniform(ceiling / 2, ceiling))
        else:
            return
