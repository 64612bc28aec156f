"""What the commands share: the node that they ask, how they are run, and how they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.running import Runner
from mesh.errors import ConfigError

if TYPE_CHECKING:
    from mesh.config import Address

# The one that runs client commands: it owns what happens at a signal.
RUNNER = Runner()


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


def node_at(url: str, key_file: str | None) -> Address:
    """The node that a client command talks to."""
    import msgspec

    from mesh.config import parse_peer, read_keys

    address = parse_peer(url)
    if address.protocol != "mesh":
        raise ConfigError(f"--node takes a mesh node, and {address.place} is none")
    key = read_keys(key_file)[0] if key_file is not None else None
    return msgspec.structs.replace(address, key=key)


def exit_unless(good: bool) -> None:
    """Exit with 1 when a command has not done all that it was asked."""
    if not good:
        raise typer.Exit(1)
