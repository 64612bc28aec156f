"""Rot under a running node, and blobs that only its peer has, as HTTP clients see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from mesh.core.digest import digest_of
from mesh.core.limits import LARGE_BLOB
from tests.processes import NodeProcess, nodes, until

SMALL = Random(1).randbytes(3000)
LARGE = Random(2).randbytes(LARGE_BLOB + 2_000_000)
PATHS = {"mesh": "/v1/blobs/", "blobstash": "/api/blobstore/blob/"}


@pytest.fixture
def backend() -> str:
    return "asyncio"


@pytest.fixture
def pair(backend: str, tmp_path: Path) -> Iterator[list[NodeProcess]]:
    """Two nodes of which the second calls the first, once."""
    with nodes() as start:
        one = start(tmp_path / "one", "--interval", "3600", backend=backend)
        one.ready()
        two = start(tmp_path / "two", "--interval", "3600", "--peers", one.place, backend=backend)
        # A round with a tree that is still being built would be repeated at once.
        two.ready()
        until(lambda: two.status()["peers"][0]["in_sync"])
        yield [one, two]


def put(node: NodeProcess, *contents: bytes) -> None:
    for data in contents:
        assert node.request("POST", "/v1/blobs", data)[0] == 201


def rot(node: NodeProcess, data: bytes) -> None:
    """Flip a bit of a blob, wherever it is."""
    for path in [*node.data.glob("segments/*"), *node.data.glob("large/*/*")]:
        content = path.read_bytes()
        if (at := content.find(data)) >= 0:
            with path.open("r+b") as file:
                file.seek(at + 1000)
                file.write(bytes([content[at + 1000] ^ 1]))


@pytest.mark.parametrize(("backend", "protocol"), [("asyncio", "mesh"), ("trio", "blobstash")])
def test_what_a_peer_has_is_fetched_and_rot_is_healed(
    pair: list[NodeProcess], backend: str, protocol: str
) -> None:
    one, two = pair
    put(one, SMALL, LARGE)
    for data in (SMALL, LARGE):
        path = PATHS[protocol] + digest_of(data).hex()
        assert two.status()["blobs"] == (data is LARGE)
        code, headers, _ = two.request("HEAD", path)
        assert code == (200 if protocol == "mesh" else 204)
        assert protocol != "mesh" or int(headers["content-length"]) == len(data)
        assert two.request("GET", path)[::2] == (200, data)
        root = one.status()["root"]
        rot(two, data)
        assert two.request("GET", path)[::2] == (200, data)
        status = two.status()
        assert status["wanted_blobs"] == 0
        assert data is SMALL or status["root"] == root
    assert len(list((two.data / "damaged").iterdir())) == 2
    assert two.request("GET", PATHS[protocol] + "0" * 64)[0] == 404
    assert two.log.count("is damaged, and wanted from peers") == 2


def test_a_range_over_a_rotten_piece_is_healed_in_mid_stream(pair: list[NodeProcess]) -> None:
    one, two = pair
    put(one, LARGE)
    put(two, LARGE)
    path = "/v1/blobs/" + digest_of(LARGE).hex()
    (file,) = two.data.glob("large/*/*[0-9a-f]")
    content = file.read_bytes()
    at = 3_000_000
    with file.open("r+b") as out:
        out.seek(at)
        out.write(bytes([content[at] ^ 1]))
    code, _, body = two.request("GET", path, Range="bytes=100-1999")
    assert (code, body) == (206, LARGE[100:2000])
    assert not list((two.data / "damaged").iterdir()), "another piece is not looked at"
    code, _, body = two.request("GET", path, Range="bytes=1000000-3999999")
    assert (code, body) == (206, LARGE[1_000_000:4_000_000])
    assert len(list((two.data / "damaged").iterdir())) == 1


def test_read_through_can_be_turned_off(tmp_path: Path) -> None:
    with nodes() as start:
        one = start(tmp_path / "one", "--interval", "3600")
        one.ready()
        options = ("--interval", "3600", "--peers", one.place, "--no-read-through")
        two = start(tmp_path / "two", *options)
        until(lambda: two.status()["peers"][0]["rounds"] == 1)
        put(one, SMALL)
        path = "/v1/blobs/" + digest_of(SMALL).hex()
        assert two.request("GET", path)[0] == 404
        assert two.request("HEAD", path)[0] == 404
        put(two, SMALL)
        rot(two, SMALL)
        assert two.request("GET", path)[0] == 404, "the next round will bring it"
        until(lambda: two.request("GET", path)[::2] == (200, SMALL))
