"""A small file that still is what the walk found, in as few calls of the system as it takes.

A real tree is tens of thousands of files of some kB. There the bytes cost nothing beside the calls,
and each call lets go of the interpreter, which the event loop then takes. So a file is opened from
its directory, which stays open while files of it come, read by one call, and looked at by one.

One look is enough: the stamp of the file is the one that the walk saw before it was read. It is a
regular file then, the one that was found, and nobody wrote to it in between. Whatever else is met
is for reading.py, which looks twice and says what is wrong.
"""

from __future__ import annotations

import os

from mesh.cli.stamp import stamp_of
from mesh.cli.walk import FoundFile

# Through a directory, which need not be one that may be listed.
STEP = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

# A FIFO that has the name of a file by now must not wait for its other end.
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

# Directories that stay open. Most trees are less deep, and a process may open 1,024 files at least.
_DEEP = 64


class Directories:
    """The directories from where a walk began down to the one in which the last file was.

    Each is opened by its name in the one above, and no link is followed. Whoever may write in the
    tree may put a link where a directory was when the walk was there. The files that it leads to
    are not his, and not part of the tree.
    """

    def __init__(self) -> None:
        self._root = b""
        # Paths below the root, each with "/" at its end, and their descriptors; first the root.
        self._open: list[tuple[bytes, int]] = []

    def open(self, found: FoundFile) -> int:
        """A descriptor of a file for reading. Only a link that the user named is followed."""
        if not found.path:
            return os.open(found.source, READ)
        directory = found.path[: found.path.rfind(b"/") + 1]
        root = found.source.removesuffix(found.path)
        if not self._open or self._open[-1][0] != directory or self._root != root:
            self._go(root, directory)
        name = found.path[len(directory) :]
        return os.open(name, READ | os.O_NOFOLLOW, dir_fd=self._open[-1][1])

    def close(self) -> None:
        """Close all of them."""
        while self._open:
            os.close(self._open.pop()[1])

    def _go(self, root: bytes, directory: bytes) -> None:
        """Have `directory` be the last that is open."""
        if root != self._root:
            self.close()
            self._root = root
        while self._open and not directory.startswith(self._open[-1][0]):
            os.close(self._open.pop()[1])
        if not self._open:
            self._open.append((b"", os.open(root, STEP)))
        path, at = self._open[-1]
        for name in directory[len(path) : -1].split(b"/") if path != directory else ():
            at = os.open(name, STEP | os.O_NOFOLLOW, dir_fd=at)
            path += name + b"/"
            if len(self._open) >= _DEEP:  # the one above is not needed for its files
                os.close(self._open.pop()[1])
            self._open.append((path, at))


def at_rest(found: FoundFile, directories: Directories) -> tuple[bytes, os.stat_result] | None:
    """The bytes of a file, and what it looked like after they were read.

    None when it cannot be read, or is another one than the walk found.
    """
    try:
        descriptor = directories.open(found)
    except OSError:
        return None
    try:
        data = os.read(descriptor, found.size or 1)
        status = os.fstat(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    same = len(data) == found.size and stamp_of(status) == found.stamp
    return (data, status) if same else None
