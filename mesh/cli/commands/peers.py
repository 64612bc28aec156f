"""`mesh peers` and `mesh reload`: change a running node."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated

import typer

from mesh.cli.arguments import Client
from mesh.cli.commands.common import DEFAULT_NODE, RUNNER, KeyOption, NodeOption, node_at

peers_app = typer.Typer(
    help="Show and change the peers of a running node.",
    no_args_is_help=True,
)

NameArgument = Annotated[str, typer.Argument(metavar="PEER", help="its name, address or URL")]
JsonOption = Annotated[bool, typer.Option("--json", help="as a JSON object")]
DataOption = Annotated[
    str | None,
    typer.Option(help="the node's data directory, for its control.key; default: ask the node"),
]
ControlOption = Annotated[
    str | None,
    typer.Option(
        "--control-key-file",
        envvar="MESH_CONTROL_KEY_FILE",
        help="a copy of the node's control.key",
    ),
]


@peers_app.command("list", cls=Client)
def peers_list_command(
    as_json: JsonOption = False, node: NodeOption = DEFAULT_NODE, key_file: KeyOption = None
) -> None:
    """Show the peers of a node, and where each comes from."""
    from mesh.cli import peers

    RUNNER.run(partial(peers.show, node_at(node, key_file), as_json=as_json))


@peers_app.command("add", cls=Client)
def peers_add_command(
    peer: Annotated[str, typer.Argument(help="host, host:port or URL, maybe behind name=")],
    direction: Annotated[
        str, typer.Option(help="both, pull (only fetch from it) or push (only send to it)")
    ] = "both",
    peer_key_file: Annotated[
        str | None,
        typer.Option(
            help="file on the node's machine with the key for this peer; default: the node's"
        ),
    ] = None,
    one_way: Annotated[
        bool,
        typer.Option("--one-way", help="BlobStash only: only fetch, as docs/blobstash.md says"),
    ] = False,
    as_json: JsonOption = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
    data: DataOption = None,
    control_key_file: ControlOption = None,
) -> None:
    """Add a peer, or take back the removal of one."""
    wanted = {
        "url": peer, "key_file": peer_key_file, "direction": direction, "one_way": one_way,
    }  # fmt: skip
    _order("peers/add", wanted, as_json, node, key_file, data, control_key_file)


@peers_app.command("remove", cls=Client)
def peers_remove_command(
    peer: NameArgument,
    as_json: JsonOption = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
    data: DataOption = None,
    control_key_file: ControlOption = None,
) -> None:
    """Remove a peer for good.

    One that the configuration lists stays removed, too. No blob is deleted.
    """
    _order("peers/remove", {"name": peer}, as_json, node, key_file, data, control_key_file)


@peers_app.command("pause", cls=Client)
def peers_pause_command(
    peer: NameArgument,
    as_json: JsonOption = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
    data: DataOption = None,
    control_key_file: ControlOption = None,
) -> None:
    """Begin nothing with a peer until it is resumed.

    The pause outlasts restarts of the node. The peer's own rounds with this node go on; pause this
    node there as well to stop those.
    """
    _order("peers/pause", {"name": peer}, as_json, node, key_file, data, control_key_file)


@peers_app.command("resume", cls=Client)
def peers_resume_command(
    peer: NameArgument,
    as_json: JsonOption = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
    data: DataOption = None,
    control_key_file: ControlOption = None,
) -> None:
    """End a pause."""
    _order("peers/resume", {"name": peer}, as_json, node, key_file, data, control_key_file)


@peers_app.command("set-url", cls=Client)
def peers_set_url_command(
    peer: NameArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="where it is now: host:port or URL")],
    as_json: JsonOption = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
    data: DataOption = None,
    control_key_file: ControlOption = None,
) -> None:
    """Tell a node that a peer has another address now.

    The peer keeps its name and its key.
    """
    wanted = {"name": peer, "url": url}
    _order("peers/set-url", wanted, as_json, node, key_file, data, control_key_file)


def _order(
    order: str,
    wanted: Mapping[str, object],
    as_json: bool,
    node: str,
    key_file: str | None,
    data: str | None,
    control_key_file: str | None,
) -> None:
    from mesh.cli import peers

    keys = peers.Keys(control_key_file, data)
    RUNNER.run(partial(peers.change, node_at(node, key_file), order, wanted, keys, as_json=as_json))


def reload_command(
    as_json: JsonOption = False,
    node: NodeOption = DEFAULT_NODE,
    key_file: KeyOption = None,
    data: DataOption = None,
    control_key_file: ControlOption = None,
) -> None:
    """Have a node read its configuration and keys again.

    SIGHUP does the same. Peers and keys take effect at once; the answer names the settings that
    wait for a restart.
    """
    from mesh.cli import peers

    keys = peers.Keys(control_key_file, data)
    RUNNER.run(partial(peers.reload, node_at(node, key_file), keys, as_json=as_json))
