"""The commands, and how their errors end: one line on stderr, 1 or 2 as the exit code.

Paths are taken as text, as they were typed (arguments.py), and everything is written through the
streams of streams.py. What each command takes is in commands/.
"""

from __future__ import annotations

import sys
from copy import copy
from typing import Annotated

import typer

from mesh.cli.arguments import Client, Judged
from mesh.cli.commands import (
    blobstash,
    config,
    find,
    get,
    key,
    node,
    peers,
    put,
    scrub,
    standing,
    store,
)
from mesh.cli.commands.common import RUNNER, exit_unless
from mesh.cli.running import loaded
from mesh.errors import ConfigError, InputError, MeshError, innermost, one_line

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    # Plain help and errors: rich takes a third of the time that a command needs to start.
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        version_command()
        raise typer.Exit


@app.callback()
def before_any_command(
    version: Annotated[  # what it does is done by its callback
        bool,
        typer.Option(
            "--version", help="print the version and exit", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Keep immutable, content-addressed blobs identical on many nodes."""


app.command("run", cls=Judged)(node.run_command)
app.command("put", cls=Client)(put.put_command)
app.command("get", cls=Client)(get.get_command)
app.command("ls", cls=Client)(find.ls_command)
app.command("has", cls=Client)(find.has_command)
app.command("show", cls=Client)(find.show_command)
app.command("trees", cls=Client)(find.trees_command)
app.command("status", cls=Client)(standing.status_command)
app.command("diff", cls=Client)(standing.diff_command)
app.command("errors", cls=Client)(standing.errors_command)
app.command("sync", cls=Client)(standing.sync_command)
app.command("wait", cls=Client)(standing.wait_command)
app.command("scrub", cls=Client)(scrub.scrub_command)
app.command("reload", cls=Client)(peers.reload_command)
app.add_typer(peers.peers_app, name="peers")
app.add_typer(key.key_app, name="key")
app.add_typer(config.config_app, name="config")
app.add_typer(blobstash.blobstash_app, name="blobstash")
app.add_typer(store.store_app, name="store")


@app.command(
    "bench",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench_command(context: typer.Context) -> None:
    """Measure what a mesh costs on this machine."""
    from mesh.cli.bench import bench_app

    loaded()
    code = bench_app(context.args, prog_name="mesh bench", standalone_mode=False)
    exit_unless(not code)


@app.command("version", cls=Judged)
def version_command() -> None:
    """Print the version."""
    from mesh.version import package_version

    print(package_version())


def main() -> None:
    """The program. 0: done; 1: it could not be done; 2: it was asked wrongly.

    A signal: 128 and its number, 130 for Ctrl-C and 143 for SIGTERM.
    """
    RUNNER.claim()
    code = 0
    try:
        try:
            _needed(sys.argv[1:])()
        finally:
            sys.stdout.flush()
    except* (ConfigError, InputError) as errors:
        code = _said(errors, 2)
    except* MeshError as errors:
        code = _said(errors, 1)
    except* BrokenPipeError:
        code = 1
    except* OSError as errors:
        code = _said(errors, 1)
    except* KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _needed(words: list[str]) -> typer.Typer:
    """The app with the one command that `words` begin with, or whole where they begin otherwise.

    typer judges the parameters of every command that it is given. For all of ours that takes as
    long as a request to a node.
    """
    commands = [each for each in app.registered_commands if [each.name] == words[:1]]
    groups = [each for each in app.registered_groups if [each.name] == words[:1]]
    if not commands and not groups:
        return app
    narrow = copy(app)
    narrow.registered_commands, narrow.registered_groups = commands, groups
    return narrow


def _said(errors: BaseExceptionGroup[Exception], code: int) -> int:
    """Print the first error in one line."""
    first = innermost(errors)
    text = one_line(first)
    if isinstance(first, OSError) and first.strerror:
        # What is read and written by name is translated where that happens: this is the output.
        text = f"{first.filename or 'cannot write the output'}: {first.strerror}"
    print(f"mesh: {text}", file=sys.stderr)
    return code
