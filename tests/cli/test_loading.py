"""What a command loads: what it does not need costs it most of the time that it takes to start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mesh.cli.commands import common
from mesh.config import DEFAULT_PORT
from tests.processes import environment, free_places

PROGRAM = """
import sys
from mesh.cli.main import main
try:
    main()
except SystemExit:
    print("\\n".join(sys.modules), file=sys.__stdout__)
"""

# Parts of a node and its server: of no use to a command that asks a node.
NODE = {"mesh.node", "mesh.actors", "mesh.store", "mesh.server", "quart", "hypercorn", "numpy"}
# What talks to a node: of no use to a command that asks nobody.
CLIENT = {"httpx", "httpcore", "anyio", "msgspec", "mesh.config", "importlib.metadata"}
# What httpx, httpcore and typer load without need: trio for a client on asyncio, HTTP/2 for one of
# HTTP/1.1, a command line of httpx's own, and a validator of what typer has parsed already. Then
# what is for tables on a terminal, and for files of settings.
USELESS = {"trio", "h2", "httpx._main", "pydantic", "click", "pygments"}
USELESS |= {"rich", "tomllib"}


@pytest.mark.parametrize(
    ("words", "never"),
    [
        (["--help"], NODE | CLIENT | USELESS),
        (["put", "--help"], NODE | CLIENT | USELESS),
        (["version"], NODE | USELESS | {"httpx", "anyio"}),
        (["put", "-", "--node", "NOWHERE"], NODE | USELESS),
        (["get", "0" * 64, "--node", "NOWHERE"], NODE | USELESS),
        (["status", "--node", "NOWHERE"], NODE | USELESS),
        (["status", "--check", "--node", "NOWHERE"], NODE | USELESS | {"rich"}),
        (["diff", "b", "--node", "NOWHERE"], NODE | USELESS | {"rich"}),
        (["ls", "--node", "NOWHERE"], NODE | USELESS),
        (["has", "0" * 64, "--node", "NOWHERE"], NODE | USELESS),
        (["show", "0" * 64, "--node", "NOWHERE"], NODE | USELESS),
        (["trees", "--node", "NOWHERE"], NODE | USELESS),
        (["peers", "list", "--node", "NOWHERE"], NODE | USELESS),
        (["peers", "add", "b", "--node", "NOWHERE"], NODE | USELESS),
        (["reload", "--node", "NOWHERE"], NODE | USELESS),
        (["key", "list", "--key-file", "NOWHERE"], NODE | USELESS | {"httpx", "anyio"}),
        (["config", "init"], NODE | USELESS | {"httpx", "anyio"}),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_a_command_loads_what_it_needs(words: list[str], never: set[str]) -> None:
    (nowhere,) = free_places(1)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *(nowhere if w == "NOWHERE" else w for w in words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
    )
    loaded = set(done.stdout.split("\n"))
    assert "mesh.cli.main" in loaded
    assert loaded & never == set()


def test_the_node_that_is_asked_by_default_is_at_the_default_port() -> None:
    assert f"http://127.0.0.1:{DEFAULT_PORT}" == common.DEFAULT_NODE
