"""The index thrown away and made anew from the log."""

from __future__ import annotations

import errno
import sqlite3
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from mesh.core.digest import DIGEST_SIZE, Digest
from mesh.store.base import Wanted
from mesh.store.faults import IndexDamaged, translated
from mesh.store.files import Files
from mesh.store.layout import DIRECTORIES
from mesh.store.log.index import Index
from mesh.store.log.recovery import NOWHERE, Found, recover, unfit

_UNREADABLE = "the log does not tell any more where it stands"


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

    The new index takes the place of the old one when it is whole: what a good old one knows, and
    the log does not tell any more, is wanted. `progress` is told how many bytes of the log were
    read, and of how many. When it is broken off, the old index is still there.
    """
    with translated("cannot rebuild the index", path):
        check_index_files(path)
        for directory in DIRECTORIES:
            files.make_directory(directory)
        with ExitStack() as stack:
            fresh = path.with_suffix(".new")
            check_index_files(fresh)
            remove_index(fresh)
            old = _good(files, path)
            mark = NOWHERE
            if old is not None:
                stack.callback(old.close)
                mark = old.state().mark
            index = Index(str(fresh), write=True)
            stack.callback(index.close)
            found = recover(files, index, progress, mark)
            if old is not None:
                _want_what_is_gone(old, index)
            blobs, (wanted, _) = index.state().blobs, index.wanted(0)
        _replace(fresh, path)
    return note("index rebuilt; ", found, 0, blobs) + (f", {wanted} wanted" if wanted else "")


def _good(files: Files, path: Path) -> Index | None:
    """The index that is there, unless it is damaged, or not one of this log."""
    if not path.exists():
        return None
    with ExitStack() as stack:
        try:
            index = Index(str(path), write=False)
            stack.callback(index.close)
            index.check()
            for _ in index.digests():
                pass
            if unfit(files, index):
                return None
        except (sqlite3.DatabaseError, IndexDamaged):
            return None
        stack.pop_all()
        return index


def _want_what_is_gone(old: Index, index: Index) -> None:
    """Want what was here or wanted by the old index, and is neither by the new one."""
    for each in old.wanted(-1)[1]:
        _want(index, [each])
    for joined in old.digests():
        parts = range(0, len(joined), DIGEST_SIZE)
        digests = [Digest(joined[at : at + DIGEST_SIZE]) for at in parts]
        _want(index, [Wanted(digest, _UNREADABLE, 0.0) for digest in digests])


def _want(index: Index, wanted: Sequence[Wanted]) -> None:
    gone = index.unknown([each.digest for each in wanted])
    new = [w for w in wanted if w.digest in gone and not index.is_wanted(w.digest)]
    if new:
        index.change((), (), new, index.state().mark)


def _replace(fresh: Path, path: Path) -> None:
    """Put a closed index in the place of another one, which may be there, in one step."""
    for suffix in ("-wal", "-shm"):  # of the old one: without them it is older, and still good
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
