"""`mesh ls`, `has`, `show` and `trees`: which blobs there are, and what they are."""

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
    exit_unless,
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


def has_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DIGEST...", help="digests or their first digits; - for standard input"
        ),
    ] = None,
    as_json: JsonOption = False,
    as_lines: LinesOption = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """Say which blobs are here, and on how many peers.

    The exit code is 1 if one of them is not here.
    """
    from mesh.cli import holding

    if not names:
        raise InputError("name digests, or - to read them from standard input, one a line")
    if names.count("-") > 1:
        raise InputError("standard input can be read once; give - once")
    form = Form(json=as_json, lines=as_lines).judged()
    exit_unless(RUNNER.run(holding.has, node_at(node, key_file), names, form))


def show_command(
    name: Annotated[str, typer.Argument(metavar="DIGEST", help="a digest or its first digits")],
    as_json: JsonOption = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """Say what a blob is, where it is stored, and when it came."""
    from mesh.cli import about

    RUNNER.run(partial(about.show, as_json=as_json), node_at(node, key_file), name)


def trees_command(
    host: Annotated[str | None, typer.Option(help="only of this host")] = None,
    path: Annotated[str | None, typer.Option(help="only of this directory")] = None,
    tag: Annotated[str | None, typer.Option(help="only with this tag")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="only so many, the newest")] = None,
    as_json: JsonOption = False,
    as_lines: LinesOption = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """List the trees that were put, the newest first.

    Each line has the time, the snapshot, the number of files, their size, and host/path.
    """
    from mesh.cli import trees

    form = Form(json=as_json, lines=as_lines).judged()
    wanted = trees.asked(host, path, tag, last)
    with suppress(BrokenPipeError):  # whoever has seen enough goes, as `head` does
        RUNNER.run(trees.trees, node_at(node, key_file), wanted, form)
        sys.stdout.flush()
