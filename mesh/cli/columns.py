"""Lines that fit a terminal, whatever names and addresses are in them."""

from __future__ import annotations

from collections.abc import Iterator
from unicodedata import combining, east_asian_width

WIDTH = 80
"""Columns of a line: what every terminal, log and mail shows without breaking it."""


def columns(text: str) -> int:
    """How many columns a text takes: two for a wide character, none for one that combines."""
    if text.isascii():
        return len(text)
    return sum(_columns(c) for c in text)


def _columns(c: str) -> int:
    if combining(c):
        return 0
    return 2 if east_asian_width(c) in "WF" else 1


def folded(text: str, indent: str = "", width: int = WIDTH) -> list[str]:
    """`text` as lines of at most `width` columns; those after the first begin with `indent`.

    Lines break at spaces; a word that is longer than a line is broken where the line ends.
    """
    lines: list[str] = []
    line, space = "", ""
    for word in text.split(" "):
        if columns(line + space + word) <= width:
            line += space + word
        else:
            if line.strip():
                lines.append(line.rstrip())
            *full, line = _cut(word, indent if lines else line + space, indent, width)
            lines += full
        space = " "
    return [*lines, line.rstrip()]


def fitting(lines: list[str], rows: int, width: int) -> list[str]:
    """The first of `lines` that a terminal of so many rows and columns shows without scrolling.

    A line that is wider than the terminal takes several rows. Colours are counted as if they were
    seen, so that less is shown rather than too much; no line has more than WIDTH columns.
    """
    shown: list[str] = []
    for line in lines:
        rows -= max(1, -(-min(columns(line), WIDTH) // max(1, width)))
        if rows < 0:
            break
        shown.append(line)
    return shown


def _cut(word: str, first: str, indent: str, width: int) -> Iterator[str]:
    """A word that does not fit the line before it: on a line of its own, or on several."""
    line = first
    for c in word:
        if columns(line + c) > width:
            yield line
            line = indent
        line += c
    yield line
