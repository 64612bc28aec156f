"""`--exclude`: patterns of what is left out of a tree.

A pattern is matched against paths below the directory that is put. Without a "/" it is matched
against each name, wherever it is (`*.o`, `.git`). With one it is matched against the whole path,
from that directory on (`/build`, `docs/*.pdf`). `*` and `?` match no "/", `**` matches anything,
`[a-z]` one character. What matches is left out with all that is below it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

from mesh.errors import InputError, printable

# Of a file of patterns. What has more is no such file, and a device may have no end.
_MOST_BYTES = 1024 * 1024


def inclusion(globs: Iterable[str]) -> Callable[[bytes], bool]:
    """Whether a path, or a directory that it is in, is matched by one of `globs`.

    InputError for a pattern that cannot be one.
    """
    matched = exclusion(globs, ())

    def included(path: bytes) -> bool:
        names = path.split(b"/")
        return any(matched(b"/".join(names[:end])) for end in range(len(names), 0, -1))

    return included


def exclusion(globs: Iterable[str], files: Iterable[str]) -> Callable[[bytes], bool]:
    """Whether a path is left out by one of `globs`, or by a line of one of `files`.

    InputError for a file that cannot be read, or a pattern that cannot be one.
    """
    patterns = [_pattern(os.fsencode(text)) for text in globs]
    for file in files:
        patterns += [_pattern(line) for line in _lines(file)]

    def excluded(path: bytes) -> bool:
        return any(pattern.fullmatch(path) for pattern in patterns)

    return excluded


def _lines(file: str) -> list[bytes]:
    """The patterns in a file, one a line; blank lines and those that begin with # are none."""
    try:
        with open(file, "rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {printable(file)}: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise InputError(f"{printable(file)} has more than {_MOST_BYTES} bytes; expected patterns")
    return [line for line in data.splitlines() if line.strip() and not line.startswith(b"#")]


def _pattern(glob: bytes) -> re.Pattern[bytes]:
    text = glob.rstrip(b"/")
    if not text.strip(b"/"):
        raise InputError(f"the pattern {os.fsdecode(glob)!a} matches everything or nothing")
    anchored = b"/" in text
    inside = b"".join(_part(part) for part in _PARTS.findall(text.lstrip(b"/")))
    try:
        return re.compile((b"" if anchored else b"(?:.*/)?") + inside, re.DOTALL)
    except re.error as error:
        raise InputError(f"bad pattern {os.fsdecode(glob)!a}: {error}") from error


_PARTS = re.compile(rb"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)

_MEANINGS = {b"**/": b"(?:.*/)?", b"**": b".*", b"*": b"[^/]*", b"?": b"[^/]"}


def _part(part: bytes) -> bytes:
    """The regular expression for a part of a pattern."""
    if part in _MEANINGS:
        return _MEANINGS[part]
    if len(part) == 1:
        return re.escape(part)
    letters = part[1:-1].replace(b"\\", b"\\\\").replace(b"[", b"\\[")
    if letters.startswith(b"!"):
        return b"(?!/)[^" + letters[1:].replace(b"]", b"\\]") + b"]"
    if letters.startswith(b"^"):
        letters = b"\\" + letters
    return b"(?!/)[" + letters.replace(b"]", b"\\]") + b"]"
