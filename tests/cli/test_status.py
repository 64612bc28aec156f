"""`mesh status` against real nodes: on a terminal, in a pipe, for a monitor."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.processes import NodeProcess, environment, free_places, mesh, nodes, until

DATE = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """Two nodes that list each other, and nobody else."""
    base = tmp_path_factory.mktemp("status")
    (place,) = free_places(1)
    with nodes() as start:
        one = start(base / "one", "--name", "one", "--peers", f"two={place}", "--interval", "3600")
        two = start(
            base / "two", "--name", "two", "--peers", f"one={one.place}", "--interval", "3600",
            listen=place,
        )  # fmt: skip
        one.ready()
        two.ready()
        mesh("sync", "--node", one.url)
        yield one, two


def on_a_terminal(*args: str, env: dict[str, str] | None = None) -> tuple[subprocess.Popen, int]:
    """A command whose output is a terminal, and the other end of that."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mesh", *args],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=environment({"TERM": "xterm", **(env or {})}),
    )
    os.close(theirs)
    return process, ours


def until_said(ours: int, what: bytes, times: int) -> bytes:
    """What a terminal showed until `what` was there so often, or the command ended."""
    said = b""
    with suppress(OSError):
        while said.count(what) < times and (chunk := os.read(ours, 65536)):
            said += chunk
    return said


def test_json_has_dates_beside_ages(pair: tuple[NodeProcess, NodeProcess]) -> None:
    one, _ = pair
    until(lambda: one.status()["peers"][0]["standing"] == "in sync")
    status = json.loads(mesh("status", "--json", "--node", one.url).stdout)
    peer = status["peers"][0]
    for date in (
        status["time"], status["started_at"], peer["standing_since"], peer["last_success_at"],
    ):  # fmt: skip
        assert DATE.fullmatch(date)
    assert status["started_at"] <= peer["standing_since"] <= status["time"]
    assert peer["standing_seconds"] >= 0
    assert (peer["missing_here_bytes"], peer["missing_there_bytes"]) == (0, 0)


def test_a_terminal_has_colours_and_a_pipe_has_none(pair: tuple[NodeProcess, NodeProcess]) -> None:
    one, _ = pair
    until(lambda: one.status()["peers"][0]["standing"] == "in sync")
    for extra, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        process, ours = on_a_terminal("status", "--node", one.url, env=extra)
        said = until_said(ours, b"never", 1)
        assert process.communicate(timeout=30) == (None, b"")
        os.close(ours)
        assert process.returncode == 0
        assert (b"\x1b[32min sync\x1b[0m for" in said) is coloured
        assert (b"\x1b" in said) is coloured
    assert b"\x1b" not in mesh("status", "--node", one.url).stdout


def test_watch_redraws_a_terminal_until_ctrl_c(pair: tuple[NodeProcess, NodeProcess]) -> None:
    one, _ = pair
    process, ours = on_a_terminal("status", "--watch", "--node", one.url)
    said = until_said(ours, b"\x1b[H", 2)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == (None, b"")
    os.close(ours)
    assert process.returncode == 0
    assert said.count(b"\x1b[2J") == 1, "it is wiped once, and then drawn over"


def test_watch_in_a_pipe_has_a_block_each_time(pair: tuple[NodeProcess, NodeProcess]) -> None:
    one, _ = pair
    process = subprocess.Popen(
        [sys.executable, "-m", "mesh", "status", "--watch", "--node", one.url],
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    said = b""
    while said.count(b"root ") < 2:
        said += process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.stdout.close()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert b"\x1b" not in said
    assert mesh("status", "--watch", "--check", "--node", one.url).returncode == 2


def test_watch_goes_on_over_a_restart_of_the_node(tmp_path: Path) -> None:
    (place,) = free_places(1)
    with nodes() as start:
        node = start(tmp_path / "node", listen=place)
        node.ready()
        process = subprocess.Popen(
            [sys.executable, "-m", "mesh", "status", "--watch", "--node", place],
            stdout=subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout is not None
        until_line(process, b"root ")
        node.stop()
        until_line(process, b"mesh: cannot reach ")
        start(tmp_path / "node", listen=place)
        until_line(process, b"root ")
        process.send_signal(signal.SIGINT)
        process.stdout.close()
        assert process.wait(30) == 0


def test_watch_as_json_writes_nothing_but_objects(tmp_path: Path) -> None:
    with nodes() as start:
        node = start(tmp_path / "node")
        process = subprocess.Popen(
            [sys.executable, "-m", "mesh", "status", "--watch", "--json", "--node", node.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        node.stop()
        assert process.stderr.readline().startswith(b"mesh: cannot reach ")
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        for line in (first + rest).splitlines():
            assert json.loads(line)["blobs"] == 0


def until_line(process: subprocess.Popen, begins: bytes) -> None:
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith(begins):
        assert line, "it ended"


def test_a_monitor_tells_level_from_not_level_from_unreachable(
    pair: tuple[NodeProcess, NodeProcess], tmp_path: Path
) -> None:
    one, two = pair
    until(lambda: one.status()["peers"][0]["standing"] == "in sync")
    done = mesh("status", "--check", "--node", one.url)
    assert (done.returncode, done.stdout) == (0, b"level with 1 peer\n")
    two.process.send_signal(signal.SIGSTOP)
    try:
        one.request("POST", "/v1/blobs", b"not there yet")
        done = mesh("status", "--check", "--node", one.url)
        assert done.returncode == 1
        assert done.stdout.startswith(b"not level: two: not level for ")
    finally:
        two.process.send_signal(signal.SIGCONT)
    until(lambda: one.status()["peers"][0]["standing"] == "in sync")
    (nobody,) = free_places(1)
    with nodes() as start:
        alone = start(tmp_path / "alone")
        assert mesh("status", "--check", "--node", alone.url).returncode == 1
        alone.stop()
        ghost = start(tmp_path / "alone", "--peers", f"ghost={nobody}")
        until(lambda: ghost.status()["peers"][0]["standing"] == "unreachable")
        done = mesh("status", "--check", "--node", ghost.url)
        assert done.returncode == 3
        assert re.fullmatch(rb"a peer is unreachable: ghost: .*refused.*\n", done.stdout)
        done = mesh("status", "--check", "--json", "--node", ghost.url)
        assert (done.returncode, json.loads(done.stdout)["name"]) == (3, ghost.status()["name"])


def test_a_node_whose_directory_is_gone_is_level_with_nobody(
    pair: tuple[NodeProcess, NodeProcess],
) -> None:
    one, two = pair
    segments, away = two.data / "segments", two.data.parent / "moved away"
    segments.rename(away)
    try:
        until(lambda: two.status()["store"]["state"] == "failing")
        waited = mesh("wait", "--timeout", "2", "--node", one.url)
        assert waited.returncode == 1
        assert b"the data directory is gone" in waited.stderr
        # It says so itself, to a person and to a monitor.
        assert mesh("wait", "--timeout", "2", "--node", two.url).returncode == 1
        checked = mesh("status", "--check", "--node", two.url)
        assert checked.returncode == 1
        assert b"the store is failing" in checked.stdout + checked.stderr
        assert mesh("diff", "two", "--node", one.url).returncode == 3
    finally:
        away.rename(segments)
    until(lambda: two.status()["store"]["state"] == "ok")
    assert mesh("wait", "--timeout", "30", "--node", one.url).returncode == 0
