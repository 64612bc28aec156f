"""Where `get -o` writes: what stands at the path decides how.

- Nothing, or a file: the blob is written beside it and takes its name when it is whole and right.
  A file keeps its mode.
- A symbolic link: what it leads to is written, and the link stays.
- A FIFO, a device, a socket of a shell: it is written to and stays what it is.
- A directory, or a file that may not be written: refused.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from mesh.cli.streams import Outlet
from mesh.errors import InputError, MeshError, printable

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# Errors that come while bytes are written, and are not the caller's.
_OF_THE_DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))


@contextmanager
def target(path: str) -> Iterator[Callable[[bytes], int]]:
    """What takes the bytes for `path`; what it got is in place when the block ends well.

    When it does not, nothing is left beside `path`. InputError for what cannot be written to,
    MeshError when the disk fails or is full, BrokenPipeError when the reader of a FIFO goes.
    """
    try:
        there = _stat(path)
        if there is None or stat.S_ISREG(there.st_mode):
            with _replacing(path, there) as write:
                yield write
            return
        with _opened(path) as outlet:
            yield outlet.write
    except BrokenPipeError:
        raise
    except OSError as error:
        kind = MeshError if error.errno in _OF_THE_DISK else InputError
        reason = error.strerror or str(error)
        raise kind(f"cannot write {printable(path)}: {reason}") from error


def _stat(path: str) -> os.stat_result | None:
    """What is at `path`, or at the end of the links there; None when nothing is."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


@contextmanager
def _opened(path: str) -> Iterator[Outlet]:
    """Something that is not a file. A FIFO is waited for until somebody reads it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        yield Outlet(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _replacing(path: str, there: os.stat_result | None) -> Iterator[Callable[[bytes], int]]:
    """A new file that takes the place of the one that `path` leads to."""
    final = os.path.realpath(path)
    if path.endswith("/"):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if there is not None and not os.access(final, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    folder, name = os.path.split(final)
    # Not more of the name than fits beside the rest into the 255 bytes of a name.
    short = os.fsdecode(os.fsencode(name)[:200])
    temporary = os.path.join(folder, f".{short}.{secrets.token_hex(8)}")
    # Nobody else may read what is only a part of a file that is not his to read.
    descriptor = os.open(temporary, _CREATE, 0o600)
    try:
        try:
            yield Outlet(descriptor).write
            os.fchmod(descriptor, _mode(there))
        finally:
            os.close(descriptor)
        os.replace(temporary, final)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _mode(there: os.stat_result | None) -> int:
    """The mode of the file that is replaced; for a new one what the umask leaves."""
    if there is not None:
        return stat.S_IMODE(there.st_mode) & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
