"""What `put` prints: a line for each file on standard output, complaints on standard error."""

from __future__ import annotations

import os
import sys

from mesh.core.digest import Digest
from mesh.errors import printable


def tell(source: bytes, what: str) -> None:
    """Say something about the file `source` on standard error."""
    print(f"mesh: {printable(os.fsdecode(source))}: {what}", file=sys.stderr)


def print_digest(digest: Digest, path: bytes) -> None:
    """A line as `b2sum -l 256` prints it."""
    print_line(digest.hex().encode() + b"  ", path)


def print_line(before: bytes, path: bytes) -> None:
    """`before` and a path; one with a newline or backslash is escaped as b2sum does."""
    mark = b""
    if b"\\" in path or b"\n" in path or b"\r" in path:
        mark = b"\\"
        path = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    sys.stdout.buffer.write(mark + before + path + b"\n")


def flush() -> None:
    """Show what was printed: whoever reads it learns at once what is durable."""
    sys.stdout.buffer.flush()
