"""By what `put` tells that a file is the one that it read before: its stamp."""

from __future__ import annotations

import os
import struct
import time

# Device, inode, size, and the times of the last change of the content and of the inode, in ns.
_STAMP = struct.Struct("<5Q")

STAMP_SIZE = _STAMP.size

# Times may be before 1970, and those of some file systems beyond 2^63 ns; only equality counts.
_BITS = 2**64 - 1

# A file system may note times by the second, or by two, and a file that is written to again within
# one of these looks as it did before. Git calls such an entry racily clean.
_GRAIN_NS = 2_000_000_000


def now_ns() -> int:
    """The time of day, which is what the times of files are, in ns since 1970."""
    return time.time_ns()


def stamp_of(status: os.stat_result) -> bytes:
    """40 bytes that differ from those of any other file, and of this one after a change."""
    return _STAMP.pack(
        status.st_dev & _BITS,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns & _BITS,
        status.st_ctime_ns & _BITS,
    )


def is_settled(status: os.stat_result, now_ns: int) -> bool:
    """Whether any change after `now_ns` (since 1970) gives the file another stamp.

    Not when one of its times is within two seconds of then. Nor when its inode was changed later
    than then, which is what a server of files with another clock says. Nor when the file seems to
    have no bytes: the files of the kernel, as in /proc, change without a trace.
    """
    return (
        status.st_size > 0
        and status.st_ctime_ns <= now_ns - _GRAIN_NS
        and abs(status.st_mtime_ns - now_ns) >= _GRAIN_NS
    )
