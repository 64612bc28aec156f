"""What a node writes to its log: for people on a terminal, as JSON for programs."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.cli.logs import start_logging
from mesh.errors import ConfigError
from tests.processes import READY, environment, mesh, nodes

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging belongs to the whole process: it is put back."""
    root, ours = logging.getLogger(), logging.getLogger("mesh")
    before = root.handlers[:], root.level, ours.level
    with warnings.catch_warnings():
        yield
        logging.captureWarnings(False)
    root.handlers[:], root.level, ours.level = before


def logged(form: str, monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any) -> str:
    """What one warning looks like, without the newline behind it."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    start_logging("info", form)
    logging.getLogger("mesh").warning(*args, **options)
    assert stream.getvalue().endswith("\n")
    return stream.getvalue()[:-1]


HOSTILE = st.text() | st.sampled_from(["a\nb", "\x1b[2J", "\x85", "\u2028", "\x9b0m", "\udc80"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(HOSTILE)
def test_what_strangers_say_is_one_line(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    text = logged("text", monkeypatch, "peer %s: %s", "b", said)
    assert text.isprintable()
    assert re.match(rf"{TIME} WARNING peer b: ", text)
    line = logged("json", monkeypatch, "peer %s", said, extra={"facts": {"peer": said, "n": 3}})
    assert line.isprintable()
    entry = json.loads(line)
    assert re.fullmatch(TIME, entry["time"])
    assert (entry["level"], entry["logger"], entry["n"]) == ("warning", "mesh", 3)
    assert entry["message"] == f"peer {entry['peer']}"
    assert entry["peer"].isprintable()


def test_the_time_is_that_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    entry = json.loads(logged("json", monkeypatch, "now"))
    assert before <= datetime.fromisoformat(entry["time"]) <= datetime.now(UTC)


def failing(said: str) -> Any:
    try:
        raise ValueError(said)
    except ValueError:
        return sys.exc_info()


def test_a_traceback_forges_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = failing("bad\n2026-01-01T00:00:00.000Z ERROR forged \x1b[2J")
    first, *rest = logged("text", monkeypatch, "a bug", exc_info=trouble).split("\n")
    assert re.fullmatch(rf"{TIME} WARNING a bug", first)
    assert any("ValueError" in line for line in rest)
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    line = logged("json", monkeypatch, "a bug", exc_info=trouble)
    assert line.isprintable()
    assert "ValueError: bad\n" in json.loads(line)["traceback"]


def test_a_warning_of_python_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    start_logging("info", "json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old\nways", stacklevel=1)
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["level"] == "warning"


def test_auto_is_json_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert logged("auto", monkeypatch, "hello").startswith("{")


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown log format 'yaml'; there are auto, text, json"):
        start_logging("info", "yaml")
    done = mesh("run", "--log-format", "yaml")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_node_logs_json_into_a_pipe(tmp_path: Path, backend: str) -> None:
    with nodes() as start:
        node = start(tmp_path / "data", "--log-format", "auto", backend=backend)
        node.ready()
        node.stop()
        entries = [json.loads(line) for line in node.log.splitlines()]
    assert [e["message"] for e in entries if e["message"].startswith("ready: root ")]
    assert entries[-1]["message"] == "stopped"
    assert {tuple(e)[:4] for e in entries} == {("time", "level", "logger", "message")}


def test_a_node_logs_text_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mesh", "run", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, "--data", str(tmp_path)], stdout=subprocess.PIPE, stderr=theirs,
        text=True, env=environment(),
    ) as node:  # fmt: skip
        os.close(theirs)
        assert node.stdout is not None
        assert READY.search(node.stdout.readline())
        said = b""
        while b"ready: root" not in said:
            said += os.read(ours, 65536)
        node.terminate()
        assert node.wait(30) == 0
    said += os.read(ours, 65536)
    os.close(ours)
    lines = said.decode().replace("\r\n", "\n").splitlines()
    assert lines[-1].endswith(" INFO    stopped")
    assert all(re.match(rf"{TIME} [A-Z]+ +\S", line) for line in lines), said
