"""Finds what lies in a data directory and is not ours. The log names it; nobody touches it."""

from __future__ import annotations

import re
from collections.abc import Callable

from mesh.store.files import Files, Listed
from mesh.store.layout import PARTIAL
from mesh.store.log.segments import segment_number

# What a node makes there, and what a file system has at its own root.
OURS = {
    "segments", "large", "tmp", "damaged", PARTIAL, "node.json", "node.new", "lock",
    "peers.json", "peers.new", "control.key", "control.new",
    "index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "index.sqlite-journal", "lost+found",
    "index.new", "index.new-wal", "index.new-shm",
}  # fmt: skip

_PARTIAL = re.compile(r"[0-9a-f]{64}(\.log)?", re.ASCII)
_BUCKET = re.compile(r"[0-9a-f]{2}", re.ASCII)

# In large/ only the first level is looked at: a start takes no time for each large blob there is.
_EXPECTED: dict[str, Callable[[Listed], bool]] = {
    "": lambda entry: entry.name in OURS,
    "segments": lambda entry: bool(entry.regular and segment_number(entry.name)),
    "large": lambda entry: bool(not entry.regular and _BUCKET.fullmatch(entry.name)),
    "tmp": lambda entry: entry.regular,
    PARTIAL: lambda entry: bool(entry.regular and _PARTIAL.fullmatch(entry.name)),
}

_SHOWN = 5


def strangers(files: Files) -> str:
    """In words, what is not ours: foreign files, and links or pipes in our files' places."""
    found = [
        f"{folder}/{entry.name}".lstrip("/")
        for folder, ours in _EXPECTED.items()
        for entry in files.list(folder)
        if not ours(entry)
    ]
    if not found:
        return ""
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{len(found)} foreign entries ignored: {', '.join(found[:_SHOWN])}{more}"
