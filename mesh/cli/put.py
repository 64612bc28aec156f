"""`mesh put`: files, directories and standard input into a node.

The way of a file, with the module of each step:

1. cli/walk.py finds it, and putting/survey.py looks it up in the record (cli/record.py).
2. What the record knows is asked of the node. What the node holds still is done.
3. putting/reading.py reads and hashes the others, on a thread.
4. The node is asked which of these it lacks, and putting/sending.py sends no others.
5. putting/outcome.py prints the file's line and keeps its entry of the manifest, and the file is
   noted in the record.

putting/steps.py lets all of this go on at once, and putting/watching.py is told of it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import msgspec
from anyio import to_thread

from mesh.cli.exclude import exclusion
from mesh.cli.forms import Form
from mesh.cli.putting.display import Display
from mesh.cli.putting.outcome import Outcome
from mesh.cli.putting.printing import Printer
from mesh.cli.putting.reading import Reader
from mesh.cli.putting.sending import Sender
from mesh.cli.putting.showing import show
from mesh.cli.putting.snapshot import begun, put_snapshot
from mesh.cli.putting.standard_input import STDIN, put_standard_input
from mesh.cli.putting.steps import Steps
from mesh.cli.putting.survey import Survey
from mesh.cli.putting.watching import Watcher
from mesh.cli.record import Record, record_file
from mesh.cli.stamp import now_ns
from mesh.cli.teller import Teller
from mesh.cli.walk import Found, nothing, walk
from mesh.config import Address
from mesh.core.digest import digest_of
from mesh.core.manifest import encode
from mesh.core.snapshot import Snapshot
from mesh.dates import TIME_OF_DAY
from mesh.errors import InputError, printable
from mesh.racing import beside
from mesh.transport.client import NodeClient, node_client


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


async def put(
    node: Address,
    paths: Sequence[str],
    options: Options,
    watcher: Watcher | None = None,
    clock: Callable[[], int] = now_ns,
    printer: Printer | None = None,
) -> bool:
    """The command; whether everything could be put.

    `watcher` is told how it gets on; `clock` is that of the files' times, in ns since 1970.
    """
    watcher = watcher or Watcher()
    printer = printer or Printer(Teller(Form(), "put", "files"))
    if options.tree:
        await to_thread.run_sync(_all_directories, paths)
        for path in paths:
            begun(path, options.tag, options.host, TIME_OF_DAY())  # refused now, if it is
    elif paths.count(STDIN) > 1:
        raise InputError("standard input can be read once; give - once")
    excluded = exclusion(options.exclude, options.exclude_from)
    if not options.exclude and not options.exclude_from:
        excluded = nothing
    walked = partial(walk, excluded=excluded, one_file_system=options.one_file_system)
    if options.dry_run:
        return await to_thread.run_sync(show, paths, walked, printer)
    watcher.begins(paths, walked)
    good = True
    async with node_client(node) as client:
        with ExitStack() as stack:
            command: _Put | None = None
            for run in _runs(paths, apart=options.tree):
                if run == [STDIN]:
                    await put_standard_input(client, watcher, printer)
                    continue
                if command is None:
                    command = await _begun(client, options, watcher, printer, clock, stack)
                good = await command.run(run, walked) and good
    return good


async def shown(node: Address, paths: Sequence[str], options: Options, teller: Teller) -> bool:
    """`put`, of which `teller` shows how far it is and how it ended."""
    display, printer = Display(), Printer(teller)
    work = partial(put, node, paths, options, display, printer=printer)
    if teller.watched:
        work = partial(beside, display.count, work)
    good = await teller.over(work, display.progress)
    listed = {"put": printer.put} if teller.keeps else {}
    teller.ended(ok=good, **display.counts(), trees=printer.trees, **listed)
    return good


def _runs(paths: Sequence[str], *, apart: bool) -> Iterator[list[str]]:
    """Paths that are put together: all between two "-", or each alone."""
    run: list[str] = []
    for path in paths:
        if run and (apart or STDIN in (path, *run)):
            yield run
            run = []
        run.append(path)
    if run:
        yield run


class _About(msgspec.Struct, frozen=True):
    """What a put has to know of the node; an older one does not tell its limit."""

    node_id: str
    max_blob_bytes: int | None = None


class _Put:
    """What is the same for all paths of one command."""

    def __init__(
        self,
        client: NodeClient,
        options: Options,
        watcher: Watcher,
        printer: Printer,
        reader: Reader,
        record: Record | None,
    ) -> None:
        self._client = client
        self._options = options
        self._watcher = watcher
        self._printer = printer
        self._record = record
        self._reader = reader

    async def run(self, paths: Sequence[str], walked: Callable[[str], Iterator[Found]]) -> bool:
        """Put these paths, with a manifest of each if that is wanted; whether all was well."""
        tree = self._options.tree
        told = self._options.tag, self._options.host
        snapshot = begun(paths[0], *told, TIME_OF_DAY()) if tree else None
        outcome = Outcome(self._watcher, self._printer, tree=tree)
        sender = Sender(self._client, outcome, self._watcher)
        walks = ((path, walked(path)) for path in paths)
        # Who does not trust the record may still add to it.
        looked_up = None if self._options.rehash else self._record
        steps = Steps(self._client, self._reader, sender, outcome, self._record)
        await steps.run(Survey(walks, looked_up, self._watcher))
        if snapshot is not None:
            await self._manifest(paths[0], outcome, snapshot)
        return not outcome.failed

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


async def _begun(
    client: NodeClient,
    options: Options,
    watcher: Watcher,
    printer: Printer,
    clock: Callable[[], int],
    stack: ExitStack,
) -> _Put:
    """Ask the node who it is and what it takes, and open its record, until the end of `stack`."""
    about = await client.status(_About)
    record = await to_thread.run_sync(_record, about.node_id)
    if record is not None:
        stack.callback(record.close)
    reader = Reader(watcher, about.max_blob_bytes, clock)
    return _Put(client, options, watcher, printer, reader, record)


def _record(node_id: str) -> Record | None:
    """The record of a node; None for what calls itself by anything but an id."""
    if not re.fullmatch(r"[0-9a-f]{32}", node_id, re.ASCII):
        return None
    return Record(record_file(os.environ, node_id), lambda line: print(line, file=sys.stderr))


def _all_directories(paths: Sequence[str]) -> None:
    """InputError for the first of the paths that is no directory, before anything is sent."""
    for path in paths:
        if not os.path.isdir(path):
            raise InputError(f"--tree takes directories, and {printable(path)} is none")
