"""`put --dry-run`: what would be put."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mesh.cli.putting.printing import print_line, tell
from mesh.cli.putting.standard_input import STDIN
from mesh.cli.walk import Found, FoundFile, Skipped, Unreadable


def show(paths: Sequence[str], walked: Callable[[str], Iterator[Found]]) -> bool:
    """A line for each file that would be put: its size and its name. Nothing is read.

    Returns whether everything could be looked at.
    """
    good = True
    for path in paths:
        if path == STDIN:
            print_line(f"{'?':>14}  ".encode(), STDIN.encode())
            continue
        for found in walked(path):
            match found:
                case FoundFile():
                    print_line(f"{found.size:>14}  ".encode(), found.source)
                case Skipped():
                    tell(found.source, f"{found.reason}; left out")
                case Unreadable():
                    good = False
                    tell(found.source, found.reason)
    return good
