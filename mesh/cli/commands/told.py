"""The options of every command that can last: how it tells how far it is, and how it ended."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from mesh.cli.forms import Form

JsonOption = Annotated[bool, typer.Option("--json", help="one JSON object at the end")]
LinesOption = Annotated[bool, typer.Option("--json-lines", help="JSON objects, one a line")]

_OPTIONS: dict[str, Any] = {
    "quiet": Annotated[
        bool, typer.Option("-q", "--quiet", help="say nothing but errors, and what was asked for")
    ],
    "progress": Annotated[
        bool, typer.Option("--progress", help="without a terminal: a line on stderr each 10 s")
    ],
    "json": JsonOption,
    "lines": LinesOption,
}


def told(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; it gets what was asked for as its argument `form`."""

    @functools.wraps(command)
    def with_form(*args: Any, **given: Any) -> None:
        asked = Form(**{name: given.pop(name) for name in _OPTIONS})
        command(*args, form=asked.judged(), **given)

    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.name != "form"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in _OPTIONS.items()
    ]
    # What typer reads. What is wrapped has to go: typer would look at that one's annotations.
    del with_form.__dict__["__wrapped__"]
    with_form.__dict__["__signature__"] = signature.replace(parameters=[*own, *added])
    with_form.__annotations__ = {each.name: each.annotation for each in [*own, *added]}
    return with_form
