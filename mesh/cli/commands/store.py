"""`mesh store`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.arguments import Judged
from mesh.cli.commands.common import (
    exit_unless,
)
from mesh.cli.commands.told import told
from mesh.cli.forms import Form

store_app = typer.Typer(
    help="Look after a data directory on which no node is running.", no_args_is_help=True
)
DataOption = Annotated[str, typer.Option("--data", help="the data directory")]


@store_app.command("check", cls=Judged)
@told
def store_check_command(
    data: DataOption = "data",
    read_data: Annotated[bool, typer.Option("--read-data", help="read every byte, too")] = False,
    *,
    form: Form,
) -> None:
    """Check a data directory, and change nothing.

    The exit code is 1 if something is wrong.
    """
    from mesh.cli import logs, store
    from mesh.cli.teller import Teller

    logs.start_logging("error")
    with Teller(form, "store check", "blobs") as teller:
        good = store.check(Path(data), teller, read_data=read_data)
    exit_unless(good)


@store_app.command("rebuild", cls=Judged)
@told
def store_rebuild_command(data: DataOption = "data", *, form: Form) -> None:
    """Make the index anew from the log."""
    from mesh.cli import logs, store
    from mesh.cli.teller import Teller

    logs.start_logging("warning")
    with Teller(form, "store rebuild", "blobs") as teller:
        store.rebuild(Path(data), teller)


@store_app.command("stats", cls=Judged)
def store_stats_command(
    data: DataOption = "data",
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON object")] = False,
) -> None:
    """Print how many blobs there are, and how large they are."""
    from mesh.cli import store

    store.stats(Path(data), as_json=as_json)
