"""`mesh bench`: what a mesh costs, measured here. A command loads what it measures when called."""

from __future__ import annotations

from typing import Annotated

import anyio
import typer

from mesh.cli.arguments import Shown
from mesh.cli.bench_main import fanout_command, tree_command
from mesh.cli.bench_wire import node_command, plot_command, put_command, replicate_command

bench_app = typer.Typer(
    help="Measure what a mesh costs on this machine.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench_app.command("replicate", cls=Shown)(replicate_command)
bench_app.command("put", cls=Shown)(put_command)
bench_app.command("tree", cls=Shown)(tree_command)
bench_app.command("fanout", cls=Shown)(fanout_command)
bench_app.command("node", cls=Shown)(node_command)
bench_app.command("plot", cls=Shown)(plot_command)


@bench_app.command("reconcile", cls=Shown)
def reconcile_command(
    blobs: Annotated[int, typer.Option(min=0, help="blobs that both sides have")] = 1_000_000,
    differ: Annotated[int, typer.Option(min=0, help="blobs that one side has alone")] = 1000,
    one_sided: Annotated[
        bool, typer.Option("--one-sided", help="all that differs is missing here; else half of it")
    ] = False,
    method: Annotated[str, typer.Option(help="auto, sketch (no tree after it) or tree")] = "auto",
    seeds: Annotated[int, typer.Option(min=1, help="how many pairs of sets to compare")] = 10,
    backend: Annotated[str, typer.Option(help="asyncio or trio")] = "asyncio",
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON object")] = False,
) -> None:
    """Find what differs between two nodes in memory.

    Tells the bytes, the round trips and the processor time.
    """
    from mesh.cli import bench_reconcile

    case = bench_reconcile.Case(blobs, differ, one_sided, method)
    report = anyio.run(bench_reconcile.measure, case, seeds, backend=backend)
    bench_reconcile.show(report, as_json=as_json)
    if report.wrong or (method == "sketch" and report.by_tree):
        raise typer.Exit(1)
