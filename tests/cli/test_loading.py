"""What a command loads: what it does not need costs it most of the time that it takes to start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.processes import environment, free_places

PROGRAM = """
import sys
from mesh.cli.main import main
try:
    main()
except SystemExit:
    print("\\n".join(sys.modules), file=sys.__stdout__)
"""

# Parts of a node and its server: of no use to a command that asks a node. What draws tables
# (rich) comes with httpx, so that only commands that ask nobody do without it.
NODE = {"mesh.node", "mesh.actors", "mesh.store", "mesh.server", "quart", "hypercorn", "numpy"}
CLIENT = {"httpx", "httpcore", "trio"}


@pytest.mark.parametrize(
    ("words", "never"),
    [
        (["--help"], NODE | CLIENT | {"rich"}),
        (["put", "--help"], NODE | CLIENT | {"rich"}),
        (["version"], NODE | CLIENT | {"rich"}),
        (["put", "-", "--node", "NOWHERE"], NODE),
        (["get", "0" * 64, "--node", "NOWHERE"], NODE),
        (["status", "--node", "NOWHERE"], NODE),
        (["ls", "--node", "NOWHERE"], NODE),
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
