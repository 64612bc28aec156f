"""A data directory that is not the pinned node's: one line, exit 2, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.store.directory import DataDirectory
from tests.processes import mesh, nodes

Make = Callable[[Path], object]


def another(place: Path) -> None:
    DataDirectory.claim(place).release()


def emptied(place: Path) -> None:
    """As after an `rm -r` that left the folder, or a restore that left out a file."""
    another(place)
    (place / "node.json").unlink()


CASES: dict[str, tuple[Make, str]] = {
    "not mounted": (Path.mkdir, "is its disk mounted?"),
    "missing": (lambda place: None, "No such file"),
    "emptied": (emptied, "is its disk mounted?"),
    "another's": (another, "is node "),
    "a file": (Path.touch, "is not a directory"),
}


def content(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
@pytest.mark.parametrize("case", CASES)
def test_another_directory_is_refused(tmp_path: Path, case: str, how: str) -> None:
    make, reason = CASES[case]
    place, pinned = tmp_path / "data", "0123456789abcdef" * 2
    make(place)
    file = tmp_path / "mesh.toml"
    file.write_text(f"node_id = '{pinned}'")
    before = content(tmp_path)
    pin = {"flag": ["--node-id", pinned], "file": ["--config", file]}.get(how, [])
    env = {"MESH_NODE_ID": pinned} if how == "environment" else None
    done = mesh("run", "--data", place, "--listen", "127.0.0.1:0", *pin, env=env)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert reason in done.stderr.decode()
    assert content(tmp_path) == before
    assert place.exists() == (case != "missing")


def test_the_pinned_node_starts(tmp_path: Path) -> None:
    with nodes() as start:
        node = start(tmp_path / "data")
        pinned = node.status()["node_id"]
        assert node.stop() == 0
        node = start(tmp_path / "data", "--node-id", pinned)
        assert node.status()["node_id"] == pinned


def test_an_id_that_is_none_is_refused(tmp_path: Path) -> None:
    done = mesh("run", "--data", tmp_path / "data", "--listen", "127.0.0.1:0", "--node-id", "xyz")
    assert done.returncode == 2
    assert b"32 lower-case hex digits" in done.stderr
    assert not (tmp_path / "data").exists()
