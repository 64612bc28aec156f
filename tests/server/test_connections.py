"""Connections that Hypercorn alone would handle badly: slow readers at a stop, and surplus."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.core.digest import digest_of
from tests.processes import NodeProcess, nodes, until

BIG = 32 * 2**20  # more than the buffers of both ends hold


@pytest.fixture(params=["asyncio", "trio"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NodeProcess]:
    config = tmp_path / "mesh.toml"
    config.write_text("shutdown_seconds = 0.5\n")
    with nodes() as start:
        started = start(tmp_path / "data", "--config", str(config), backend=request.param)
        started.ready()
        yield started


def stored(node: NodeProcess, size: int) -> str:
    data = bytes(size)
    assert node.request("POST", "/v1/blobs", data)[0] == 201
    return f"/v1/blobs/{digest_of(data).hex()}"


def test_a_client_that_does_not_read_does_not_hold_up_a_stop(node: NodeProcess) -> None:
    path = stored(node, BIG)
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(node.address)
        reader.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert reader.recv(12) == b"HTTP/1.1 200"
        # Without the cut it would take the kernel's 60 s, twice what `stop` waits for.
        assert node.stop() == 0
    assert "Traceback" not in node.log, node.log


def test_an_upload_that_stands_still_does_not_hold_up_a_stop(node: NodeProcess) -> None:
    with socket.create_connection(node.address) as writer:
        head = "POST /v1/blobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
        writer.sendall(head.encode() + bytes(100_000))
        until(lambda: node.status()["state"] == "ready")
        assert node.stop() == 0
    assert "Traceback" not in node.log, node.log


def test_clients_that_go_away_with_more_behind_a_request_leave_nothing(node: NodeProcess) -> None:
    path = stored(node, 8 * 2**20)
    descriptors = Path(f"/proc/{node.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    for number in range(40):
        with socket.create_connection(node.address) as client:
            client.sendall(request + (b"surplus\r\n\r\n", b"GET / HTTP/1.1\r\n")[number % 2])
            client.recv(100)
    until(lambda: len(list(descriptors.iterdir())) <= before + 2)
    assert node.stop() == 0
    assert "Traceback" not in node.log, node.log
