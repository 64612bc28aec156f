"""`mesh bench`: its sub-commands."""

from __future__ import annotations

import typer

from mesh.cli.bench_wire import node_command, plot_command, put_command, replicate_command

bench_app = typer.Typer(
    help="Measure this machine's nodes.", no_args_is_help=True, add_completion=False
)
bench_app.command("replicate")(replicate_command)
bench_app.command("put")(put_command)
bench_app.command("node")(node_command)
bench_app.command("plot")(plot_command)
