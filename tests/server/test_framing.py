"""What a stranger may send before a key is looked at: real nodes, raw bytes, both backends."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from mesh.core.digest import digest_of
from tests.processes import NodeProcess, nodes

SMUGGLED = b"what stood behind a request that was refused"
PATH = b"/v1/blobs/%s" % digest_of(SMUGGLED).hex().encode()
BEHIND = b"PUT %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s" % (
    PATH,
    len(SMUGGLED),
    SMUGGLED,
)
GET = b"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /v1/blobs HTTP/1.1\r\nHost: 127.0.0.1\r\n"
UPGRADE = GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: "
WEBSOCKET = UPGRADE + b"websocket\r\nSec-WebSocket-Version: 13\r\n"
WEBSOCKET += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with nodes() as start:
        started = start(tmp_path_factory.mktemp("node") / "data", backend=request.param)
        started.ready()
        yield started


def answers(node: NodeProcess, sent: bytes) -> list[int]:
    """The statuses of what comes back until the node closes the connection."""
    text = b""
    with socket.create_connection(node.address, timeout=20) as link:
        link.sendall(sent)
        try:
            while data := link.recv(65536):
                text += data
        except ConnectionResetError:
            pass  # it was closed with bytes unread, which is what is wanted
    return [int(each.split(b" ", 1)[0]) for each in text.split(b"HTTP/1.1 ")[1:]]


# Upgrades, and what is not HTTP/1: each ended the process on trio, or entered another protocol.
OTHER_PROTOCOLS = {
    "websocket": WEBSOCKET + b"\r\n",
    "websocket and one more byte": WEBSOCKET + b"\r\nx",
    "websocket and a frame": WEBSOCKET + b"\r\n\x81\x85\0\0\0\0hello",
    "subprotocol that is not ASCII": WEBSOCKET + b"Sec-WebSocket-Protocol: \xff\xfe\r\n\r\n",
    "websocket without a version": UPGRADE + b"websocket\r\n\r\nx",
    "websocket in a list": UPGRADE + b"foo, WebSocket\r\n\r\nx",
    "websocket beside another": UPGRADE + b"foo\r\nUpgrade: websocket\r\n\r\nx",
    "h2c": UPGRADE + b"h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    "h2c with bad settings": UPGRADE + b"h2c\r\nHTTP2-Settings: !!\r\n\r\n",
    "h2c without settings": UPGRADE + b"h2c\r\n\r\n",
    "prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "prior knowledge and junk": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
    "PRI in HTTP/1": b"PRI * HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: h2c\r\n\r\n",
}


@pytest.mark.parametrize("sent", OTHER_PROTOCOLS.values(), ids=OTHER_PROTOCOLS)
def test_no_other_protocol_is_entered(node: NodeProcess, sent: bytes) -> None:
    assert answers(node, sent + BEHIND) == [400]
    unharmed(node)


# Requests that can be read in two ways, and others whose framing is no good.
REFUSED = {
    "two lengths, the body ends it": (
        400,
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "two lengths, the other way round": (
        400,
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
    ),
    "two lengths of a HEAD": (
        400,
        b"HEAD" + GET[3:] + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "two Content-Lengths": (400, POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n"),
    "a list of Content-Lengths": (400, POST + b"Content-Length: 0, 5\r\n\r\n"),
    "a negative length": (400, POST + b"Content-Length: -1\r\n\r\n"),
    "a length with a sign": (400, POST + b"Content-Length: +0\r\n\r\n"),
    "a length in hex": (400, POST + b"Content-Length: 0x0\r\n\r\n"),
    "a length of 1e20": (400, POST + b"Content-Length: 1e20\r\n\r\n"),
    "a length of forty digits": (400, POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n"),
    "another coding": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked twice": (501, POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "two codings": (
        501,
        POST + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "chunks in HTTP/1.0": (
        400,
        b"POST /v1/blobs HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "a folded coding": (400, POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    "a folded header": (400, GET + b"X-A: b\r\n\tc\r\n\r\n"),
    "a header before a blank": (400, GET + b"Content-Length : 0\r\n\r\n"),
    "a bare LF": (400, GET + b"X-A: b\nX-C: d\r\n\r\n"),
    "a bare LF that ends the head": (400, GET + b"X-A: b\n\n"),
    "a bare LF in the request line": (400, b"GET /v1/status HTTP/1.1\nHost: 127.0.0.1\r\n\r\n"),
    "a bare CR": (400, GET + b"X-A: b\rX-C: d\r\n\r\n"),
    "a NUL": (400, GET + b"X-A: b\0c\r\n\r\n"),
    "a method in small letters": (501, b"get" + GET[3:] + b"Content-Length: 0\r\n\r\n"),
    "CONNECT": (400, b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n"),
    "no Host": (400, b"GET /v1/status HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, GET + b"Host: localhost\r\n\r\n"),
    "HTTP/3": (400, b"GET /v1/status HTTP/3.0\r\nHost: 127.0.0.1\r\n\r\n"),
    "no version": (400, b"GET /v1/status\r\n\r\n"),
    "a head without end": (431, GET + b"X-A: " + b"a" * 300_000),
    "headers without end": (431, GET + b"X-A: b\r\n" * 40_000),
    "a chunk with a bad size": (400, POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n"),
    "a chunk that is longer than it says": (
        400,
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    ),
    "a chunk size that ends in LF": (
        400,
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
    ),
    "a chunk extension without end": (
        431,
        POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 300_000,
    ),
    "a chunk size with a CR": (
        400,
        POST + b"Transfer-Encoding: chunked\r\n\r\n1;a\rb\r\nx\r\n0\r\n\r\n",
    ),
    "a bare LF that ends the trailers": (
        400,
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-A: b\n\n",
    ),
    "a bare LF that ends no trailers": (400, POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\n"),
    "a folded trailer": (
        400,
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-A: b\r\n c\r\n\r\n",
    ),
    "trailers without end": (
        431,
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X-A: b\r\n" * 40_000,
    ),
}


@pytest.mark.parametrize(("status", "sent"), REFUSED.values(), ids=REFUSED)
def test_nothing_behind_a_refused_request_is_read(
    node: NodeProcess, status: int, sent: bytes
) -> None:
    assert answers(node, sent + BEHIND) == [status]
    unharmed(node)


# These are refused by the node's own handlers, which may have been told where the body ends.
DECLINED = {
    "a coding of the content": (
        415,
        POST + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
    ),
    "more than a blob may have": (413, POST + b"Content-Length: 99999999999999999\r\n\r\n"),
}


@pytest.mark.parametrize(("status", "sent"), DECLINED.values(), ids=DECLINED)
def test_nothing_behind_a_declined_body_is_read(
    node: NodeProcess, status: int, sent: bytes
) -> None:
    assert answers(node, sent + BEHIND) == [status]
    unharmed(node)


def test_a_refusal_says_why_and_that_the_connection_ends(node: NodeProcess) -> None:
    with socket.create_connection(node.address, timeout=20) as link:
        link.sendall(GET + b"X-A: b\nX-C: d\r\n\r\n")
        answer = b"".join(iter(lambda: link.recv(65536), b""))
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert b'{"error":"a line of the request ends in LF alone' in answer


def test_a_request_that_comes_after_an_answered_one_is_checked_too(node: NodeProcess) -> None:
    bad = POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert answers(node, GET + b"\r\n" + bad + BEHIND) == [200, 400]
    unharmed(node)


def test_what_is_allowed_is_still_taken(node: NodeProcess) -> None:
    extended = POST + b"Transfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\nX-T: y\r\n\r\n"
    assert answers(node, extended + GET + b"Connection: close\r\n\r\n")[1:] == [200]
    assert answers(node, GET + b"Upgrade: TLS/1.3\r\nConnection: close\r\n\r\n") == [200]
    assert answers(node, b"GET /v1/status HTTP/1.0\r\n\r\n") == [200]
    twice = POST + b"Content-Length: 1\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
    assert answers(node, twice) == [200]


def unharmed(node: NodeProcess) -> None:
    """The node is up, and has not stored what stood behind a request."""
    assert node.request("HEAD", PATH.decode())[0] == 404


def test_the_node_ends_as_it_should(node: NodeProcess) -> None:
    assert node.stop() == 0
    assert "Traceback" not in node.log, node.log
    assert "fault of ours" not in node.log, node.log
