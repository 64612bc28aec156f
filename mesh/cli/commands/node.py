"""`mesh run`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


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
