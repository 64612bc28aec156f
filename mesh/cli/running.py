"""Run a client command so that every way to end it tidies up."""

from __future__ import annotations

import gc
import signal
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import TypeVar

from mesh.cli.streams import Outlet, claim

T = TypeVar("T")

# What ends a command as Ctrl-C does: a service manager, `timeout`, `kill`, a terminal that goes.
_ENDINGS = (signal.SIGTERM, signal.SIGHUP)

# How many objects come before Python looks for cycles, once all is loaded (see __main__.py): as by
# default.
_COLLECT = (700, 10, 10)


# The exit code after Ctrl-C.
INTERRUPTED = 128 + signal.SIGINT


def loaded() -> None:
    """What a command needs is loaded, and stays: garbage is looked for among the rest, as ever."""
    gc.freeze()
    gc.set_threshold(*_COLLECT)


class Runner:
    """Runs client commands; knows where they write."""

    def __init__(self) -> None:
        self._output: Outlet | None = None
        self._ended_by = signal.SIGINT

    def claim(self) -> None:
        """Take over the standard streams. Called once, before anything else is done."""
        self._output = claim()

    def run(self, command: Callable[..., Awaitable[T]], *args: object) -> T:
        """The outcome of `command(*args)`.

        A signal cancels the command, which removes what it has begun. SystemExit follows, with
        128 and the signal's number as its code, which is what a shell says of a killed process.
        """
        for number in _ENDINGS:
            # `nohup` has SIGHUP ignored, and that stays so.
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._end)
        import anyio  # here, since the help of a command needs no event loop

        loaded()
        try:
            return anyio.run(command, *args)
        except KeyboardInterrupt:
            if self._output is not None:
                self._output.abandon()
            raise SystemExit(128 + self._ended_by) from None

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self._ended_by = signal.Signals(number)
        if self._output is not None and self._output.blocked:
            # The event loop does not run while a reader is waited for.
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)
