"""`mesh key`: the keys in a key file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.arguments import Judged
from mesh.errors import InputError

key_app = typer.Typer(help="Make, list and remove the keys of a key file.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="what logs and tables call it")]
FileOption = Annotated[
    str | None,
    typer.Option("--key-file", envvar="MESH_KEY_FILE", help="the key file of the node"),
]


@key_app.command("new", cls=Judged)
def key_new_command(
    name: NameArgument,
    roles: Annotated[
        str, typer.Option(help="read, write, append, peer, admin: one, or several with commas")
    ] = "read,write,peer",
    key_file: FileOption = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FILE", help="a new file for the key itself"),
    ] = None,
) -> None:
    """Make a key and add it to a key file.

    The key itself is printed once, or written to a file that only you can read. A running node
    takes it after `mesh reload`.
    """
    from mesh.cli import keys

    keys.new(_file(key_file), name, roles, Path(output) if output is not None else None)


@key_app.command("list", cls=Judged)
def key_list_command(
    key_file: FileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON object")] = False,
) -> None:
    """Show the names and roles of the keys in a key file."""
    from mesh.cli import keys

    keys.show(_file(key_file), as_json=as_json)


@key_app.command("remove", cls=Judged)
def key_remove_command(name: NameArgument, key_file: FileOption = None) -> None:
    """Take a key out of a key file.

    A running node forgets it after `mesh reload`.
    """
    from mesh.cli import keys

    keys.remove(_file(key_file), name)


def _file(key_file: str | None) -> Path:
    if key_file is None:
        raise InputError("say which key file: --key-file FILE, or MESH_KEY_FILE")
    return Path(key_file)
