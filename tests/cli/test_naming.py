"""Blobs by the first digits of their names."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh.core.digest import digest_of
from tests.processes import NodeProcess, fill, mesh, nodes

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def alike(digits: int) -> tuple[bytes, bytes]:
    """Two blobs whose names begin with the same digits."""
    seen: dict[str, bytes] = {}
    number = 0
    while True:
        data = b"alike %d" % number
        name = digest_of(data).hex()[:digits]
        if name in seen:
            return seen[name], data
        seen[name] = data
        number += 1


ONE, OTHER = alike(6)
ALONE = b"alone"


def name_of(data: bytes) -> str:
    return digest_of(data).hex()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    data = tmp_path_factory.mktemp("node") / "data"
    fill(data, [ONE, OTHER, ALONE])
    with nodes() as start:
        started = start(data)
        started.ready()
        yield started


@pytest.fixture
def run(node: NodeProcess) -> Run:
    def command(*args: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return mesh(*args, stdin=stdin, env={"MESH_NODE": node.url})

    return command


@pytest.mark.parametrize("digits", [6, 17, 63, 64])
def test_a_blob_is_found_by_its_first_digits_in_either_case(run: Run, digits: int) -> None:
    for name in (name_of(ALONE)[:digits], name_of(ALONE)[:digits].upper()):
        done = run("get", name)
        assert (done.returncode, done.stdout, done.stderr) == (0, ALONE, b"")


def test_a_prefix_of_several_names_them(run: Run) -> None:
    both = sorted([name_of(ONE), name_of(OTHER)])
    common = both[0][:6]
    done = run("get", common)
    assert done.returncode == 2
    said = done.stderr.decode()
    assert said.count("\n") == 1
    assert f"{common} begins 2 blobs" in said
    candidates = said.rpartition(": ")[2].strip().split(", ")
    assert [name[: len(candidates[0])] for name in both] == candidates
    assert run("get", candidates[0]).stdout in (ONE, OTHER)
    assert run("get", name_of(ONE)[:20]).stdout == ONE


def test_a_prefix_of_none_is_not_here(run: Run, node: NodeProcess) -> None:
    done = run("get", "0" * 12)
    assert (done.returncode, done.stdout) == (1, b"")
    assert node.place in done.stderr.decode()


def test_fewer_than_six_digits_are_refused_before_anybody_is_asked() -> None:
    done = mesh("get", name_of(ALONE)[:5], env={"MESH_NODE": "http://127.0.0.1:1"})
    assert done.returncode == 2
    assert b"at least the first 6" in done.stderr
