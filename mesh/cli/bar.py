"""The bar: one line of a terminal that is written again and again. Loads rich."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mesh.cli.progress import View, time_text
from mesh.cli.streams import Outlet, outlet_of
from mesh.cli.words import size_text

# A bar that is shorter shows nothing; then the numbers have the line to themselves.
_SHORTEST, _LONGEST = 8, 40

# Of a terminal that does not say how wide it is.
_COLUMNS = 80

_CLEAR = "\r\x1b[K"


class Bar:
    """Owns the last line of a terminal while it is shown, and leaves it to whatever is written."""

    def __init__(self, file: TextIO, unit: str, others: Sequence[TextIO]) -> None:
        """`unit`: what is counted beside bytes: files or blobs.

        `others`: what else is written to. Where that is a terminal, it is taken for the same one.
        """
        self._file = file
        # A way of its own to the terminal: the other one asks the bar to leave.
        self._out = Outlet(file.fileno(), quiet=True)
        self._unit = unit
        self._shown = False
        for stream in (file, *others):
            outlet = outlet_of(stream)
            if outlet is not None and outlet.isatty():
                outlet.before = self.hide

    def show(self, view: View) -> None:
        """Draw it anew."""
        console = Console(file=self._file, width=self._columns(), highlight=False)
        with console.capture() as drawn:
            console.print(self._line(view, console.width), end="", no_wrap=True, crop=True)
        self._write(_CLEAR + drawn.get().rstrip("\n"))
        self._shown = True

    def hide(self) -> None:
        """Give the line back, empty."""
        if self._shown:
            self._shown = False
            self._write(_CLEAR)

    def _write(self, text: str) -> None:
        self._out.write(text.encode(self._file.encoding, "replace"))

    def _columns(self) -> int:
        """One less than there are: a line that fills a terminal moves its cursor to the next."""
        try:
            columns = os.get_terminal_size(self._file.fileno()).columns
        except OSError:
            columns = 0
        return (columns or _COLUMNS) - 1

    def _line(self, view: View, width: int) -> Table:
        progress = view.progress
        words = _fitting(_parts(view, self._unit), width - len(progress.what) - _SHORTEST - 2)
        room = width - len(progress.what) - len(words) - 2
        line = Table.grid(padding=(0, 1, 0, 0))
        cells: list[Text | ProgressBar] = [Text(progress.what)]
        if room >= _SHORTEST:
            done, total = progress.part
            bar = ProgressBar(
                total=total,
                completed=done,
                width=min(room, _LONGEST),
                pulse=total is None,
                animation_time=view.seconds,
            )
            cells.append(bar)
        cells.append(Text(words))
        for _ in cells:
            line.add_column(no_wrap=True)
        line.add_row(*cells)
        return line


def _parts(view: View, unit: str) -> dict[str, str]:
    """What a bar says beside itself, shorter than a line of a log: 1.5/3.0 GiB."""
    progress = view.progress
    parts: dict[str, str] = {}
    if progress.bytes is not None:
        done, total = size_text(progress.bytes), progress.total_bytes
        if total is not None:
            whole = size_text(total)
            number, of = done.split(), whole.split()
            done = f"{number[0] if number[1] == of[1] else done}/{whole}"
        parts["bytes"] = done
    if progress.count is not None:
        total_count = "" if progress.total is None else f"/{progress.total}"
        parts["count"] = f"{progress.count}{total_count} {unit}"
    if view.rate is not None:
        parts["rate"] = f"{size_text(view.rate)}/s"
    if view.left is not None:
        parts["left"] = f"{time_text(view.left)} left"
    return parts


def _fitting(parts: dict[str, str], room: int) -> str:
    """As many of the parts as have room, in their order; the count goes first, then the rate."""
    for gone in ("", "count", "rate", "left"):
        parts.pop(gone, None)
        words = "  ".join(parts.values())
        if len(words) <= room:
            break
    return words
