"""What `put` prints: a line for each file on standard output, complaints on standard error."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from mesh.cli.teller import Teller
from mesh.core.digest import Digest
from mesh.errors import printable


class Printer:
    """Says what is durable and what is not: in lines, or to a program as JSON."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        # For the object at the end: the files, where it is asked for them, and the manifests.
        self.put: list[dict[str, Any]] = []
        self.trees: list[dict[str, Any]] = []

    def digests(self, blobs: Iterable[tuple[Digest, bytes, int]]) -> None:
        """Digests, the paths of the files, their sizes: as `b2sum -l 256` prints them.

        All in one write, and the reader gets it at once: he learns what is durable.
        """
        if not self._teller.for_program:
            self._teller.write(_lines([(digest, path) for digest, path, _ in blobs]))
            self._teller.flush()
            return
        told = [
            {"digest": digest.hex(), **_named(path), "size": size} for digest, path, size in blobs
        ]
        self._teller.events("file", told)
        if self._teller.keeps:
            self.put += told

    def tree(self, digest: Digest, path: bytes) -> None:
        """The manifest of a directory."""
        told = {"digest": digest.hex(), **_named(path)}
        self.trees.append(told)
        self._teller.events("tree", [told])
        self._teller.write(_line(digest.hex().encode() + b"  ", path))
        self._teller.flush()

    def snapshot(self, digest: Digest, path: bytes, taken: str) -> None:
        """The snapshot of the manifest that was told last."""
        self.trees[-1].update(snapshot=digest.hex(), time=taken)
        self._teller.events("snapshot", [{"digest": digest.hex(), **_named(path), "time": taken}])
        self._teller.write(_line(digest.hex().encode() + b"  ", path + b"@" + taken.encode()))
        self._teller.flush()

    def size(self, size: int | None, path: bytes) -> None:
        """A file that would be put; None for what nobody knows the size of."""
        told = {**_named(path), "size": size}
        self._teller.events("file", [told])
        if self._teller.keeps:
            self.put.append(told)
        self._teller.write(_line(f"{'?' if size is None else size:>14}  ".encode(), path))

    def skipped(self, source: bytes, why: str) -> None:
        """What is left out, and is no failure."""
        self._teller.note(f"mesh: {_text(source)}: {why}; left out")

    def note(self, text: str) -> None:
        """Something that is good to know, and concerns no file in particular."""
        self._teller.note(f"mesh: {text}")

    def failed(self, source: bytes, why: str) -> None:
        """What could not be put."""
        self._teller.error(f"{_text(source)}: {why}")


def _text(source: bytes) -> str:
    return printable(os.fsdecode(source))


def _named(path: bytes) -> dict[str, str]:
    """A path in JSON, which is Unicode: other bytes are escaped, and all are beside it in hex."""
    text = os.fsdecode(path).encode("utf-8", "backslashreplace").decode()
    return {"path": text} if text.encode() == path else {"path": text, "path_hex": path.hex()}


def _lines(files: Sequence[tuple[Digest, bytes]]) -> bytes:
    """The lines of these files; whether one has to be escaped is looked at in one go."""
    lines = b"".join([b"%b  %b\n" % (digest.hex().encode(), path) for digest, path in files])
    if b"\\" in lines or b"\r" in lines or lines.count(b"\n") > len(files):
        return b"".join(_line(digest.hex().encode() + b"  ", path) for digest, path in files)
    return lines


def _line(before: bytes, path: bytes) -> bytes:
    """`before` and a path; one with a newline or backslash is escaped as b2sum does."""
    if b"\\" in path or b"\n" in path or b"\r" in path:
        path = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
        return b"\\" + before + path + b"\n"
    return before + path + b"\n"
