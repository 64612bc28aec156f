"""`mesh run`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.settings import help_of


def run_command(
    listen: Annotated[str | None, typer.Option(help=help_of("listen"))] = None,
    data: Annotated[str | None, typer.Option(help=help_of("data"))] = None,
    peers: Annotated[list[str] | None, typer.Option(help=help_of("peers"))] = None,
    interval: Annotated[float | None, typer.Option(help=help_of("interval_seconds"))] = None,
    name: Annotated[str | None, typer.Option(help=help_of("name"))] = None,
    backend: Annotated[str | None, typer.Option(help=help_of("backend"))] = None,
    max_blob: Annotated[str | None, typer.Option(help=help_of("max_blob_bytes"))] = None,
    insecure: Annotated[bool | None, typer.Option("--insecure", help=help_of("insecure"))] = None,
    key_file: Annotated[str | None, typer.Option(help=help_of("key_file"))] = None,
    peer_key_file: Annotated[str | None, typer.Option(help=help_of("peer_key_file"))] = None,
    blobstash: Annotated[
        bool | None, typer.Option("--blobstash/--no-blobstash", help=help_of("blobstash"))
    ] = None,
    read_through: Annotated[
        bool | None,
        typer.Option("--read-through/--no-read-through", help=help_of("read_through")),
    ] = None,
    node_id: Annotated[str | None, typer.Option(help=help_of("node_id"))] = None,
    config: Annotated[str | None, typer.Option(help="a TOML file; see mesh config init")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning, error")] = "info",
    log_format: Annotated[
        str, typer.Option(help="text, json; auto is text on a terminal, else json")
    ] = "auto",
) -> None:
    """Run a node in the foreground, until Ctrl-C or SIGTERM."""
    from mesh.cli import logs, run
    from mesh.config import Sources, load

    flags = flags_of(
        listen=listen, data=data, peers=peers, interval=interval, name=name, backend=backend,
        max_blob=max_blob, insecure=insecure, key_file=key_file, peer_key_file=peer_key_file,
        blobstash=blobstash, read_through=read_through, node_id=node_id,
    )  # fmt: skip
    logs.start_logging(log_level, log_format)
    run.hide_keys(sys.argv)
    file = Path(config) if config is not None else None
    sources = Sources(file, dict(os.environ), flags)
    run.run_node(load(*sources), sources, lambda line: print(line, flush=True))


def flags_of(
    *, peers: list[str] | None, interval: float | None, max_blob: str | None, **others: Any
) -> dict[str, Any]:
    """The settings that the options of `mesh run` stand for, None for those that are not given."""
    from mesh.config import flag_peers, parse_size

    return {
        "peers": flag_peers(peers),
        "interval_seconds": interval,
        "max_blob_bytes": parse_size(max_blob) if max_blob is not None else None,
        **others,
    }
