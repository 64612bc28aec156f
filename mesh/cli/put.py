"""`mesh put`: files, directories and standard input into a node.

The way of a file, with the module of each step:

1. cli/walk.py finds it.
2. cli/reading.py reads and hashes it, on a thread, while what was read before is being sent.
3. cli/putting/sending.py sends it.
4. cli/putting/outcome.py prints its line and keeps its entry of the manifest.

cli/putting/watching.py is told of each step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec
from anyio import create_task_group, to_thread

from mesh.cli.exclude import exclusion
from mesh.cli.putting.outcome import Outcome
from mesh.cli.putting.printing import flush, print_digest
from mesh.cli.putting.sending import Sender
from mesh.cli.putting.showing import show
from mesh.cli.putting.snapshot import begun, put_snapshot
from mesh.cli.putting.standard_input import STDIN, put_standard_input
from mesh.cli.putting.watching import Watcher
from mesh.cli.reading import Job, jobs
from mesh.cli.walk import Found, nothing, walk
from mesh.config import Address
from mesh.core.digest import digest_of
from mesh.core.manifest import encode
from mesh.core.snapshot import Snapshot
from mesh.dates import TIME_OF_DAY
from mesh.errors import InputError, printable
from mesh.transport.client import NodeClient, checked, node_client


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How `put` goes about its paths."""

    tree: bool = False
    strict: bool = False
    dry_run: bool = False
    one_file_system: bool = False
    exclude: Sequence[str] = ()
    exclude_from: Sequence[str] = ()
    tag: str | None = None


async def put(
    node: Address, paths: Sequence[str], options: Options, watcher: Watcher | None = None
) -> bool:
    """The command; whether everything could be put. `watcher` is told how it gets on."""
    watcher = watcher or Watcher()
    if options.tree:
        await to_thread.run_sync(_all_directories, paths)
        for path in paths:
            begun(path, options.tag, TIME_OF_DAY())  # refused now, if it is
    elif paths.count(STDIN) > 1:
        raise InputError("standard input can be read once; give - once")
    excluded = exclusion(options.exclude, options.exclude_from)
    if not options.exclude and not options.exclude_from:
        excluded = nothing
    walked = partial(walk, excluded=excluded, one_file_system=options.one_file_system)
    if options.dry_run:
        return await to_thread.run_sync(show, paths, walked)
    good = True
    async with node_client(node) as client:
        for path in paths:
            if path == STDIN:
                await put_standard_input(client, watcher)
                continue
            outcome = Outcome(watcher, tree=options.tree)
            snapshot = begun(path, options.tag, TIME_OF_DAY()) if options.tree else None
            await _everything(walked(path), Sender(client, outcome, watcher), watcher)
            if snapshot is not None:
                await _manifest(client, path, outcome, snapshot, strict=options.strict)
            good = good and not outcome.failed
    return good


def _all_directories(paths: Sequence[str]) -> None:
    """InputError for the first of the paths that is no directory, before anything is sent."""
    for path in paths:
        if not os.path.isdir(path):
            raise InputError(f"--tree takes directories, and {printable(path)} is none")


async def _everything(walked: Iterator[Found], sender: Sender, watcher: Watcher) -> None:
    """All that was found, in order; the next job is read while one is being sent."""
    source = jobs(walked, watcher)
    job = await to_thread.run_sync(_next, source)
    while job is not None:
        async with create_task_group() as group:
            group.start_soon(sender.send, job)
            following = await to_thread.run_sync(_next, source)
        job = following


def _next(source: Iterator[Job]) -> Job | None:
    return next(source, None)


async def _manifest(
    client: NodeClient, path: str, outcome: Outcome, snapshot: Snapshot, *, strict: bool
) -> None:
    """Put the blob that describes the tree, without what could not be put, and its snapshot.

    None with `strict` when something could not, and none when the directory itself could not
    be read.
    """
    place = os.path.join(os.fsencode(path), b"")
    if outcome.root_failed or (strict and outcome.failed):
        outcome.complain(place, "no manifest, because not everything could be put")
        return
    data = encode(outcome.entries)
    stored = await client.put_stream(data, len(data))
    checked(stored, digest_of(data))
    print_digest(digest_of(data), place)
    flush()
    await put_snapshot(client, snapshot, digest_of(data), outcome.entries, place)
