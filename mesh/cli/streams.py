"""Standard input, output and error, whatever the shell made of them.

Everything that a command writes, data and messages alike, goes through an Outlet of this module:
`claim` puts one behind `sys.stdout` and one behind `sys.stderr`, so that `print`, typer and rich
use them too. An Outlet writes all of what it gets or raises: a raw file of Python's, which is what
PYTHONUNBUFFERED makes of standard output, may write a part and say so in a number that nobody
reads.

A stream that is closed when the process starts is replaced by /dev/null at once. Otherwise the
next file that is opened, such as the target of `get -o`, gets its number, and a message for
standard error lands in the data.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from mesh.errors import InputError

_CLOSED: set[int] = set()

_NEWLINE = ord("\n")


class Outlet(io.RawIOBase):
    """A descriptor to write to. After one failure it takes everything and writes nothing.

    The failure is raised once, so that it is also said once, and not again when Python ends.

    A quiet one is for messages, whose failure cannot be said elsewhere. It loses what it could not
    write and nothing else: the disk of a node's log may be full for an hour, and the node runs on
    for a year. A line that was cut short is ended before the next one.
    """

    def __init__(self, descriptor: int, *, quiet: bool = False) -> None:
        """`quiet`: for messages."""
        super().__init__()
        self._descriptor = descriptor
        self._quiet = quiet
        self._failed = False
        # Whether the last that was written is the beginning of a line whose rest is lost.
        self._cut = False
        self.blocked = False
        self.written = 0
        # Called before anything is written: a bar leaves its line to what comes.
        self.before: Callable[[], None] | None = None

    def writable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether somebody looks at it."""
        return os.isatty(self._descriptor)

    def abandon(self) -> None:
        """Write nothing more: the command has ended, and its reader may take nothing for hours."""
        self._failed = True

    def write(self, data: Any) -> int:
        """Write all of `data`, waiting for a reader where need be. OSError when that fails."""
        if self.before is not None:
            self.before()
        whole = memoryview(data).cast("B")
        self.blocked = True
        try:
            if self._cut:
                self._all(memoryview(b"\n"))
                self._cut = False
            self._all(whole)
        except OSError:
            if not self._quiet:
                self._failed = True
                raise
        finally:
            self.blocked = False
        return len(whole)

    def _all(self, data: memoryview) -> None:
        while data and not self._failed:
            written = self._some(data)
            self._cut = self._quiet and 0 < written < len(data) and data[written - 1] != _NEWLINE
            data = data[written:]

    def _some(self, data: memoryview) -> int:
        try:
            written = os.write(self._descriptor, data)
        except BlockingIOError:
            # Whoever shares the descriptor has made it non-blocking: wait as if he had not.
            select.select([], [self._descriptor], [])
            return 0
        self.written += written
        return written


def claim() -> Outlet:
    """Take over the three streams, once, before anything is opened. Returns standard output."""
    _CLOSED.clear()
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            _CLOSED.add(descriptor)
            # The lowest free number is taken: this one.
            os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
    output = Outlet(1)
    sys.stdout = _text(output, sys.stdout)
    sys.stderr = _text(Outlet(2, quiet=True), sys.stderr)
    return output


def outlet_of(stream: TextIO) -> Outlet | None:
    """The Outlet behind a stream; None where `claim` has not put one there."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, Outlet) else None


def is_closed(descriptor: int) -> bool:
    """Whether a standard stream was closed when the process started."""
    return descriptor in _CLOSED


def _text(outlet: Outlet, before: TextIO | None) -> TextIO:
    # A name that is not UTF-8 is shown escaped rather than refused.
    encoding = before.encoding if before is not None else "utf-8"
    watched = outlet.isatty() or outlet.fileno() == 2
    return io.TextIOWrapper(
        io.BufferedWriter(outlet, 64 * 1024),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=watched,
    )


class Input:
    """Standard input as chunks. A pause of who writes it takes no thread and can be cancelled."""

    def __init__(self, size: int) -> None:
        """`size`: bytes of a chunk at most. InputError when standard input is closed."""
        if is_closed(0):
            raise InputError("standard input is closed; there is nothing to read")
        self._size = size

    def __aiter__(self) -> Input:
        """Itself."""
        return self

    async def __anext__(self) -> bytes:
        """The next chunk. OSError when it cannot be read."""
        import anyio  # here, since most commands read no standard input

        # A file is always readable, and epoll does not take it.
        with suppress(PermissionError):
            await anyio.wait_readable(0)
        while True:
            try:
                chunk = await anyio.to_thread.run_sync(os.read, 0, self._size)
            except BlockingIOError:
                await anyio.wait_readable(0)
                continue
            if not chunk:
                raise StopAsyncIteration
            return chunk
