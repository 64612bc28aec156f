"""The commands in a shell: completion, pipes that end early, terminals without colour."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import NodeProcess, environment, fill, mesh, nodes

BLOBS = 3000  # a listing of them is more than a pipe holds


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    data = tmp_path_factory.mktemp("node") / "data"
    fill(data, [b"%d" % number for number in range(BLOBS)])
    with nodes() as start:
        started = start(data, "--peers", "gone=127.0.0.1:9")
        started.ready()
        yield started


def bash(script: str, home: Path, **env: str) -> str:
    """What a script prints in which `mesh` is the command; it must succeed."""
    place = home / "bin"
    place.mkdir(exist_ok=True)
    command = place / "mesh"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nfrom mesh.__main__ import main\n"
        'sys.argv[0] = "mesh"\nmain()\n'
    )
    command.chmod(0o755)
    path = f"{place}:{os.environ['PATH']}"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60,
        env=environment({"PATH": path, "HOME": str(home), "PYTHONPATH": root, **env}),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


COMPLETE = """
COMP_WORDS=({words}); COMP_CWORD={at}; _mesh_completion mesh; printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def test_the_completion_that_is_shown_completes(tmp_path: Path) -> None:
    script = "mesh --show-completion > shown && . ./shown && complete -p mesh > /dev/null\n"
    script = f"cd {tmp_path} && {script}"
    script += COMPLETE.format(words="mesh sta", at=1) + COMPLETE.format(words="mesh put --ex", at=2)
    assert bash(script, tmp_path).split() == ["status", "--exclude", "--exclude-from"]


def test_the_completion_that_is_installed_completes(tmp_path: Path) -> None:
    bash("mesh --install-completion; true", tmp_path)
    script = '. "$HOME/.bashrc"\n' + COMPLETE.format(words="mesh store re", at=2)
    assert bash(script, tmp_path).split() == ["rebuild"]


def test_whoever_has_seen_enough_of_a_listing_goes(node: NodeProcess, tmp_path: Path) -> None:
    script = 'mesh ls | head -2; echo "${PIPESTATUS[@]}"'
    *lines, codes = bash(script, tmp_path, MESH_NODE=node.url).splitlines()
    assert len(lines) == 2
    assert codes == "0 0"


@pytest.mark.parametrize("command", ["status", "sync", "ls"])
def test_a_pipe_gets_plain_text(node: NodeProcess, command: str) -> None:
    done = mesh(command, env={"MESH_NODE": node.url, "FORCE_COLOR": "", "TERM": "xterm-256color"})
    assert done.stdout
    assert b"\x1b" not in done.stdout + done.stderr


def on_a_terminal(*words: str, **env: str) -> str:
    ours, theirs = pty.openpty()
    shown = b""
    with subprocess.Popen(
        [sys.executable, "-m", "mesh", *words], stdin=theirs, stdout=theirs, stderr=theirs,
        env=environment({"TERM": "xterm-256color", **env}),
    ):  # fmt: skip
        os.close(theirs)
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # what a terminal's end is called
            pass
    os.close(ours)
    return shown.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-7]|4[0-7]|9[0-7]|38;|48;)[0-9;]*m")


def test_no_color_is_respected(node: NodeProcess) -> None:
    shown = on_a_terminal("status", MESH_NODE=node.url, NO_COLOR="1")
    assert "gone" in shown
    assert COLOUR.search(shown) is None, repr(shown)
