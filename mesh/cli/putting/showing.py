"""`put --dry-run`: what would be put."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mesh.cli.putting.printing import Printer
from mesh.cli.putting.standard_input import STDIN
from mesh.cli.walk import Found, FoundFile, Skipped, Unreadable


def show(paths: Sequence[str], walked: Callable[[str], Iterator[Found]], printer: Printer) -> bool:
    """A line for each file that would be put: its size and its name. Nothing is read.

    Returns whether everything could be looked at.
    """
    good = True
    for path in paths:
        if path == STDIN:
            printer.size(None, STDIN.encode())
            continue
        for found in walked(path):
            match found:
                case FoundFile():
                    printer.size(found.size, found.source)
                case Skipped():
                    printer.skipped(found.source, found.reason)
                case Unreadable():
                    good = False
                    printer.failed(found.source, found.reason)
    return good
