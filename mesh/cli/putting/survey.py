"""The first step of a put: what is there, and which of it was put before."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from mesh.cli.absolute import absolute
from mesh.cli.putting.watching import Watcher
from mesh.cli.record import Record, digest_in
from mesh.cli.walk import Found, FoundFile
from mesh.core.digest import Digest
from mesh.core.limits import MOST_ASKED


class Batch(NamedTuple):
    """What was found next, and the digest of each; None for what is not known, or is no file."""

    found: list[Found]
    digests: list[Digest | None]


class Survey:
    """Walks, and looks up in the record what it finds.

    Directories are looked up whole: one query for each file would take longer than the walk.
    """

    def __init__(
        self,
        walks: Iterable[tuple[str, Iterator[Found]]],
        record: Record | None,
        watcher: Watcher,
    ) -> None:
        """`walks`: paths as they were given, and what is found at each."""
        self._walks = walks
        self._record = record
        self._watcher = watcher
        self._batches = self._all()

    def next(self) -> Batch | None:
        """As much as one question to the node may be about; None at the end. It blocks."""
        return next(self._batches, None)

    def _all(self) -> Iterator[Batch]:
        batch = Batch([], [])
        for root, walked in self._walks:
            known = _Known(root, self._record) if self._record is not None else None
            for found in walked:
                batch.found.append(found)
                if known is not None and isinstance(found, FoundFile):
                    batch.digests.append(known.digest(found))
                else:
                    batch.digests.append(None)
                if len(batch.found) >= MOST_ASKED:
                    yield self._told(batch)
                    batch = Batch([], [])
        if batch.found:
            yield self._told(batch)

    def _told(self, batch: Batch) -> Batch:
        sizes = [found.size for found in batch.found if isinstance(found, FoundFile)]
        self._watcher.found(len(sizes), sum(sizes))
        return batch


class _Known:
    """What the record knows of the files below one path."""

    def __init__(self, root: str, record: Record) -> None:
        self._root = absolute(root)
        self._record = record
        # The directories from the root down to where the walk is, each with its entries. What is
        # in a directory comes in one piece, but for what is in the directories in it.
        self._open: list[tuple[bytes, Mapping[bytes, bytes]]] = []

    def digest(self, found: FoundFile) -> Digest | None:
        if not found.path:  # a file that was named by itself
            directory, _, name = self._root.rpartition(b"/")
            return digest_in(self._record.file(directory, name), name, found.stamp)
        directory, _, name = found.path.rpartition(b"/")
        entry = self._entries(directory).get(name)
        return digest_in(entry, name, found.stamp) if entry is not None else None

    def _entries(self, directory: bytes) -> Mapping[bytes, bytes]:
        while self._open:
            last, entries = self._open[-1]
            if last == directory:
                return entries
            if not last or directory.startswith(last + b"/"):
                break
            self._open.pop()
        place = os.path.join(self._root, directory) if directory else self._root
        entries = self._record.directory(place.rstrip(b"/"))
        self._open.append((directory, entries))
        return entries
