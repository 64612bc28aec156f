"""`mesh get`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
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
def get_command(
    digest: Annotated[str, typer.Argument(help="the digest, or at least its first 6 digits")],
    directory: Annotated[str | None, typer.Argument(help="with --tree: where to restore")] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="write to this file; - for standard output")
    ] = None,
    tree: Annotated[bool, typer.Option("--tree", help="DIGEST is a manifest: restore it")] = False,
    force: Annotated[bool, typer.Option("--force", help="with --tree: replace files")] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
    *,
    form: Form,
) -> None:
    """Fetch a blob to standard output or a file, or restore a directory."""
    from mesh.cli import get
    from mesh.cli.teller import Teller
    from mesh.core.digest import parse_name

    name = parse_name(digest)
    if tree:
        if directory is None or output is not None:
            raise InputError("get --tree takes a digest and a directory")
        with Teller(form, "get", "files") as teller:
            restore = partial(get.get_tree, teller=teller, force=force)
            good = RUNNER.run(restore, node_at(node, key_file), name, Path(directory))
        exit_unless(good)
        return
    if directory is not None or force:
        raise InputError("a directory and --force go with --tree")
    if output == "-":
        output = None
    if output is None:
        if form.machine:
            raise InputError("the blob goes to standard output, and so does JSON; use -o FILE")
        if sys.stdout.isatty():
            form = form.unseen()  # the blob and a bar would be mixed on the screen
    with Teller(form, "get", "blobs") as teller:
        RUNNER.run(get.get, node_at(node, key_file), name, output, teller)
