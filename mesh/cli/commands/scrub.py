"""`mesh scrub`."""

from __future__ import annotations

from enum import StrEnum
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
from mesh.cli.commands.told import told
from mesh.cli.forms import Form
from mesh.errors import InputError


class ScrubOrder(StrEnum):
    """What can be asked of a scrub."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    STATUS = "status"


@told
def scrub_command(
    order: Annotated[ScrubOrder, typer.Argument(help="what to do; status only looks")],
    follow: Annotated[
        bool, typer.Option("--follow", help="with start: wait for the end; Ctrl-C ends the wait")
    ] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
    *,
    form: Form,
) -> None:
    """Read everything again to find what has rotted.

    Start a scrub, pause it, resume it, or see how it stands.
    """
    from mesh.cli import scrub

    address = node_at(node, key_file)
    if follow:
        if order is not ScrubOrder.START:
            raise InputError("--follow goes with start")
        from mesh.cli.teller import Teller

        with Teller(form, "scrub", "blobs") as teller:
            good = RUNNER.run(scrub.follow, address, teller)
        exit_unless(good)
        return
    verb = None if order is ScrubOrder.STATUS else order.value
    RUNNER.run(partial(scrub.scrub, address, verb, as_json=form.machine))
