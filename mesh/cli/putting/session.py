"""A put to one node: the node is asked who it is, its record is opened, and paths are put."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence

import msgspec
from anyio import to_thread

from mesh.cli.putting.outcome import Outcome
from mesh.cli.putting.printing import Printer
from mesh.cli.putting.reading import Reader
from mesh.cli.putting.sending import Sender
from mesh.cli.putting.snapshot import begun, put_snapshot
from mesh.cli.putting.steps import Steps
from mesh.cli.putting.survey import Survey
from mesh.cli.putting.watching import Watcher
from mesh.cli.record import Record, record_file
from mesh.cli.walk import Found
from mesh.core.digest import digest_of
from mesh.core.manifest import encode
from mesh.core.snapshot import Snapshot
from mesh.dates import TIME_OF_DAY
from mesh.transport.client import NodeClient


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How `put` goes about its paths."""

    tree: bool = False
    strict: bool = False
    dry_run: bool = False
    one_file_system: bool = False
    rehash: bool = False
    exclude: Sequence[str] = ()
    exclude_from: Sequence[str] = ()
    tag: str | None = None
    host: str | None = None


class _About(msgspec.Struct, frozen=True):
    """What a put has to know of the node; an older one does not tell its limit."""

    node_id: str
    max_blob_bytes: int | None = None


class Session:
    """One put to one node: what all of its paths share. Its record is closed at its end."""

    def __init__(
        self,
        client: NodeClient,
        options: Options,
        watcher: Watcher,
        printer: Printer,
        clock: Callable[[], int],
    ) -> None:
        """`clock`: that of the files' times, in ns since 1970."""
        self._client = client
        self._options = options
        self._watcher = watcher
        self._printer = printer
        self._clock = clock
        self._reader: Reader | None = None
        self._record: Record | None = None

    def __enter__(self) -> Session:
        """Itself. The node is asked who it is when the first path is put."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the record."""
        if self._record is not None:
            self._record.close()

    async def put(self, paths: Sequence[str], walked: Callable[[str], Iterator[Found]]) -> bool:
        """Put these paths, with a manifest of each if that is wanted; whether all was well."""
        reader = self._reader or await self._met()
        tree = self._options.tree
        told = self._options.tag, self._options.host
        snapshot = begun(paths[0], *told, TIME_OF_DAY()) if tree else None
        outcome = Outcome(self._watcher, self._printer, tree=tree)
        sender = Sender(self._client, outcome, self._watcher)
        walks = ((path, walked(path)) for path in paths)
        # Who does not trust the record may still add to it.
        looked_up = None if self._options.rehash else self._record
        steps = Steps(self._client, reader, sender, outcome, self._record)
        await steps.run(Survey(walks, looked_up, self._watcher))
        if snapshot is not None:
            await self._manifest(paths[0], outcome, snapshot)
        return not outcome.failed

    async def _met(self) -> Reader:
        """Ask the node who it is and what it takes, and open its record."""
        about = await self._client.status(_About)
        if re.fullmatch(r"[0-9a-f]{32}", about.node_id, re.ASCII):
            file = record_file(os.environ, about.node_id)
            self._record = await to_thread.run_sync(Record, file, self._printer.note)
        self._reader = Reader(self._watcher, about.max_blob_bytes, self._clock)
        return self._reader

    async def _manifest(self, path: str, outcome: Outcome, snapshot: Snapshot) -> None:
        """Put the blob that describes a tree, without what could not be put, and its snapshot.

        None with `strict` when something could not, and none when the directory itself could not
        be read.
        """
        place = os.path.join(os.fsencode(path), b"")
        if outcome.root_failed or (self._options.strict and outcome.failed):
            outcome.complain(place, "no manifest, because not everything could be put")
            return
        data = await to_thread.run_sync(encode, outcome.entries)
        digest = digest_of(data)
        if await self._client.lacking([digest]):
            await self._client.put_named(digest, data)
        self._printer.tree(digest, place)
        await put_snapshot(self._client, self._printer, snapshot, digest, outcome.entries, place)
