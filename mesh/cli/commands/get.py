"""`mesh get`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from mesh.config import Address


@told
def get_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="a digest, or at least its first 6 digits; TREE:path/inside for a file of a tree",
        ),
    ],
    directory: Annotated[str | None, typer.Argument(help="with --tree: where to restore")] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="write to this file; - for standard output")
    ] = None,
    tree: Annotated[
        bool,
        typer.Option("--tree", help="NAME is a snapshot, a manifest or latest:HOST/PATH"),
    ] = False,
    contents: Annotated[
        bool, typer.Option("--list", help="with --tree: say what is in it, and restore nothing")
    ] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(help="with --tree: only what matches GLOB, and what is below", metavar="GLOB"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="with --tree: replace files")] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
    *,
    form: Form,
) -> None:
    """Fetch a blob or one file of a tree, or restore a tree."""
    from mesh.cli import get
    from mesh.cli.teller import Teller

    if tree and output is not None:
        raise InputError("-o writes one file: name it as TREE:path/inside, without --tree")
    if tree and contents:
        if directory is not None or force:
            raise InputError("--list restores nothing: leave out the directory and --force")
        _list(node_at(node, key_file), name, include or (), form)
        return
    if tree:
        if directory is None:
            raise InputError("get --tree takes the name of a tree and a directory")
        with Teller(form, "get", "files") as teller:
            restore = partial(get.get_tree, teller=teller, force=force, include=include or ())
            good = RUNNER.run(restore, node_at(node, key_file), name, Path(directory))
        exit_unless(good)
        return
    if directory is not None or force or contents or include:
        raise InputError("a directory, --list, --include and --force go with --tree")
    if output == "-":
        output = None
    if output is None:
        if form.machine:
            raise InputError("the blob goes to standard output, and so does JSON; use -o FILE")
        if sys.stdout.isatty():
            form = form.unseen()  # the blob and a bar would be mixed on the screen
    with Teller(form, "get", "blobs") as teller:
        RUNNER.run(get.get, node_at(node, key_file), name, output, teller)


def _list(node: Address, name: str, include: Sequence[str], form: Form) -> None:
    """What is in a tree."""
    from mesh.cli.contents import show_contents

    shown = partial(show_contents, include=include, form=form)
    with suppress(BrokenPipeError):  # whoever has seen enough goes, as `head` does
        RUNNER.run(shown, node, name)
        sys.stdout.flush()
