"""`mesh put`."""

from __future__ import annotations

from typing import Annotated

import typer

from mesh.cli.commands.common import (
    DEFAULT_NODE,
    RUNNER,
    KeyOption,
    NodeOption,
    exit_unless,
    node_at,
)
from mesh.cli.commands.told import told
from mesh.cli.forms import Form
from mesh.errors import InputError


@told
def put_command(
    paths: Annotated[
        list[str] | None, typer.Argument(help="files, directories, - for stdin")
    ] = None,
    tree: Annotated[
        bool,
        typer.Option("--tree", help="each PATH is a directory, and gets a manifest and a snapshot"),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="no manifest of a tree that could not be put whole")
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="leave out what matches GLOB: '*.o', '/build'", metavar="GLOB"),
    ] = None,
    exclude_from: Annotated[
        list[str] | None, typer.Option(help="GLOBs from a file, one a line", metavar="FILE")
    ] = None,
    tag: Annotated[
        str | None, typer.Option(help="with --tree: a word that the snapshot carries")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="with --tree: what the snapshot calls this machine; default its name"),
    ] = None,
    one_file_system: Annotated[
        bool, typer.Option("--one-file-system", help="do not go into other file systems")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list what would be put, and ask no node")
    ] = False,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="read every file, also those that seem unchanged")
    ] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
    *,
    form: Form,
) -> None:
    """Store files and directories in a node.

    Prints "DIGEST  PATH" for each file as soon as it is durable.
    """
    from mesh.cli import put
    from mesh.cli.teller import Teller

    if not paths:
        raise InputError("nothing to put: name files or directories")
    if not tree and (tag is not None or host is not None):
        raise InputError("--tag and --host go with --tree")
    if strict and not tree:
        raise InputError("--strict goes with --tree")
    options = put.Options(
        tree=tree,
        strict=strict,
        dry_run=dry_run,
        one_file_system=one_file_system,
        rehash=rehash,
        exclude=exclude or (),
        exclude_from=exclude_from or (),
        tag=tag,
        host=host,
    )
    with Teller(form, "put", "files") as teller:
        good = RUNNER.run(put.shown, node_at(node, key_file), paths, options, teller)
    exit_unless(good)
