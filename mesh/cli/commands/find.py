"""`mesh ls`: which blobs there are."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated

import typer

from mesh.cli.commands.common import (
    DEFAULT_NODE,
    RUNNER,
    KeyOption,
    NodeOption,
    node_at,
)
from mesh.cli.commands.told import JsonOption, LinesOption
from mesh.cli.forms import Form
from mesh.errors import InputError


def ls_command(
    beginning: Annotated[
        str | None, typer.Argument(metavar="PREFIX", help="hex digits that digests begin with")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="the same as PREFIX")] = None,
    as_json: JsonOption = False,
    as_lines: LinesOption = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """List blobs and their sizes."""
    from mesh.cli import listing
    from mesh.core.digest import parse_prefix

    if beginning is not None and prefix is not None:
        raise InputError("PREFIX and --prefix are the same; give one of them")
    form = Form(json=as_json, lines=as_lines).judged()
    chosen = parse_prefix(beginning or prefix or "")
    # Whoever has seen enough goes, as `head` does.
    with suppress(BrokenPipeError):
        RUNNER.run(listing.ls, node_at(node, key_file), chosen, form)
        sys.stdout.flush()
