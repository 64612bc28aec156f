"""`mesh bench tree` and `fanout`: the jobs that people have a mesh for."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import anyio
import typer

from mesh.bench.blobs import photos as make_photos
from mesh.bench.fanout import FanoutResult, fanout
from mesh.bench.tree import TreePass, TreePlan, TreeResult, tree
from mesh.cli.bench_wire import BackendOption, JsonOption, known_backend, show
from mesh.config import parse_size
from mesh.errors import InputError

_MOST_NODES = 16  # processes of 60 MB each, on one machine


def tree_command(
    directory: Annotated[Path | None, typer.Argument(help="whose files are put")] = None,
    nodes: Annotated[
        int, typer.Option(min=1, max=_MOST_NODES, help="connected; 1 has no peers")
    ] = 3,
    photos: Annotated[
        str | None, typer.Option(help="make files of 3 to 8 MB instead, for example 1GB in all")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="rsync, rsync-unsynced, rclone: in the same run")
    ] = None,
    backend: BackendOption = "asyncio",
    as_json: JsonOption = False,
) -> None:
    """Put a directory into a mesh until all nodes have it.

    Then the same directory is put again.
    """
    if (directory is None) == (photos is None):
        raise InputError("give a directory, or --photos SIZE to have one made; not both")
    if directory is not None and not directory.is_dir():
        raise InputError(f"{directory} is not a directory; give one whose files are to be put")
    size = parse_size(photos) if photos is not None else 0
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as base:
        if directory is None:
            directory = Path(base) / "photos"
            make_photos(directory, size)
        plan = TreePlan(
            directory=directory,
            nodes=nodes,
            backend=known_backend(backend),
            against=tuple(against or ()),
        )
        result = anyio.run(tree, plan, Path(base))
    show(result, _tree(result), as_json=as_json)


def fanout_command(
    workers: Annotated[int, typer.Option(min=1, max=_MOST_NODES, help="start together")] = 3,
    size: Annotated[str, typer.Option(help="of the blob, for example 2GiB")] = "2GiB",
    backend: BackendOption = "asyncio",
    as_json: JsonOption = False,
) -> None:
    """Bring one blob from a source to many workers.

    The workers start together. One worker alone is measured as well.
    """
    length = parse_size(size)
    if length == 0:
        raise InputError("--size is of the blob to send, and takes 1 byte or more")
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as base:
        result = anyio.run(fanout, workers, length, known_backend(backend), Path(base))
    show(result, _fanout(result), as_json=as_json)


def _tree(result: TreeResult) -> list[tuple[str, str]]:
    rows = [
        ("backend, nodes", f"{result.backend}, {result.nodes}"),
        ("files", f"{result.files:,}"),
        ("blobs", f"{result.blobs:,} ({result.bytes / 1e6:,.1f} MB)"),
        ("load of the machine before", f"{result.load:.1f}"),
        *_passed("first put", result.first),
        *_passed("again, unchanged", result.again),
    ]
    for rival in result.rivals:
        each = " + ".join(f"{seconds:.2f}" for seconds in rival.each_seconds)
        rows += [
            (rival.name, f"{each} s; {_share(rival.ours_over_theirs)}"),
            (
                f"{rival.name}, again",
                f"{rival.again_seconds:.2f} s; {_share(rival.again_ours_over_theirs)}",
            ),
        ]
    return rows


def _share(ratio: float) -> str:
    return f"the mesh takes {ratio:.2f} of that"


def _passed(name: str, one: TreePass) -> list[tuple[str, str]]:
    others = "".join(f", {seconds:.1f}" for seconds in one.other_cpu_seconds)
    return [
        (name, f"{one.seconds:.2f} s, of which `mesh put` took {one.put_seconds:.2f}"),
        (
            f"{name}, CPU of client, node, others",
            f"{one.client_cpu_seconds:.1f}, {one.node_cpu_seconds:.1f}{others};"
            f" together {one.cpu_seconds:.1f} s",
        ),
    ]


def _fanout(result: FanoutResult) -> list[tuple[str, str]]:
    workers = ", ".join(f"{seconds:.1f}" for seconds in result.worker_cpu_seconds)
    return [
        ("backend", result.backend),
        ("size", f"{result.size / 2**20:,.0f} MiB"),
        ("load of the machine before", f"{result.load:.1f}"),
        ("one worker alone", f"{result.alone_seconds:.2f} s"),
        (f"{result.workers} workers", f"{result.seconds:.2f} s, {result.ratio:.2f} times that"),
        (
            "sent by the source",
            f"{result.source_sent_bytes / 2**20:,.0f} MiB,"
            f" {result.source_sent_ratio:.2f} times the size",
        ),
        ("CPU of source, workers", f"{result.source_cpu_seconds:.1f}, {workers} s"),
    ]
