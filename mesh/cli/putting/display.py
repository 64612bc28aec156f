"""How far a put is: what a Watcher is told, as numbers that a Teller shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from threading import Lock
from typing import Any

import anyio
from anyio import to_thread

from mesh.cli.progress import Progress
from mesh.cli.putting.standard_input import STDIN
from mesh.cli.putting.watching import Watcher
from mesh.cli.walk import Found, FoundFile

# Seconds after which somebody wants to know how much there is in all. It is found by a walk of its
# own, beside the put: the put itself finds files only as fast as it puts them.
_PATIENCE = 1.0

# Entries of that walk that are looked at before it lets go of its thread.
_SLICE = 2000

# Bytes that are hashed and not yet being sent, from which on hashing is what is shown: more than
# all the small files that are on their way at a time.
_AHEAD = 64 * 1024 * 1024


class Display(Watcher):
    """Counts. It is called from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._walks: tuple[Sequence[str], Callable[[str], Iterator[Found]]] | None = None
        self._total: tuple[int, int] | None = None
        self._done = self._done_bytes = self._failed = 0
        self._hashed = self._sent = 0
        # Bytes that are hashed, or sent, of files that are not done.
        self._hashed_ahead = self._sent_ahead = 0

    # --- what it is told -----------------------------------------------------------------------

    def begins(self, paths: Sequence[str], walked: Callable[[str], Iterator[Found]]) -> None:
        """See Watcher."""
        self._walks = paths, walked

    def hashed(self, size: int) -> None:
        """See Watcher."""
        with self._lock:
            self._hashed += size
            self._hashed_ahead += size

    def sent(self, size: int) -> None:
        """See Watcher."""
        with self._lock:
            self._sent += size
            self._sent_ahead += size

    def done(self, files: int, size: int) -> None:
        """See Watcher."""
        with self._lock:
            self._done += files
            self._done_bytes += size
            # Not each of them was hashed or sent. So what is ahead may be a little more than this.
            self._hashed_ahead = max(0, self._hashed_ahead - size)
            self._sent_ahead = max(0, self._sent_ahead - size)

    def failed(self, files: int) -> None:
        """See Watcher."""
        with self._lock:
            self._failed += files

    # --- what it tells -------------------------------------------------------------------------

    def progress(self) -> Progress:
        """How far it is: files and bytes that are durable, and of the one on its way its part.

        A large file is hashed before it is sent, and either is shown by itself.
        """
        with self._lock:
            files, size = self._total or (None, None)
            hashing = not self._sent_ahead and self._hashed_ahead > _AHEAD
            ahead = self._hashed_ahead if hashing else self._sent_ahead
            done = self._done_bytes + ahead
            # A file may have grown since it was counted.
            done = done if size is None else min(done, size)
            what = "hashing" if hashing else "putting"
            return Progress(what, self._done, files, done, size, ahead=hashing)

    def counts(self) -> dict[str, Any]:
        """What was done, for the object at the end."""
        return {
            "files": self._done,
            "bytes": self._done_bytes,
            "failed_files": self._failed,
            "hashed_bytes": self._hashed,
            "sent_bytes": self._sent,
        }

    async def count(self) -> None:
        """Find out how much there is in all, once the put has lasted a second."""
        await anyio.sleep(_PATIENCE)
        if self._walks is None or STDIN in self._walks[0]:
            return  # nobody knows how much comes from standard input
        paths, walked = self._walks
        found = (each for path in paths for each in walked(path))
        files = size = 0
        while entries := await to_thread.run_sync(list, islice(found, _SLICE)):
            sizes = [each.size for each in entries if isinstance(each, FoundFile)]
            files += len(sizes)
            size += sum(sizes)
        self._total = files, size
