"""What is in a directory, in a stable order and without following symbolic links.

The order is that of the whole paths as bytes, which is the order of a manifest. It is not the
order of a plain descent: "a-b" comes before "a/x", because "-" is less than "/".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec

from mesh.cli.stamp import stamp_of


class _At(msgspec.Struct, frozen=True):
    """Where something was found.

    `path` is relative to where the walk began, '/'-separated, and b"" for that place itself;
    `source` is the path to open it by. Both are bytes, as names on Linux are.
    """

    path: bytes
    source: bytes


class FoundFile(_At, frozen=True):
    """A regular file, and its stamp (stamp.py).

    It may have changed by the time it is opened: open it with O_NOFOLLOW.
    """

    mode: int
    size: int
    stamp: bytes


class FoundDirectory(_At, frozen=True):
    """A directory; what is in it follows later. The one where the walk began is not yielded."""

    mode: int


class FoundLink(_At, frozen=True):
    """A symbolic link, and what it says; whether that exists was not looked at."""

    target: bytes


class Skipped(_At, frozen=True):
    """Neither file nor directory nor link: a FIFO, a socket, a device."""

    reason: str


class Unreadable(_At, frozen=True):
    """What could not be looked at, and why.

    A directory that cannot be listed is yielded as FoundDirectory first and as this later.
    """

    reason: str


Found: TypeAlias = FoundFile | FoundDirectory | FoundLink | Skipped | Unreadable

# What the data directory of a node has (store/directory.py). To put one would store the blobs of a
# node in themselves, and hand its control key to everybody who can read the mesh.
_OF_A_NODE = (b"node.json", b"segments")

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def nothing(_path: bytes) -> bool:
    """Nothing is left out."""
    return False


def walk(
    path: Path | str,
    excluded: Callable[[bytes], bool] = nothing,
    *,
    one_file_system: bool = False,
) -> Iterator[Found]:
    """Everything below `path`, or `path` itself when it is not a directory.

    `path` may be a symbolic link and is followed then, because the user named it; no other link
    is. A str is taken as it was typed: a Path has lost its "./". `excluded` is asked for each
    path relative to `path` and leaves it out, with all below it. `one_file_system`: a directory
    on which another file system is mounted is yielded, and what is in it is not.
    The data directory of a node is passed by, as an Unreadable where it is `path` itself.
    Raises no OSError: what cannot be read is yielded as Unreadable, and the walk goes on.
    Memory: the names in the directories from `path` down to the current one, not the tree.
    """
    root = os.fsencode(path)
    try:
        status = os.stat(root)
    except OSError as error:
        yield Unreadable(b"", root, _reason(error))
        return
    if stat.S_ISDIR(status.st_mode):
        yield from _below(root, excluded, status.st_dev if one_file_system else None)
    else:
        yield _found(b"", root, status)


def _below(root: bytes, excluded: Callable[[bytes], bool], device: int | None) -> Iterator[Found]:
    # What is still to do, the next thing last. A key that ends in "/" (or is empty: the root)
    # says to list that directory; it sorts just where the directory's contents belong.
    pending = [b""]
    while pending:
        key = pending.pop()
        path = key.rstrip(b"/")
        source = os.path.join(root, path) if path else root
        try:
            if key == path and key:
                found = _found(path, source, os.lstat(source))
                if isinstance(found, FoundDirectory):
                    _expect(pending, key + b"/")
                yield found
            else:
                keys = _keys(key, source, device)
                if {key + name for name in _OF_A_NODE} <= set(keys):
                    kind = Skipped if path else Unreadable
                    yield kind(path, source, "is the data directory of a node")
                    continue
                pending.extend(key for key in keys if not excluded(key))
        except OSError as error:
            yield Unreadable(path, source, _reason(error))


def _expect(pending: list[bytes], listing: bytes) -> None:
    """Have a directory listed that was just found, and nothing else that once was one.

    What the directory above said of it may be long out of date. A file below something that is no
    directory would make a manifest impossible, and a directory that is not listed seems empty.
    Little is passed over: only names that go on with a character before "/", such as "-" or ".".
    """
    at = len(pending)
    while at and pending[at - 1] < listing:
        at -= 1
    pending.insert(at, listing)


def _keys(key: bytes, source: bytes, device: int | None) -> list[bytes]:
    """The keys of what is in the directory `source`, in reverse order.

    None of them when it is not on `device`, where that is given.
    """
    # Between being seen and being listed, a directory may have become a link to another one.
    directory = os.open(source, _LIST | os.O_NOFOLLOW if key else _LIST)
    try:
        if device is not None and os.fstat(directory).st_dev != device:
            return []
        keys = [key + os.fsencode(name) for name in os.listdir(directory)]
    finally:
        os.close(directory)
    keys.sort(reverse=True)
    return keys


def _found(path: bytes, source: bytes, status: os.stat_result) -> Found:
    mode = stat.S_IMODE(status.st_mode)
    match stat.S_IFMT(status.st_mode):
        case stat.S_IFREG:
            return FoundFile(path, source, mode, status.st_size, stamp_of(status))
        case stat.S_IFDIR:
            return FoundDirectory(path, source, mode)
        case stat.S_IFLNK:
            return FoundLink(path, source, os.readlink(source))
        case kind:
            return Skipped(path, source, f"is {_OTHERS.get(kind, 'neither file nor directory')}")


_OTHERS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
