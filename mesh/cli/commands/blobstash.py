"""`mesh blobstash`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.arguments import Judged
from mesh.cli.commands.common import (
    RUNNER,
    node_at,
)

blobstash_app = typer.Typer(help="Talk to BlobStash servers.", no_args_is_help=True)


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
    from mesh.cli import blobstash, logs, run

    logs.start_logging("warning")
    run.hide_keys(sys.argv)
    server = blobstash.server(url, key_file)
    if node is not None:
        local = node_at(node, node_key_file)
        stats = RUNNER.run(partial(blobstash.sync_node, server, local, one_way=one_way))
    else:
        stats = RUNNER.run(partial(blobstash.sync_directory, server, Path(data), one_way=one_way))
    print(blobstash.shown(stats, as_json=as_json))
