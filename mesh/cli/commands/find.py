"""`mesh ls`: which blobs there are."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from typing import Annotated

import typer

from mesh.cli.commands.common import (
    DEFAULT_NODE,
    RUNNER,
    KeyOption,
    NodeOption,
    node_at,
)
from mesh.errors import InputError


def ls_command(
    beginning: Annotated[
        str | None, typer.Argument(metavar="PREFIX", help="hex digits that digests begin with")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="the same as PREFIX")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="a JSON object a line")] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """List blobs and their sizes."""
    from mesh.cli import listing
    from mesh.core.digest import parse_prefix

    if beginning is not None and prefix is not None:
        raise InputError("PREFIX and --prefix are the same; give one of them")
    chosen = parse_prefix(beginning or prefix or "")
    # Whoever has seen enough goes, as `head` does.
    with suppress(BrokenPipeError):
        RUNNER.run(partial(listing.ls, node_at(node, key_file), chosen, as_json=as_json))
        sys.stdout.flush()
