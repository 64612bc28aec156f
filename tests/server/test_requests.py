"""What is taken for a request, and what is not, on a real connection."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from mesh.core.digest import digest_of
from mesh.wire.messages import MAX_MESSAGE
from tests.processes import NodeProcess, nodes

GET = b"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n"
LAST = GET + b"Connection: close\r\n\r\n"


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with nodes() as start:
        started = start(tmp_path_factory.mktemp("node") / "data", backend=request.param)
        started.ready()
        yield started


def answers(node: NodeProcess, *pieces: bytes) -> list[int]:
    """The statuses of what comes back until the node closes the connection."""
    text = b""
    with socket.create_connection(node.address, timeout=20) as link:
        for piece in pieces:
            link.sendall(piece)
        while data := link.recv(65536):
            text += data
    return [int(each.split(b" ", 1)[0]) for each in text.split(b"HTTP/1.1 ")[1:]]


def test_empty_lines_before_a_request_are_skipped(node: NodeProcess) -> None:
    assert answers(node, b"\r\n" + LAST) == [200]
    assert answers(node, b"\r\n\r\n\r\n", b"\r\n" + LAST) == [200]
    assert answers(node, b"\r", b"\n", LAST) == [200]


def test_empty_lines_between_requests_are_skipped(node: NodeProcess) -> None:
    first = GET + b"Content-Length: 4\r\n\r\n"
    with socket.create_connection(node.address, timeout=20) as link:
        link.sendall(first + b"body")
        answer = b""
        while b'"state"' not in answer or not answer.endswith(b"}\n"):
            answer += link.recv(65536)
        link.sendall(b"\r\n" + LAST)
        assert link.recv(12) == b"HTTP/1.1 200"


def test_an_empty_line_in_one_piece_with_a_body_is_skipped(node: NodeProcess) -> None:
    first = GET + b"Content-Length: 4\r\n\r\nbody"
    assert answers(node, first + b"\r\n", LAST) == [200, 200]
    assert answers(node, first + b"\r\n" + first + b"\r\n\r\n" + LAST) == [200, 200, 200]


def test_empty_lines_within_a_head_still_end_it(node: NodeProcess) -> None:
    assert answers(node, b"\r\nGET /v1/status HTTP/1.1\r\n\r\nHost: 127.0.0.1\r\n\r\n") == [400]


@pytest.mark.parametrize("method", ["get", "Post", "pUT", "delete"])
def test_a_method_that_is_not_in_capitals_is_no_method_of_ours(
    node: NodeProcess, method: str
) -> None:
    data = b"under a method of that name"
    line = f"{method} /v1/blobs/{digest_of(data).hex()} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    request = line.encode() + b"Content-Length: %d\r\n\r\n%s" % (len(data), data)
    assert answers(node, request) == [501]
    assert node.request("GET", f"/v1/blobs/{digest_of(data).hex()}")[0] == 404


@pytest.mark.parametrize(
    "host",
    ["LOCALHOST", "LocalHost:7280", "10.1.2.3", "192.168.1.5:80", "[FE80::1]:7280", "8.8.8.8"],
)
def test_a_host_that_is_an_address_or_localhost_is_let_through(
    node: NodeProcess, host: str
) -> None:
    assert node.request("GET", "/v1/status", Host=host)[0] == 200
    assert node.request("POST", "/v1/blobs", b"x", Host=host)[0] in (200, 201)
    own = f"http://{host.lower()}"
    assert node.request("POST", "/v1/blobs", b"x", Host=host, Origin=own)[0] == 200


@pytest.mark.parametrize("host", ["EVIL.example", "10.1.2.3.evil.example", "localhost.evil", "10"])
def test_a_host_that_is_a_foreign_name_is_refused(node: NodeProcess, host: str) -> None:
    assert node.request("GET", "/v1/status", Host=host)[0] == 403


def test_a_message_that_says_it_is_too_long_is_refused_before_it_is_sent(
    node: NodeProcess,
) -> None:
    head = b"POST /mesh/v1/root HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(node.address, timeout=20) as link:
        link.sendall(head % (MAX_MESSAGE + 1))
        assert link.recv(12) == b"HTTP/1.1 400"


def test_a_message_that_becomes_too_long_is_refused_as_it_does(node: NodeProcess) -> None:
    head = b"POST /mesh/v1/root HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(node.address, timeout=20) as link:
        link.sendall(head)
        piece = b"%x\r\n%s\r\n" % (65536, bytes(65536))
        for _ in range(MAX_MESSAGE // 65536 + 1):
            link.sendall(piece)
        assert link.recv(12) == b"HTTP/1.1 400"


def test_the_node_is_still_up(node: NodeProcess) -> None:
    assert json.loads(node.request("GET", "/v1/status")[2])["state"] == "ready"
    assert node.stop() == 0
    assert "Traceback" not in node.log, node.log
