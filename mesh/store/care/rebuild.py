"""The index thrown away and made anew from the log."""

from __future__ import annotations

import errno
import sqlite3
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from mesh.store.care.salvage import NOTHING, salvage
from mesh.store.faults import IndexDamaged, translated
from mesh.store.files import Files
from mesh.store.layout import DIRECTORIES
from mesh.store.log.index import Index
from mesh.store.log.recovery import NOWHERE, Found, is_of_this_log, no_progress, recover, unfit


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


def rebuild(
    files: Files,
    path: Path,
    progress: Callable[[int, int], None],
    comparing: Callable[[int, int], None] = no_progress,
) -> str:
    """Rebuild the index of a store that nobody has open; in a line, what was found.

    The new index takes the place of the old one when it is whole. Before that, what only the old
    one knows is written to the log: see `salvage`. `progress` is told how many bytes of the log
    were read, and of how many; `comparing` then how many blobs of the old index were looked for in
    the log, and of how many. When it is broken off, the old index is still there.
    """
    with translated("cannot rebuild the index", path):
        check_index_files(path)
        for directory in DIRECTORIES:
            files.make_directory(directory)
        fresh = unfinished(path)
        check_index_files(fresh)
        remove_index(fresh)
        try:
            said = _built(files, path, fresh, progress, comparing)
            _replace(fresh, path)
        except BaseException:
            # What is left of it would take room that a full disk does not have.
            with suppress(OSError):
                remove_index(fresh)
            raise
    return said


def unfinished(path: Path) -> Path:
    """Where a new index is made, before it takes the place of the one at `path`."""
    return path.with_suffix(".new")


def _built(
    files: Files,
    path: Path,
    fresh: Path,
    progress: Callable[[int, int], None],
    comparing: Callable[[int, int], None],
) -> str:
    """Make a whole new index at `fresh`; in a line, what was found."""
    with ExitStack() as stack:
        old, good = _opened(files, path)
        if old is not None:
            stack.callback(old.close)
        index = Index(str(fresh), write=True)
        stack.callback(index.close)
        mark = old.state().mark if old is not None and good else NOWHERE
        found = recover(files, index, progress, mark)
        if old is not None:
            saved = salvage(files, old, trusted=good, beside=index, progress=comparing)
            if saved != NOTHING:
                found = found.and_then(recover(files, index))
        if old is not None and good:
            index.take_times(old)
        blobs, (wanted, _) = index.state().blobs, index.wanted(0)
        index.settle()
    return note("index rebuilt; ", found, 0, blobs) + (f", {wanted} wanted" if wanted else "")


def _opened(files: Files, path: Path) -> tuple[Index | None, bool]:
    """The index that is there, if it can be opened, and whether it is good and of this log."""
    if not path.exists():
        return None, False
    try:
        index = Index(str(path), write=False)
    except (sqlite3.DatabaseError, IndexDamaged):
        return None, False
    with ExitStack() as stack:
        stack.callback(index.close)
        good = is_good(index)
        if good and unfit(files, index) and not is_of_this_log(files, index):
            return None, False
        stack.pop_all()
        return index, good


def is_good(index: Index) -> bool:
    """Whether an index is what was written; looks at everything in it."""
    try:
        index.check()
        for _ in index.digests():
            pass
    except (sqlite3.DatabaseError, IndexDamaged):
        return False
    return True


def _replace(fresh: Path, path: Path) -> None:
    """Put a closed index in the place of another one, which may be there, in one step."""
    for suffix in ("-wal", "-shm"):  # of the old one: SQLite would apply them to the new one
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    fresh.replace(path)


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
