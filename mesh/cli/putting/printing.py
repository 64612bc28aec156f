"""What `put` prints: a line for each file on standard output, complaints on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from mesh.core.digest import Digest
from mesh.errors import printable


def tell(source: bytes, what: str) -> None:
    """Say something about the file `source` on standard error."""
    print(f"mesh: {printable(os.fsdecode(source))}: {what}", file=sys.stderr)


def print_digests(blobs: Iterable[tuple[Digest, bytes]]) -> None:
    """Digests and the paths of the files: lines as `b2sum -l 256` prints them, in one write."""
    sys.stdout.buffer.write(
        b"".join([_line(digest.hex().encode() + b"  ", path) for digest, path in blobs])
    )


def print_line(before: bytes, path: bytes) -> None:
    """`before` and a path; one with a newline or backslash is escaped as b2sum does."""
    sys.stdout.buffer.write(_line(before, path))


def flush() -> None:
    """Show what was printed: whoever reads it learns at once what is durable."""
    sys.stdout.buffer.flush()


def _line(before: bytes, path: bytes) -> bytes:
    if b"\\" in path or b"\n" in path or b"\r" in path:
        path = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
        return b"\\" + before + path + b"\n"
    return before + path + b"\n"
