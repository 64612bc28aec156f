"""A large blob over a link that breaks, and into a node that is killed: little comes twice."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from mesh.core.digest import digest_of
from mesh.core.partial import SAVE_BYTES
from tests.processes import NodeProcess, nodes, until
from tests.relay import Cutter

MIB = 1024 * 1024
SIZE = 64 * MIB


@pytest.fixture(scope="module")
def data() -> bytes:
    return Random(1).randbytes(SIZE)


def put(node: NodeProcess, data: bytes) -> str:
    name = digest_of(data).hex()
    assert node.request("PUT", f"/v1/blobs/{name}", data)[0] == 201
    return name


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_connection_that_is_cut_again_and_again_moves_little_twice(
    tmp_path: Path, data: bytes, backend: str
) -> None:
    with nodes() as start:
        source = start(tmp_path / "source", backend=backend)
        name = put(source, data)
        with Cutter(source.place, 8 * MIB) as link:
            options = ("--peers", link.place, "--interval", "0.2")
            target = start(tmp_path / "target", *options, backend=backend)
            until(lambda: target.status()["blobs"] == 1)
            assert link.cuts >= 7
            assert link.moved <= 1.1 * SIZE
        assert target.request("GET", f"/v1/blobs/{name}")[2] == data
        assert target.stop() == 0
        assert not [line for line in target.errors if "Traceback" in line]


def test_kill_9_in_the_middle_of_a_large_blob_costs_what_was_not_saved(
    tmp_path: Path, data: bytes
) -> None:
    with nodes() as start:
        source = start(tmp_path / "source")
        name = put(source, data)
        part = tmp_path / "target" / "partial" / name

        def come() -> int:
            return part.stat().st_size if part.exists() else 0

        with Cutter(source.place, 20 * MIB) as link:
            options = ("--peers", link.place, "--interval", "0.2")
            for least in (20 * MIB, 40 * MIB):
                target = start(tmp_path / "target", *options)
                until(lambda least=least, t=target: come() >= least or t.status()["blobs"])
                target.kill()
            target = start(tmp_path / "target", *options)
            until(lambda: target.status()["blobs"] == 1)
            # Each kill costs at most what was not saved, and what was on its way.
            assert link.moved <= SIZE + 2 * (SAVE_BYTES + 8 * MIB)
        assert target.request("GET", f"/v1/blobs/{name}")[2] == data
        assert not list((tmp_path / "target" / "partial").iterdir())
