"""The index thrown away and made anew from the log."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mesh.store.faults import translated
from mesh.store.files import Files
from mesh.store.layout import DIRECTORIES
from mesh.store.log.index import Index
from mesh.store.log.recovery import Found, recover


def remove_index(path: Path) -> None:
    """Remove SQLite's files; nobody may have them open."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def check_index_files(path: Path) -> None:
    """OSError when one of SQLite's files is a link or no file: SQLite would write through it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        name = f"{path}{suffix}"
        with suppress(FileNotFoundError):
            mode = Path(name).stat(follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                raise OSError(errno.ELOOP, "is a symbolic link", name)
            if not stat.S_ISREG(mode):
                raise OSError(errno.EISDIR, "is not a file", name)


def rebuild(files: Files, path: Path, progress: Callable[[int, int], None]) -> str:
    """Rebuild the index of a store that nobody has open; in a line, what was found.

    `progress` is told how many bytes of the log were read, and of how many. When it is broken off,
    the next start, or another rebuild, goes on from there.
    """
    with translated("cannot rebuild the index", path):
        check_index_files(path)
        for directory in DIRECTORIES:
            files.make_directory(directory)
        remove_index(path)
        index = Index(str(path), write=True)
        try:
            found = recover(files, index, progress)
            blobs, (wanted, _) = index.state().blobs, index.wanted(0)
        finally:
            index.close()
    return note("index rebuilt; ", found, 0, blobs) + (f", {wanted} wanted" if wanted else "")


def note(why: str, found: Found, swept: int, blobs: int) -> str:
    """What a start or a rebuild found and did, in a line."""
    parts = [f"{blobs} blobs"]
    if found.adopted:
        parts.append(f"{found.adopted} adopted from the log")
    if found.cut:
        parts.append(f"{found.cut} bytes of an unfinished write cut")
    if found.damaged:
        parts.append(f"{found.damaged} damaged bytes left where they are")
    if swept:
        parts.append(f"{swept} unfinished uploads removed")
    return why + ", ".join(parts)
