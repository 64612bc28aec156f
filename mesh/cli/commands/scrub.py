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
    node_at,
)


class ScrubOrder(StrEnum):
    """What can be asked of a scrub."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    STATUS = "status"


def scrub_command(
    order: Annotated[ScrubOrder, typer.Argument(help="what to do; status only looks")],
    as_json: Annotated[bool, typer.Option("--json", help="what GET /v1/scrub says")] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """Read everything again to find what has rotted: start, pause, resume, or see how it stands."""
    from mesh.cli import scrub

    verb = None if order is ScrubOrder.STATUS else order.value
    RUNNER.run(partial(scrub.scrub, node_at(node, key_file), verb, as_json=as_json))
