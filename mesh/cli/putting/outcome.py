"""What became of what lies at one path: what is printed and, for a tree, remembered."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.cli.putting.printing import Printer
from mesh.cli.putting.reading import Aside, File, Trouble
from mesh.cli.putting.watching import Watcher
from mesh.cli.walk import Found, FoundDirectory, FoundFile, FoundLink, Skipped, Unreadable
from mesh.core import manifest
from mesh.errors import Refused, one_line


class Outcome:
    """Prints what is done, complains of what is not, and gathers the entries of a manifest."""

    def __init__(self, watcher: Watcher, printer: Printer, *, tree: bool) -> None:
        """`tree`: gather entries."""
        self._watcher = watcher
        self._printer = printer
        self._tree = tree
        self.entries: list[manifest.Entry] = []
        # Whether the path itself could not be read.
        self.root_failed = False
        self.failed = False

    def done(self, files: Sequence[File]) -> None:
        """Files are durable at the node."""
        self._printer.digests((file.digest, file.found.source, file.size) for file in files)
        self._watcher.done(len(files), sum(file.size for file in files))
        if self._tree:
            self.entries += [
                manifest.File(file.found.path, file.found.mode, file.size, file.digest)
                for file in files
            ]

    def other(self, other: Aside | Trouble) -> None:
        """Something that is not sent."""
        match other:
            case Trouble(source, reason):
                self.complain(source, reason)
            case Aside(found):
                self._aside(found)

    def refused(self, found: FoundFile, size: int, error: Refused) -> None:
        """A blob over the node's limit is named and passed by; anything else ends the command."""
        if error.status != 413:
            raise error
        self.complain(found.source, f"has {size} bytes; {one_line(error)}")

    def complain(self, source: bytes, reason: str) -> None:
        """A file could not be put."""
        self.failed = True
        self._watcher.failed(1)
        self._printer.failed(source, reason)

    def _aside(self, found: Found) -> None:
        match found:
            case Skipped():
                # Part of a tree, these are left out as docs/manifest.md says; named by the user,
                # they are what he wanted to put.
                self._printer.skipped(found.source, found.reason)
                self.failed = self.failed or not found.path
            case Unreadable():
                self.root_failed = self.root_failed or not found.path
                self.complain(found.source, found.reason)
            case FoundDirectory() if self._tree:
                self.entries.append(manifest.Directory(found.path, found.mode))
            case FoundLink() if self._tree:
                self.entries.append(manifest.Link(found.path, found.target))
