"""The absolute path of what was typed: what snapshots and the record know a place by."""

from __future__ import annotations

import os

from mesh.errors import InputError


def absolute(path: str | bytes) -> bytes:
    """`path` from the root on, by its names alone: no link is looked at.

    InputError when it begins in the current directory, and that has been removed.
    """
    try:
        named = os.path.abspath(os.fsencode(path))
    except FileNotFoundError as error:
        raise InputError(
            "the current directory has been removed; change to one that is there"
        ) from error
    # POSIX lets "//" at the beginning mean something else; on Linux it is the root.
    return b"/" + named.lstrip(b"/")
