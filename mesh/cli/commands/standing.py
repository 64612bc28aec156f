"""`mesh status`, `sync` and `wait`: how nodes stand, and to level them."""

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
from mesh.cli.commands.told import JsonOption, LinesOption, told
from mesh.cli.forms import Form
from mesh.cli.running import INTERRUPTED
from mesh.errors import InputError


def status_command(
    as_json: Annotated[bool, typer.Option("--json", help="what GET /v1/status says")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="each second, until Ctrl-C")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="one line for a monitor, and the exit code")
    ] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """Show how a node and its peers stand.

    With --check: 0 when all peers are level, 1 when one is not (or there is none), 3 when one
    cannot be reached. A number that is not known is shown as "?". NO_COLOR is respected.
    """
    from mesh.cli import status

    if watch and check:
        raise InputError("--watch and --check: take one of them")
    address = node_at(node, key_file)
    if check:
        raise typer.Exit(RUNNER.run(partial(status.checked, address, as_json=as_json)))
    if not watch:
        RUNNER.run(partial(status.status, address, as_json=as_json))
        return
    try:
        RUNNER.run(partial(status.watch, address, as_json=as_json))
    except SystemExit as end:
        if end.code != INTERRUPTED:  # Ctrl-C is how one leaves it
            raise


def diff_command(
    peer: Annotated[str, typer.Argument(help="its name, host:port or URL")],
    count: Annotated[bool, typer.Option("--count", help="only how many, not which")] = False,
    as_json: JsonOption = False,
    as_lines: LinesOption = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """Say which blobs only a node or only its peer has.

    "< DIGEST" is only at the node, "> DIGEST" only at the peer. Nothing is moved.
    Exit code 0: the two are equal; 1: they differ; 3: they were not compared, or not to the end.
    """
    from mesh.cli import diff

    address = node_at(node, key_file)
    form = Form(json=as_json, lines=as_lines).judged()
    work = partial(diff.diff, address, peer, form, count=count)
    # Whoever has seen enough goes, as `head` does.
    code = diff.DIFFERENT
    with suppress(BrokenPipeError):
        code = RUNNER.run(work)
        sys.stdout.flush()
    raise typer.Exit(code)


def errors_command(
    retry: Annotated[
        bool, typer.Option("--retry", help="try again now; exit 1 if something fails still")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="what GET /v1/errors says")] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """List what keeps failing, and why.

    That is blobs that do not move, peers that fail, and blobs that were lost.
    """
    from mesh.cli import errors

    address = node_at(node, key_file)
    good = RUNNER.run(partial(errors.errors, address, retry=retry, as_json=as_json))
    exit_unless(good or not retry)


@told
def sync_command(
    peers: Annotated[
        list[str] | None, typer.Argument(help="names or addresses; default all")
    ] = None,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
    *,
    form: Form,
) -> None:
    """Run a round with peers now, both ways.

    The exit code is 1 unless all of them are level after it.
    """
    from mesh.cli import rounds
    from mesh.cli.teller import Teller

    with Teller(form, "sync", "blobs") as teller:
        good = RUNNER.run(rounds.sync, node_at(node, key_file), peers or [], teller)
    exit_unless(good)


@told
def wait_command(
    timeout: Annotated[float | None, typer.Option(min=0, help="seconds; default for ever")] = None,
    whole: Annotated[
        bool, typer.Option("--mesh", help="wait for the peers of the peers, too, and so on")
    ] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
    *,
    form: Form,
) -> None:
    """Wait until a node and its peers hold the same blobs.

    The exit code is 1 when the time is over first, and without peers.
    """
    from mesh.cli import rounds
    from mesh.cli.teller import Teller

    with Teller(form, "wait", "blobs") as teller:
        waiting = partial(rounds.wait, node_at(node, key_file), timeout, teller, whole=whole)
        good = RUNNER.run(waiting)
    exit_unless(good)
