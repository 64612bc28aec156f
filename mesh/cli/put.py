"""`mesh put`: files, directories and standard input into a node.

The way of a file, with the module of each step:

1. cli/walk.py finds it, and putting/survey.py looks it up in the record (cli/record.py).
2. What the record knows is asked of the node. What the node holds still is done.
3. putting/reading.py reads and hashes the others on a thread, by putting/resting.py if it can.
4. The node is asked which of these it lacks, and putting/sending.py sends no others.
5. putting/outcome.py prints the file's line and keeps its entry of the manifest, and the file is
   noted in the record.

putting/steps.py lets all of this go on at once, and putting/watching.py is told of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from anyio import to_thread

from mesh.cli.exclude import exclusion
from mesh.cli.forms import Form
from mesh.cli.putting.display import Display
from mesh.cli.putting.printing import Printer
from mesh.cli.putting.session import Options, Session
from mesh.cli.putting.showing import show
from mesh.cli.putting.snapshot import begun
from mesh.cli.putting.standard_input import STDIN, put_standard_input
from mesh.cli.putting.watching import Watcher
from mesh.cli.stamp import now_ns
from mesh.cli.teller import Teller
from mesh.cli.walk import nothing, walk
from mesh.config import Address
from mesh.dates import TIME_OF_DAY
from mesh.errors import InputError, printable
from mesh.racing import beside
from mesh.transport.client import node_client

__all__ = ["Options", "put", "shown"]


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
        with Session(client, options, watcher, printer, clock) as session:
            for run in _runs(paths, apart=options.tree):
                if run == [STDIN]:
                    await put_standard_input(client, watcher, printer)
                else:
                    good = await session.put(run, walked) and good
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


def _all_directories(paths: Sequence[str]) -> None:
    """InputError for the first of the paths that is no directory, before anything is sent."""
    for path in paths:
        if not os.path.isdir(path):
            raise InputError(f"--tree takes directories, and {printable(path)} is none")
