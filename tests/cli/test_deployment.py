"""The files under examples/ that start a node: what they say to mesh is what mesh takes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from mesh.cli.main import app
from mesh.config import load

EXAMPLES = Path(__file__).parents[2] / "examples"
UNIT = (EXAMPLES / "mesh.service").read_text("utf-8")
CONTAINER = (EXAMPLES / "Containerfile").read_text("utf-8").replace("\\\n", " ")


def parsed(*words: str) -> dict[str, Any]:
    """What a command makes of its arguments."""
    group: Any = typer.main.get_command(app)
    command = group.commands[words[0]]
    return command.make_context(f"mesh {words[0]}", list(words[1:])).params


def test_the_unit_starts_a_node() -> None:
    program, *words = shlex.split(re.search(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)[1])
    assert program.endswith("/bin/mesh")
    options = parsed(*words)
    assert (options["config"], options["data"]) == ("/etc/mesh/mesh.toml", "/var/lib/mesh")
    assert options["log_format"] == "text"
    # The exit code of what trying again does not mend; a stop that is longer than a node's own.
    assert "RestartPreventExitStatus=2" in UNIT
    assert "ExecReload=/bin/kill -HUP $MAINPID" in UNIT
    seconds = float(re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[1])
    assert seconds > load(None, {}, {}).shutdown_seconds


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_understands_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    unit = tmp_path / "mesh.service"
    # It also looks whether the program exists.
    unit.write_text(UNIT.replace("/opt/mesh/bin/mesh", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_the_container_file_sets_what_a_node_reads(tmp_path: Path) -> None:
    key = tmp_path / "mesh.key"  # it is mounted into a container, and is not here
    key.write_text("a-key-of-thirty-two-bytes-or-more\n")
    container = CONTAINER.replace("/etc/mesh/mesh.key", str(key))
    env = dict(re.findall(r"(MESH_\w+)=(\S+)", re.search(r"^ENV (.*)$", container, re.M)[1]))
    config = load(None, env, {})
    assert (config.data, config.listen) == ("/data", "0.0.0.0:7280")
    assert config.key_file == config.peer_key_file == str(key)
    for order in ("ENTRYPOINT", "CMD"):
        assert re.search(rf"^{order} \[", CONTAINER, re.M), order
    (entry,) = json.loads(re.search(r"^ENTRYPOINT (.*)$", CONTAINER, re.M)[1])
    assert entry == "mesh"
    parsed(*json.loads(re.search(r"^CMD (.*)$", CONTAINER, re.M)[1]))
    _, *check = json.loads(re.search(r"^HEALTHCHECK .* CMD (.*)$", CONTAINER, re.M)[1])
    parsed(*check)


def test_what_the_container_file_copies_is_there() -> None:
    for line in re.findall(r"^COPY (?!--from)(.*)$", CONTAINER, re.M):
        *sources, _ = line.split()
        assert all((EXAMPLES.parent / source).exists() for source in sources)
