"""A start that fails says why in one line on stderr and exits 2, on both loops."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import environment, fill

pytestmark = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def start(data: Path, backend: str, descriptors: int | None = None) -> tuple[int, list[str]]:
    """The exit code and the lines on stderr of a node that cannot start."""

    def limit() -> None:
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    done = subprocess.run(
        [sys.executable, "-m", "mesh", "run", "--data", str(data), "--listen", "127.0.0.1:0",
         "--backend", backend, "--log-format", "text"],
        capture_output=True, text=True, env=environment(), timeout=60, preexec_fn=limit,
    )  # fmt: skip
    return done.returncode, done.stderr.splitlines()


def file_for_directory(data: Path) -> None:
    shutil.rmtree(data / "segments")
    (data / "segments").touch()


def index_is_a_directory(data: Path) -> None:
    for path in data.glob("index.sqlite*"):
        path.unlink()
    (data / "index.sqlite").mkdir()


def data_is_a_file(data: Path) -> None:
    shutil.rmtree(data)
    data.touch()


def identity_is_not_utf_8(data: Path) -> None:
    (data / "node.json").write_bytes(b'{"node_id": "\xff"}')


BROKEN: list[Callable[[Path], None]] = [
    file_for_directory,
    index_is_a_directory,
    data_is_a_file,
    identity_is_not_utf_8,
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_directory_that_cannot_be_opened_is_one_line(
    broken: Callable[[Path], None], backend: str, tmp_path: Path
) -> None:
    fill(tmp_path / "data", [b"a blob"])
    broken(tmp_path / "data")
    code, lines = start(tmp_path / "data", backend)
    said = [line for line in lines if not re.match(r"\d{4}-\S+Z (INFO|WARNING) ", line)]
    assert len(said) == 1, lines
    assert said[0].startswith("mesh: ")
    assert code == 2


@pytest.mark.parametrize("descriptors", [10, 63])
def test_a_limit_that_is_too_low_is_one_line(
    descriptors: int, backend: str, tmp_path: Path
) -> None:
    code, lines = start(tmp_path / "data", backend, descriptors)
    assert (code, len(lines)) == (2, 1), lines
    assert "ulimit -n" in lines[0]
    assert str(descriptors) in lines[0]
    assert os.listdir(tmp_path) == []
