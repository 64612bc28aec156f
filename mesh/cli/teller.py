"""What a command says while it works and when it has ended: to a person, a log or a program.

What is for a person is said through the Teller, which is silent about it where a program reads. A
bar is never torn, whoever writes: it leaves its line first (bar.py). Nothing of it is loaded before
it is shown.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from mesh.cli.forms import Form
from mesh.cli.progress import Meter, Progress, View
from mesh.errors import MeshError, innermost, one_line

if TYPE_CHECKING:
    from mesh.cli.bar import Bar

T = TypeVar("T")

# Seconds: a command that is over sooner shows nothing.
_PATIENCE = 1.0

# Seconds from one look of a bar to the next. Ten a second look smooth and cost a percent of a core.
_FRAME = 0.1

# Seconds from one event for a program to the next, and from one line in a log.
_EVENT = 1.0
_LINE = 10.0

# Errors that the object at the end has in full: enough to see what is wrong. All are on stderr.
_ERRORS = 100


class _Display:
    """Something that shows how far it is, from `first` seconds on and then every so many."""

    def __init__(self, show: Callable[[View], None], first: float, every: float) -> None:
        self._show = show
        self._due = first
        self._every = every

    def look(self, view: View) -> None:
        if view.seconds >= self._due:
            self._due = view.seconds + self._every
            self._show(view)


class Teller:
    """For one command, in one thread; a context, which ends with the object for `--json`.

    The object is that of `ended`. When a MeshError or OSError leaves the context, it says so.
    """

    def __init__(
        self,
        form: Form,
        command: str,
        unit: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`unit`: what is counted beside bytes: files or blobs. `clock` in seconds."""
        self._form = form
        self._command = command
        self._unit = unit
        self._clock = clock
        self._began = self._sampled = clock()
        self._meter = Meter(self._began)
        self._progress: Progress | None = None
        self._bar: Bar | None = None
        # Whether a person looks at standard output, and waits for each line.
        self._seen = sys.stdout.isatty()
        self._errors: list[str] = []
        self._failed = 0
        self._end: dict[str, Any] = {}
        self._displays = list(self._chosen())

    def _chosen(self) -> list[_Display]:
        displays: list[_Display] = []
        form = self._form
        if form.lines:
            displays.append(_Display(self._show_event, _PATIENCE, _EVENT))
        if form.quiet:
            return displays
        if _takes_bars():
            displays.append(_Display(self._show_bar, _PATIENCE, _FRAME))
        elif form.progress or sys.stderr.isatty():
            displays.append(_Display(self._show_line, _LINE, _LINE))
        return displays

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.hide()
        if not self._form.machine:
            return
        if error is not None:
            first = innermost(error)
            if not isinstance(first, MeshError | OSError) or isinstance(first, BrokenPipeError):
                return  # a signal, a bug, or nobody who reads: there is no outcome to tell
            self._remember(one_line(first))
            self._end["ok"] = False
        self._object("summary", **self._end, errors=self._errors, failed=self._failed)

    # --- how far it is -------------------------------------------------------------------------

    @property
    def watched(self) -> bool:
        """Whether anybody sees how far it is: otherwise nobody need find out."""
        return bool(self._displays)

    @property
    def for_program(self) -> bool:
        """Whether standard output is for a program."""
        return self._form.machine

    @property
    def keeps(self) -> bool:
        """Whether the object at the end has all that was put, since no event told of it."""
        return self._form.json

    def update(self, progress: Progress) -> None:
        """It is so far now. Cheap: call it as often as something is done."""
        self._progress = progress
        self.tick()

    def tick(self) -> None:
        """Time has passed."""
        if not self._displays or self._progress is None:
            return
        now = self._clock()
        if now < self._sampled + _FRAME:
            return
        self._sampled = now
        view = self._meter.add(now, self._progress)
        for display in self._displays:
            display.look(view)

    async def over(
        self, work: Callable[[], Awaitable[T]], look: Callable[[], Progress] | None = None
    ) -> T:
        """The outcome of `work()`; meanwhile time passes, also when nothing is done.

        `look` is asked how far it is, for work that does not say so itself.
        """
        if not self._displays:
            return await work()
        from mesh.racing import beside

        return await beside(partial(self._ticking, look), work)

    async def _ticking(self, look: Callable[[], Progress] | None) -> None:
        import anyio

        while True:
            await anyio.sleep(_FRAME)
            if look is not None:
                self._progress = look()
            self.tick()

    # --- what is said --------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """What was asked for, on standard output; with `--json` nobody asked for text."""
        if self._form.machine:
            return
        sys.stdout.buffer.write(data)
        if self._seen:
            sys.stdout.buffer.flush()

    def line(self, text: str) -> None:
        """The same, a line of text."""
        self.write(text.encode(sys.stdout.encoding, "backslashreplace") + b"\n")

    def said(self, text: str) -> None:
        """A line on standard output about what was done; not with `--quiet`."""
        if not self._form.quiet:
            self.line(text)

    def note(self, text: str) -> None:
        """A line on stderr that is good to know."""
        if not self._form.quiet:
            print(text, file=sys.stderr)

    def error(self, text: str) -> None:
        """A line on stderr about something that could not be done."""
        self._remember(text)
        print(f"mesh: {text}", file=sys.stderr)
        self.event("error", error=text)

    def event(self, name: str, **fields: Any) -> None:
        """A line for `--json-lines`."""
        self.events(name, [fields])

    def events(self, name: str, many: Iterable[dict[str, Any]]) -> None:
        """Lines for `--json-lines`, in one write."""
        if self._form.lines:
            self._objects(name, many)

    def flush(self) -> None:
        """Show what was written, to whoever waits for it."""
        sys.stdout.buffer.flush()

    def ended(self, *, ok: bool, **fields: Any) -> None:
        """How it went, for the object at the end."""
        self._end = {"ok": ok, **fields}

    def _remember(self, text: str) -> None:
        self._failed += 1
        if len(self._errors) < _ERRORS:
            self._errors.append(text)

    # --- the displays --------------------------------------------------------------------------

    def _show_bar(self, view: View) -> None:
        if self._bar is None:
            from mesh.cli.bar import Bar

            self._bar = Bar(sys.stderr, self._unit, [sys.stdout])
        self._bar.show(view)

    def _show_line(self, view: View) -> None:
        words = view.numbers(self._unit).replace("  ", ", ")
        print(f"mesh: {view.progress.what}: {words}", file=sys.stderr)

    def _show_event(self, view: View) -> None:
        progress = view.progress
        self._object(
            "progress",
            doing=progress.what,
            unit=self._unit,
            done=progress.count,
            total=progress.total,
            bytes=progress.bytes,
            total_bytes=progress.total_bytes,
            bytes_per_second=view.rate,
            seconds_left=view.left,
        )

    def _object(self, name: str, **fields: Any) -> None:
        self._objects(name, [fields])

    def _objects(self, name: str, many: Iterable[dict[str, Any]]) -> None:
        seconds = round(self._clock() - self._began, 3)
        head = {"event": name, "command": self._command, "seconds": seconds}
        lines = [msgspec.json.encode({**head, **fields}) + b"\n" for fields in many]
        sys.stdout.buffer.write(b"".join(lines))
        sys.stdout.flush()


def _takes_bars() -> bool:
    """Whether stderr is a terminal whose cursor can be moved."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")
