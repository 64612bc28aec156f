"""Arguments are judged as they were typed, before they become paths and numbers.

A Path makes "." of "" and "-" of "./-", and typer takes the last of two values of an option. So
every command is a Judged one, and takes paths as text.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

from mesh.errors import InputError


class Shown(TyperCommand):
    """A command whose help ends with examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """See TyperCommand. The lines stay as they are: they are there to be copied."""
        from mesh.cli.examples import examples_of

        if lines := examples_of(ctx.command_path):
            formatter.write("\nExamples:\n" + "".join(f"  {line}\n" for line in lines))


class Judged(Shown):
    """A command that refuses empty arguments, and options that are given twice."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See TyperCommand. InputError for what is refused here."""
        if not ctx.resilient_parsing:  # for shell completion, which judges nothing
            given, rest, order = self.make_parser(ctx).parse_args(args=list(args))
            _judge_order(order)
            for param in self.get_params(ctx):
                _judge_value(param, given.get(str(param.name)))
            _judge_value(None, rest)
        return super().parse_args(ctx, args)


class Client(Judged):
    """A command that talks to a node, on asyncio."""

    def invoke(self, ctx: Any) -> Any:
        """See TyperCommand."""
        from mesh.transport.repairs.lean import load_lean

        load_lean()
        return super().invoke(ctx)


def _judge_order(order: Iterable[Any]) -> None:
    """InputError when an option that takes one value has got two."""
    seen: set[str] = set()
    for param in order:
        if param.param_type_name != "option" or param.multiple or param.is_flag or param.count:
            continue
        if param.name in seen:
            raise InputError(f"{param.opts[-1]} is given more than once; which one is meant?")
        seen.add(param.name)


def _called(argument: Any) -> str:
    """What the help calls an argument."""
    return str(argument.metavar or argument.name.upper()).rstrip(".")


def _judge_value(param: Any, value: Any) -> None:
    """InputError when `value`, or the variable that stands for it, is empty."""
    if value is None and param is not None and param.envvar:
        names = [param.envvar] if isinstance(param.envvar, str) else param.envvar
        for name in names:
            if os.environ.get(name) == "":
                raise InputError(f"{name} in the environment is empty; unset it or give it a value")
    values = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(each, str) and not each for each in values):
        if param is None or param.param_type_name == "argument":
            what = "an argument" if param is None else _called(param)
        else:
            what = param.opts[-1]
        raise InputError(f"{what} is empty; is a variable unset?")
