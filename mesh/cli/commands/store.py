"""`mesh store`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.arguments import Judged
from mesh.cli.commands.common import (
    exit_unless,
)

store_app = typer.Typer(
    help="Look after a data directory on which no node is running.", no_args_is_help=True
)
DataOption = Annotated[str, typer.Option("--data", help="the data directory")]


@store_app.command("check", cls=Judged)
def store_check_command(
    data: DataOption = "data",
    read_data: Annotated[bool, typer.Option("--read-data", help="read every byte, too")] = False,
) -> None:
    """Check a data directory and change nothing; exit 1 if something is wrong."""
    from mesh.cli import logs, store

    logs.start_logging("error")
    exit_unless(store.check(Path(data), read_data=read_data))


@store_app.command("rebuild", cls=Judged)
def store_rebuild_command(data: DataOption = "data") -> None:
    """Make the index anew from the log."""
    from mesh.cli import logs, store

    logs.start_logging("warning")
    store.rebuild(Path(data))


@store_app.command("stats", cls=Judged)
def store_stats_command(
    data: DataOption = "data",
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON object")] = False,
) -> None:
    """Print how many blobs there are, and how large they are."""
    from mesh.cli import store

    store.stats(Path(data), as_json=as_json)
