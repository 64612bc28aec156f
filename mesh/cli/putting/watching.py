"""Where a display of the progress looks in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mesh.cli.walk import Found


class Watcher:
    """Is told how a put gets on; this one shows nothing, and another one overrides what it needs.

    The calls come from the event loop and from the threads that read, in batches where files are
    small. They may overlap, so a display takes a lock, or keeps one number for each kind of call.
    A call must not block for long: what it holds up is the put.
    """

    def begins(self, paths: Sequence[str], walked: Callable[[str], Iterator[Found]]) -> None:
        """These paths are put, and what is at each is found by `walked`."""

    def found(self, files: int, size: int) -> None:
        """So many more files were found, of `size` bytes together when they were looked at."""

    def hashed(self, size: int) -> None:
        """So many more bytes were read and hashed."""

    def sent(self, size: int) -> None:
        """So many more bytes of files were handed to the connection; not acknowledged yet."""

    def done(self, files: int, size: int) -> None:
        """So many more files, of `size` bytes together, are durable at the node."""

    def failed(self, files: int) -> None:
        """So many more files could not be put; each was named."""
