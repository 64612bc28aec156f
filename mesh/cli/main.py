"""The commands, and how their errors end: one line on stderr, 1 or 2 as the exit code.

Paths are taken as text, as they were typed (arguments.py), and everything is written through the
streams of streams.py.

Each command imports what it is made of when it is called: a client command need not load a web
server, and the help needs nothing but typer. tests/cli/test_loading.py names what each may load.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.arguments import Client, Judged
from mesh.cli.running import Runner
from mesh.errors import ConfigError, InputError, MeshError, one_line

if TYPE_CHECKING:
    from mesh.config import Address


class ScrubOrder(StrEnum):
    """What can be asked of a scrub."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    STATUS = "status"


_runner = Runner()
_run = _runner.run

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


@app.command("run", cls=Judged)
def run_command(
    listen: Annotated[
        str | None, typer.Option(help="host:port, port 0 for any free one; default 127.0.0.1:7280")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="directory for the blobs; default ./data")
    ] = None,
    peers: Annotated[
        list[str] | None, typer.Option(help="a,b,c: host, host:port, URL, name=URL")
    ] = None,
    interval: Annotated[
        float | None, typer.Option(help="seconds between rounds; default 30")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="what peers call this node; default from its id")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="asyncio (default) or trio")] = None,
    max_blob: Annotated[
        str | None, typer.Option(help="largest blob that clients may put; default 1GiB")
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="allow listening beyond loopback")
    ] = None,
    key_file: Annotated[
        str | None, typer.Option(help="file of the keys that this node accepts, one a line")
    ] = None,
    peer_key_file: Annotated[
        str | None, typer.Option(help="file with the key that this node shows to peers")
    ] = None,
    blobstash: Annotated[
        bool | None, typer.Option("--blobstash/--no-blobstash", help="answer BlobStash's requests")
    ] = None,
    read_through: Annotated[
        bool | None,
        typer.Option(
            "--read-through/--no-read-through", help="fetch a blob that is not here from a peer"
        ),
    ] = None,
    node_id: Annotated[
        str | None, typer.Option(help="refuse a data directory of another node; 32 hex digits")
    ] = None,
    config: Annotated[str | None, typer.Option(help="a TOML file")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning, error")] = "info",
) -> None:
    """Run a node in the foreground, until Ctrl-C or SIGTERM."""
    from mesh.cli import run
    from mesh.config import flag_peers, load, parse_size

    flags = {
        "listen": listen,
        "data": data,
        "peers": flag_peers(peers),
        "interval_seconds": interval,
        "name": name,
        "backend": backend,
        "max_blob_bytes": parse_size(max_blob) if max_blob is not None else None,
        "insecure": insecure,
        "key_file": key_file,
        "peer_key_file": peer_key_file,
        "blobstash": blobstash,
        "read_through": read_through,
        "node_id": node_id,
    }
    run.start_logging(log_level)
    run.hide_keys(sys.argv)
    file = Path(config) if config is not None else None
    run.run_node(load(file, os.environ, flags), lambda line: print(line, flush=True))


NodeOption = Annotated[
    str, typer.Option("--node", envvar="MESH_NODE", help="the node to talk to", show_default=True)
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key-file", envvar="MESH_KEY_FILE", help="file that holds the node's key"),
]
# At config.DEFAULT_PORT. It is written out here because loading mesh.config takes a sixth of the
# time in which the help is printed.
DEFAULT_NODE = "http://127.0.0.1:7280"


@app.command("put", cls=Client)
def put_command(
    paths: Annotated[
        list[str] | None, typer.Argument(help="files, directories, - for stdin")
    ] = None,
    tree: Annotated[
        bool, typer.Option("--tree", help="each PATH is a directory, and gets a manifest")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="no manifest of a tree that could not be put whole")
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="leave out what matches GLOB: '*.o', '/build'", metavar="GLOB"),
    ] = None,
    exclude_from: Annotated[
        list[str] | None, typer.Option(help="GLOBs from a file, one a line", metavar="FILE")
    ] = None,
    one_file_system: Annotated[
        bool, typer.Option("--one-file-system", help="do not go into other file systems")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list what would be put, and ask no node")
    ] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """Store files; prints "DIGEST  PATH" for each, durable when printed."""
    from mesh.cli import put

    if not paths:
        raise InputError("nothing to put: name files or directories")
    if strict and not tree:
        raise InputError("--strict goes with --tree")
    options = put.Options(
        tree=tree,
        strict=strict,
        dry_run=dry_run,
        one_file_system=one_file_system,
        exclude=exclude or (),
        exclude_from=exclude_from or (),
    )
    _ended(_run(put.put, _node(node, key_file), paths, options))


@app.command("get", cls=Client)
def get_command(
    digest: Annotated[str, typer.Argument(help="64 hex digits")],
    directory: Annotated[str | None, typer.Argument(help="with --tree: where to restore")] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="write to this file; - for standard output")
    ] = None,
    tree: Annotated[bool, typer.Option("--tree", help="DIGEST is a manifest: restore it")] = False,
    force: Annotated[bool, typer.Option("--force", help="with --tree: replace files")] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """Fetch a blob to standard output or a file, or restore a directory."""
    from mesh.cli import get
    from mesh.core.digest import parse_digest

    name = parse_digest(digest)
    if tree:
        if directory is None or output is not None:
            raise InputError("get --tree takes a digest and a directory")
        restore = partial(get.get_tree, force=force)
        _ended(_run(restore, _node(node, key_file), name, Path(directory)))
        return
    if directory is not None or force:
        raise InputError("a directory and --force go with --tree")
    _run(get.get, _node(node, key_file), name, None if output == "-" else output)


@app.command("ls", cls=Client)
def ls_command(
    prefix: Annotated[str, typer.Option(help="hex digits that digests begin with")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="a JSON object a line")] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """List blobs and their sizes."""
    from mesh.cli import admin
    from mesh.core.digest import parse_prefix

    # Whoever has seen enough goes, as `head` does.
    with suppress(BrokenPipeError):
        _run(partial(admin.ls, _node(node, key_file), parse_prefix(prefix), as_json=as_json))
        sys.stdout.flush()


@app.command("status", cls=Client)
def status_command(
    as_json: Annotated[bool, typer.Option("--json", help="what GET /v1/status says")] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """Show how a node and its peers stand."""
    from mesh.cli import admin

    _run(partial(admin.status, _node(node, key_file), as_json=as_json))


@app.command("sync", cls=Client)
def sync_command(
    peers: Annotated[
        list[str] | None, typer.Argument(help="names or addresses; default all")
    ] = None,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """Run a round with peers now, both ways; exit 1 unless all of them are level after it."""
    from mesh.cli import admin

    _ended(_run(admin.sync, _node(node, key_file), peers or []))


@app.command("wait", cls=Client)
def wait_command(
    timeout: Annotated[float | None, typer.Option(min=0, help="seconds; default for ever")] = None,
    whole: Annotated[
        bool, typer.Option("--mesh", help="wait for the peers of the peers, too, and so on")
    ] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """Wait until this node and its peers hold the same blobs; exit 1 without peers."""
    from mesh.cli import admin

    _ended(_run(partial(admin.wait, _node(node, key_file), timeout, whole=whole)))


@app.command("scrub", cls=Client)
def scrub_command(
    order: Annotated[ScrubOrder, typer.Argument(help="what to do; status only looks")],
    as_json: Annotated[bool, typer.Option("--json", help="what GET /v1/scrub says")] = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
) -> None:
    """Read everything again to find what has rotted: start, pause, resume, or see how it stands."""
    from mesh.cli import admin

    verb = None if order is ScrubOrder.STATUS else order.value
    _run(partial(admin.scrub, _node(node, key_file), verb, as_json=as_json))


blobstash_app = typer.Typer(help="Talk to BlobStash servers.", no_args_is_help=True)
app.add_typer(blobstash_app, name="blobstash")


@blobstash_app.command("sync", cls=Judged)
def blobstash_sync_command(
    url: Annotated[str, typer.Argument(help="blobstash+http://host:8050")],
    key_file: Annotated[str | None, typer.Option(help="file of the server's key")] = None,
    one_way: Annotated[
        bool, typer.Option("--one-way", help="take everything, give nothing")
    ] = False,
    data: Annotated[
        str, typer.Option(help="data directory; no node may be running on it")
    ] = "data",
    node: Annotated[str | None, typer.Option(help="sync a running node's blobs instead")] = None,
    node_key_file: Annotated[str | None, typer.Option(help="file of that node's key")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="as JSON, in the form of BlobStash's own sync")
    ] = False,
) -> None:
    """Sync once with a BlobStash server, without a running node."""
    from mesh.cli import blobstash, run

    run.start_logging("warning")
    run.hide_keys(sys.argv)
    server = blobstash.server(url, key_file)
    if node is not None:
        local = _node(node, node_key_file)
        stats = _run(partial(blobstash.sync_node, server, local, one_way=one_way))
    else:
        stats = _run(partial(blobstash.sync_directory, server, Path(data), one_way=one_way))
    print(blobstash.shown(stats, as_json=as_json))


@app.command(
    "bench",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench_command(context: typer.Context) -> None:
    """Measure what a mesh costs on this machine: reconcile, replicate, put, node, plot."""
    from mesh.cli.bench import bench_app

    code = bench_app(context.args, prog_name="mesh bench", standalone_mode=False)
    _ended(not code)


store_app = typer.Typer(
    help="Look after a data directory on which no node is running.", no_args_is_help=True
)
app.add_typer(store_app, name="store")
DataOption = Annotated[str, typer.Option("--data", help="the data directory")]


@store_app.command("check", cls=Judged)
def store_check_command(
    data: DataOption = "data",
    read_data: Annotated[bool, typer.Option("--read-data", help="read every byte, too")] = False,
) -> None:
    """Check a data directory and change nothing; exit 1 if something is wrong."""
    from mesh.cli import run, store

    run.start_logging("error")
    _ended(store.check(Path(data), read_data=read_data))


@store_app.command("rebuild", cls=Judged)
def store_rebuild_command(data: DataOption = "data") -> None:
    """Make the index anew from the log."""
    from mesh.cli import run, store

    run.start_logging("warning")
    store.rebuild(Path(data))


@store_app.command("stats", cls=Judged)
def store_stats_command(
    data: DataOption = "data",
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON object")] = False,
) -> None:
    """Print how many blobs there are, and how large they are."""
    from mesh.cli import store

    store.stats(Path(data), as_json=as_json)


@app.command("version", cls=Judged)
def version_command() -> None:
    """Print the version."""
    from mesh.version import package_version

    print(package_version())


def main() -> None:
    """The program. 0: done; 1: it could not be done; 2: it was asked wrongly.

    A signal: 128 and its number, 130 for Ctrl-C and 143 for SIGTERM.
    """
    _runner.claim()
    code = 0
    try:
        try:
            app()
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


def _node(url: str, key_file: str | None) -> Address:
    """The node that a client command talks to."""
    import msgspec

    from mesh.config import parse_peer, read_keys

    address = parse_peer(url)
    if address.protocol != "mesh":
        raise ConfigError(f"--node takes a mesh node, and {address.place} is none")
    key = read_keys(key_file)[0] if key_file is not None else None
    return msgspec.structs.replace(address, key=key)


def _ended(good: bool) -> None:
    if not good:
        raise typer.Exit(1)


def _said(errors: BaseExceptionGroup[Exception], code: int) -> int:
    """Print the first error in one line."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    text = one_line(first)
    if isinstance(first, OSError) and first.strerror:
        # What is read and written by name is translated where that happens: this is the output.
        text = f"{first.filename or 'cannot write the output'}: {first.strerror}"
    print(f"mesh: {text}", file=sys.stderr)
    return code
