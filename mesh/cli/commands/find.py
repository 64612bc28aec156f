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


def ls_command(
    prefix: Annotated[str, typer.Option(help="hex digits that digests begin with")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="a JSON object a line")] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """List blobs and their sizes."""
    from mesh.cli import listing
    from mesh.core.digest import parse_prefix

    # Whoever has seen enough goes, as `head` does.
    with suppress(BrokenPipeError):
        RUNNER.run(
            partial(listing.ls, node_at(node, key_file), parse_prefix(prefix), as_json=as_json)
        )
        sys.stdout.flush()
