"""`mesh config`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.arguments import Client, Judged
from mesh.cli.commands.common import (
    DEFAULT_NODE,
    RUNNER,
    KeyOption,
    NodeOption,
    exit_unless,
    node_at,
)
from mesh.cli.commands.peers import ControlOption, DataOption

config_app = typer.Typer(
    help="Write, show and check the settings of a node (mesh.toml).", no_args_is_help=True
)


@config_app.command("init", cls=Judged)
def config_init_command() -> None:
    """Print a complete mesh.toml, with every setting explained."""
    from mesh.cli import config

    print(config.template(), end="")


@config_app.command(
    "show",
    cls=Judged,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def config_show_command(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON object")] = False,
) -> None:
    """Show what `mesh run` would use with the same options.

    Each setting has its value and where that comes from. Keys are not shown.
    """
    from mesh.cli import config
    from mesh.cli.commands import node

    run = typer.Typer()
    run.command(cls=Judged)(node.run_command)
    given = typer.main.get_command(run).make_context("mesh config show", context.args).params
    file = given.pop("config")
    del given["log_level"], given["log_format"]  # no settings
    path = Path(file) if file is not None else None
    config.show(path, os.environ, node.flags_of(**given), as_json=as_json)


@config_app.command("running", cls=Client)
def config_running_command(
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON object")] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
    data: DataOption = None,
    control_key_file: ControlOption = None,
) -> None:
    """Show what a running node uses now.

    Each setting has its value and where that comes from. Peers that `mesh peers` has changed are in
    `mesh peers list`.
    """
    from mesh.cli import in_force, peers

    keys = peers.Keys(control_key_file, data)
    RUNNER.run(partial(in_force.show, node_at(node, key_file), keys, as_json=as_json))


@config_app.command("check", cls=Judged)
def config_check_command(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="a mesh.toml; without it, MESH_* alone")
    ] = None,
) -> None:
    """Say all that is wrong with a file and the environment.

    That is "ok" and exit code 0 when nothing is wrong, else a line for each fault and exit code 1.
    """
    from mesh.cli import config

    exit_unless(config.check(Path(file) if file is not None else None, os.environ))
