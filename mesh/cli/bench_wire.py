"""`mesh bench replicate`, `put`, `node`, `plot`: tables for people, JSON for scripts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import anyio
import msgspec
import typer
from rich.console import Console
from rich.table import Table

from mesh.bench.node import NodeCost, node_cost
from mesh.bench.put import PutResult, put
from mesh.bench.replicate import Plan, Replicated, replicate
from mesh.config import parse_size
from mesh.errors import InputError

BackendOption = Annotated[str, typer.Option(help="asyncio or trio")]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON object")]

_MOST_NODES = 16  # processes of 60 MB each, on one machine


def replicate_command(
    count: Annotated[int, typer.Option(min=1, help="blobs")] = 20_000,
    size: Annotated[str, typer.Option(help="of each, for example 4KiB")] = "4KiB",
    nodes: Annotated[int, typer.Option(min=2, max=_MOST_NODES, help="one of them empty")] = 2,
    latency: Annotated[float, typer.Option(min=0, help="milliseconds on every request")] = 0.0,
    backend: BackendOption = "asyncio",
    directory: Annotated[
        Path | None, typer.Option("--from", help="the files of a directory instead")
    ] = None,
    probe: Annotated[bool, typer.Option("--probe", help="GET from a source meanwhile")] = False,
    against: Annotated[
        list[str] | None, typer.Option(help="rsync, rclone: in the same run")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fill an empty node from full ones.

    These are real processes and real HTTP, and every blob is durable.
    """
    if directory is not None and not directory.is_dir():
        raise InputError(f"--from takes a directory, and {directory} is none")
    plan = Plan(
        count=count,
        size=parse_size(size),
        nodes=nodes,
        latency=latency / 1000,
        backend=known_backend(backend),
        directory=directory,
        probe=probe,
        against=tuple(against or ()),
    )
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as base:
        result = anyio.run(replicate, plan, Path(base))
    show(result, _replicated(result), as_json=as_json)


def put_command(
    count: Annotated[int, typer.Option(min=1, help="files")] = 50_000,
    size: Annotated[str, typer.Option(help="of each, for example 4KiB")] = "4KiB",
    backend: BackendOption = "asyncio",
    as_json: JsonOption = False,
) -> None:
    """Put many small files into a local node with `mesh put DIR`."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as base:
        result = anyio.run(put, count, parse_size(size), known_backend(backend), Path(base))
    show(result, _put(result), as_json=as_json)


def node_command(
    blobs: Annotated[int, typer.Option(min=1, help="in the node")] = 1_000_000,
    size: Annotated[str, typer.Option(help="of each, for example 64B")] = "64B",
    backend: BackendOption = "asyncio",
    as_json: JsonOption = False,
) -> None:
    """Measure what a node with many blobs costs."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as base:
        result = anyio.run(node_cost, blobs, parse_size(size), known_backend(backend), Path(base))
    show(result, _cost(result), as_json=as_json)


def plot_command(
    reconcile: Annotated[
        Path | None, typer.Option(help="lines of `reconcile --json`: bytes against differences")
    ] = None,
    replicate: Annotated[
        Path | None, typer.Option(help="lines of `replicate --json`: rate against blob size")
    ] = None,
    tree: Annotated[
        Path | None, typer.Option(help="lines of `tree --json`: seconds beside rsync's")
    ] = None,
    fanout: Annotated[
        Path | None, typer.Option(help="lines of `fanout --json`: seconds against workers")
    ] = None,
    out: Annotated[Path, typer.Option(help="directory for the SVG files")] = Path(),
) -> None:
    """Draw what was measured.

    The files are reconcile.svg, replicate.svg, tree.svg and fanout.svg.
    """
    from mesh.bench import plots

    if reconcile is replicate is tree is fanout is None:
        raise InputError("nothing to draw: give --reconcile, --replicate, --tree or --fanout FILE")
    if reconcile is not None:
        plots.draw_reconcile(plots.read(reconcile, plots.ReconcilePoint), out / "reconcile.svg")
    if replicate is not None:
        plots.draw_replicate(plots.read(replicate, plots.ReplicatePoint), out / "replicate.svg")
    if tree is not None:
        plots.draw_tree(plots.read(tree, plots.TreePoint), out / "tree.svg")
    if fanout is not None:
        plots.draw_fanout(plots.read(fanout, plots.FanoutPoint), out / "fanout.svg")


def known_backend(name: str) -> str:
    """The name; InputError for a backend that there is not."""
    if name not in ("asyncio", "trio"):
        raise InputError(f"unknown backend {name[:40]!a}; there are asyncio and trio")
    return name


def show(result: msgspec.Struct, rows: list[tuple[str, str]], *, as_json: bool) -> None:
    """A result on standard output: the object, or `rows` as a table."""
    if as_json:
        print(msgspec.json.encode(result).decode())
        return
    table = Table("what", "measured")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _replicated(result: Replicated) -> list[tuple[str, str]]:
    rows = [
        ("backend", result.backend),
        ("blobs", f"{result.blobs:,} ({result.bytes / 1e6:,.1f} MB)"),
        ("seconds", f"{result.seconds:.2f}"),
        (
            "rate",
            f"{result.blobs_per_second:,.0f} blobs/s, {result.bytes_per_second / 1e6:,.1f} MB/s",
        ),
        ("peak memory, new node and source", _mib(result.rss_bytes, result.source_rss_bytes)),
        (
            "CPU, new node and sources",
            f"{result.cpu_seconds:.2f}, {result.source_cpu_seconds:.2f} s",
        ),
    ]
    if len(result.sources) > 1:
        brought = ", ".join(f"{name} {blobs:,}" for name, blobs in result.sources.items())
        rows.append(("blobs by source", brought))
    if result.get_seconds_p50 is not None and result.get_seconds_p99 is not None:
        times = f"{result.get_seconds_p50 * 1000:.1f}, {result.get_seconds_p99 * 1000:.1f} ms"
        rows.append(("GET of one blob meanwhile, p50 and p99", times))
    if result.halfway:
        shares = ", ".join(f"{name}: {share:.0%}" for name, share in result.halfway.items())
        rows.append(("of each class of size at half-time", shares))
    return rows + [
        (rival.name, f"{rival.seconds:.2f} s, {rival.ratio:.2f} times ours")
        for rival in result.rivals
    ]


def _put(result: PutResult) -> list[tuple[str, str]]:
    return [
        ("backend", result.backend),
        ("files", f"{result.files:,} ({result.bytes / 1e6:,.1f} MB)"),
        ("seconds", f"{result.seconds:.2f}"),
        ("rate", f"{result.files_per_second:,.0f} files/s"),
        ("peak memory of the node", _mib(result.rss_bytes)),
    ]


def _cost(result: NodeCost) -> list[tuple[str, str]]:
    return [
        ("backend", result.backend),
        ("blobs", f"{result.blobs:,}"),
        ("serving after", f"{result.served_seconds:.2f} s"),
        ("tree ready after", f"{result.ready_seconds:.2f} s"),
        ("resident memory", _mib(result.rss_bytes)),
        ("CPU of a round with an equal peer", f"{result.equal_round_cpu_seconds * 1000:.1f} ms"),
        ("CPU of a put and a root", f"{result.put_cpu_seconds * 1000:.1f} ms"),
    ]


def _mib(*sizes: int) -> str:
    return ", ".join(f"{size / 2**20:.0f} MiB" for size in sizes)
