"""`mesh get`."""

from __future__ import annotations

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
from mesh.errors import InputError


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
) -> None:
    """Fetch a blob to standard output or a file, or restore a directory."""
    from mesh.cli import get
    from mesh.core.digest import parse_name

    name = parse_name(digest)
    if tree:
        if directory is None or output is not None:
            raise InputError("get --tree takes a digest and a directory")
        restore = partial(get.get_tree, force=force)
        exit_unless(RUNNER.run(restore, node_at(node, key_file), name, Path(directory)))
        return
    if directory is not None or force:
        raise InputError("a directory and --force go with --tree")
    RUNNER.run(get.get, node_at(node, key_file), name, None if output == "-" else output)
