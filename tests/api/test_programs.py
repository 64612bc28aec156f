"""Small programs, one for each way of using mesh: they type-check strictly, and they run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import NodeProcess, environment, nodes

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with nodes() as start:
        yield start(tmp_path_factory.mktemp("programs") / "data")


def run(name: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAMS / f"{name}.py"), *args],
        capture_output=True, text=True, timeout=60, env=environment(), check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_program_with_a_client(served: NodeProcess, loop: str) -> None:
    assert run("with_client", served.url, loop) == f"{loop} True 16 21 False\n"


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_program_with_a_node(tmp_path: Path, loop: str) -> None:
    assert run("with_node", str(tmp_path / "data"), loop) == f"{loop} ['kept', 'kept'] 1 True\n"


def test_a_program_without_async(served: NodeProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"the last word")
    told = run("without_async", served.url, str(tmp_path / "file"))
    assert told == "blob 0000000\nb'st word' [13] ready\n"


def test_they_type_check_strictly() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", *map(str, sorted(PROGRAMS.glob("*.py")))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout.startswith("Success: no issues found in 3 source files"), done.stdout
