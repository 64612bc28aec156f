"""The first step of a put: what is there, and which of it was put before."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from mesh.cli.absolute import absolute
from mesh.cli.putting.watching import Watcher
from mesh.cli.record import Record, digest_in
from mesh.cli.walk import Found, FoundFile
from mesh.core.digest import Digest
from mesh.core.limits import MOST_ASKED

# What is found at a time, and looked up in the record in one go. A directory that is looked up may
# have many more files in the record than there are by now.
_SOME = 512


class Batch(NamedTuple):
    """What was found next, and the digest of each; None for what is not known, or is no file."""

    found: list[Found]
    digests: list[Digest | None]


class Survey:
    """Walks, and looks up in the record what it finds.

    Directories are looked up whole, and many of them in one go: a query for each file would take
    longer than the walk.
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
            while some := list(islice(walked, min(_SOME, MOST_ASKED - len(batch.found)))):
                batch.found.extend(some)
                batch.digests.extend(known.digests(some) if known else [None] * len(some))
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
        # Directories of the files that came last, by their paths below the root, as far as more of
        # their files may come: those from the root down to where the walk is. What is in a
        # directory comes in one piece, but for what is in the directories in it.
        self._open: dict[bytes, Mapping[bytes, bytes]] = {}

    def digests(self, some: Sequence[Found]) -> list[Digest | None]:
        """What is known of each of these, the next ones of the walk."""
        split = [found.path.rpartition(b"/") for found in some]
        new = {
            directory: self._place(directory)
            for found, (directory, _, _) in zip(some, split, strict=True)
            if isinstance(found, FoundFile) and found.path and directory not in self._open
        }
        entries = self._record.directories(new.values()) if new else {}
        self._open.update((each, entries.get(place, {})) for each, place in new.items())
        known = [
            self._digest(found, directory, name) if isinstance(found, FoundFile) else None
            for found, (directory, _, name) in zip(some, split, strict=True)
        ]
        last = some[-1].path
        self._open = {
            directory: entries
            for directory, entries in self._open.items()
            if not directory or last.startswith(directory + b"/")
        }
        return known

    def _digest(self, found: FoundFile, directory: bytes, name: bytes) -> Digest | None:
        if not found.path:  # a file that was named by itself
            directory, _, name = self._root.rpartition(b"/")
            return digest_in(self._record.file(directory, name), name, found.stamp)
        entry = self._open[directory].get(name)
        return digest_in(entry, name, found.stamp) if entry is not None else None

    def _place(self, directory: bytes) -> bytes:
        place = os.path.join(self._root, directory) if directory else self._root
        return place.rstrip(b"/")
