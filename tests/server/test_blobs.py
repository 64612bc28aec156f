"""The HTTP interface as strangers use it: a real node, good requests and every bad one."""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from mesh.core.digest import digest_of
from mesh.wire.frames import Kind, end, frame
from tests.processes import NodeProcess, free_places, nodes, until

MIB = 1024 * 1024
LIMIT = 6 * MIB

SMALL = bytes(range(250)) * 4
LARGE = bytes(range(251)) * (5 * MIB // 251 + 1)


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A node that everything here is done to. Its only peer does not exist."""
    (nobody,) = free_places(1)
    with nodes() as start:
        started = start(
            tmp_path_factory.mktemp("node") / "data", "--max-blob", "6MiB", "--name", "n1",
            "--interval", "3600", "--peers", f"ghost={nobody}", backend=request.param,
        )  # fmt: skip
        started.ready()
        yield started


def hexed(data: bytes) -> str:
    return digest_of(data).hex()


def path_of(data: bytes) -> str:
    return f"/v1/blobs/{hexed(data)}"


def put(node: NodeProcess, data: bytes) -> int:
    return node.request("PUT", path_of(data), data)[0]


def get(node: NodeProcess, data: bytes) -> int:
    """The status of asking for `data`; what comes is checked."""
    code, _, body = node.request("GET", path_of(data))
    assert code == 404 or body == data
    return code


def head(line: str, *headers: str) -> bytes:
    """A request's head as it goes over the wire."""
    lines = [f"{line} HTTP/1.1", *headers, "Connection: close", "", ""]
    if not any(header.startswith("Host:") for header in headers):
        lines.insert(1, "Host: 127.0.0.1")
    return "\r\n".join(lines).encode("latin-1")


def talk(node: NodeProcess, *pieces: bytes, hang_up: bool = False, seconds: float = 8.0) -> bytes:
    """Send raw bytes; what comes back until the node closes, or is silent for `seconds`."""
    answer = b""
    with socket.create_connection(node.address, timeout=seconds) as link:
        with suppress(OSError):
            for piece in pieces:
                link.sendall(piece)
            if hang_up:
                link.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while data := link.recv(65536):
                answer += data
    return answer


def code_of(answer: bytes) -> int:
    """The status of a raw answer; 0 when there was none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def held(node: NodeProcess) -> tuple[int, int, list[str]]:
    """What a node has, uploads under way included."""
    status = node.status()
    return status["blobs"], status["bytes"], sorted(p.name for p in (node.data / "tmp").iterdir())


@contextmanager
def nothing_stored(node: NodeProcess) -> Iterator[None]:
    """After the body, the node has what it had, and nothing half of it."""
    before = held(node)
    yield
    until(lambda: held(node) == before, 15)


def on_disk(node: NodeProcess) -> int:
    """Bytes of uploads under way."""
    total = 0
    for path in (node.data / "tmp").iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def descriptors(node: NodeProcess) -> int:
    return len(list(Path(f"/proc/{node.process.pid}/fd").iterdir()))


# --- status -------------------------------------------------------------------------------------


def test_status_has_the_documented_fields(node: NodeProcess) -> None:
    node.request("POST", "/v1/peers/ghost/sync")
    code, headers, body = node.request("GET", "/v1/status")
    assert code == 200
    assert headers["content-type"] == "application/json"
    status = json.loads(body)
    assert re.fullmatch("[0-9a-f]{32}", status["node_id"])
    assert re.fullmatch("[0-9a-f]{64}", status["root"])
    assert status["name"] == "n1"
    assert isinstance(status["version"], str)
    assert isinstance(status["blobs"], int)
    assert isinstance(status["bytes"], int)
    (peer,) = status["peers"]
    assert peer["name"] == "ghost"
    assert peer["url"].startswith("http://127.0.0.1:")
    assert peer["state"] == "failing"
    assert peer["in_sync"] is False
    assert peer["root"] is None
    assert peer["missing_here"] is None
    assert peer["missing_there"] is None
    assert peer["last_success_seconds_ago"] is None
    assert "\n" not in peer["last_error"]


def test_a_round_with_a_peer_that_is_down_says_so(node: NodeProcess) -> None:
    code, _, body = node.request("POST", "/v1/peers/ghost/sync")
    assert code == 502
    assert json.loads(body)["error"]


def test_a_round_with_an_unknown_peer_is_refused(node: NodeProcess) -> None:
    for name in ("nobody", "http%3A%2F%2Fevil.example", "%ff", "..%2f..", "a" * 5000):
        code, _, body = node.request("POST", f"/v1/peers/{name}/sync")
        assert code in (400, 403, 404), name
        assert json.loads(body)["error"]


# --- PUT, POST, GET, HEAD -----------------------------------------------------------------------


def test_a_new_blob_is_201_and_a_known_one_200(node: NodeProcess) -> None:
    data = b"new, then known"
    code, headers, body = node.request("PUT", path_of(data), data)
    assert code == 201
    assert headers["location"] == path_of(data)
    assert json.loads(body) == {"digest": hexed(data), "size": len(data)}
    before = held(node)
    code, _, body = node.request("PUT", path_of(data), data)
    assert code == 200
    assert json.loads(body) == {"digest": hexed(data), "size": len(data)}
    assert held(node) == before
    assert get(node, data) == 200


def test_post_names_what_it_stores(node: NodeProcess) -> None:
    data = b"posted"
    code, _, body = node.request("POST", "/v1/blobs", data)
    assert code == 201
    assert json.loads(body) == {"digest": hexed(data), "size": len(data)}
    assert node.request("POST", "/v1/blobs", data)[0] == 200
    assert get(node, data) == 200


def test_the_empty_blob_is_a_blob(node: NodeProcess) -> None:
    assert put(node, b"") == 201
    assert put(node, b"") == 200
    code, headers, body = node.request("GET", path_of(b""))
    assert (code, headers["content-length"], body) == (200, "0", b"")
    assert node.request("GET", path_of(b""), Range="bytes=0-")[0] == 416


def test_another_body_than_the_named_one_is_422(node: NodeProcess) -> None:
    for said, sent in ((b"said", b"sent"), (b"said", b"s"), (LARGE, LARGE[:-1])):
        with nothing_stored(node):
            code, _, body = node.request("PUT", path_of(said), sent)
            assert code == 422
            assert hexed(sent) in json.loads(body)["error"]
            assert node.request("HEAD", path_of(sent))[0] == 404
            assert node.request("HEAD", path_of(said))[0] == 404


def test_a_blob_that_is_here_is_put_again_without_a_byte_being_written(node: NodeProcess) -> None:
    data = b"here!" * MIB
    assert put(node, data) == 201
    tmp = node.data / "tmp"
    until(lambda: not list(tmp.iterdir()), 15)
    before = tmp.stat().st_mtime_ns  # it moves when a file is made in there, or goes
    for path in (path_of(data), f"/api/blobstore/blob/{hexed(data)}"):
        method = "PUT" if path.startswith("/v1/") else "POST"
        assert node.request(method, path, data)[0] in (200, 201)
        assert node.request(method, path, data[1:] + b"?")[0] == 422
    assert tmp.stat().st_mtime_ns == before
    assert get(node, data) == 200


@pytest.mark.parametrize("size", [65536, 65537, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, LIMIT])
def test_blobs_up_to_the_limit_are_stored(node: NodeProcess, size: int) -> None:
    data = b"s" * size
    assert put(node, data) == 201
    assert get(node, data) == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
def test_one_byte_over_the_limit_is_413(node: NodeProcess, chunked: bool) -> None:
    data = b"o" * (LIMIT + 1)
    with nothing_stored(node):
        body = iter([data[at : at + MIB] for at in range(0, len(data), MIB)]) if chunked else data
        code, _, answer = node.request("PUT", path_of(data), body)
        assert code == 413
        assert str(LIMIT) in json.loads(answer)["error"]
        assert get(node, data) == 404


def test_chunks_are_joined(node: NodeProcess) -> None:
    data = b"".join(b"%d " % n for n in range(2000))
    pieces = iter([data[at : at + 7] for at in range(0, len(data), 7)])
    assert node.request("PUT", path_of(data), pieces)[0] == 201
    assert get(node, data) == 200


def test_chunks_without_end_are_cut_off(node: NodeProcess) -> None:
    chunk = b"100000\r\n" + b"e" * MIB + b"\r\n"
    sent = 0
    with nothing_stored(node), socket.create_connection(node.address, timeout=8) as link:
        link.sendall(head(f"PUT {path_of(b'endless')}", "Transfer-Encoding: chunked"))
        with suppress(OSError):  # reset, broken or blocked: all of them are an end
            while sent < 64 * MIB:
                link.sendall(chunk)
                sent += MIB
                assert on_disk(node) <= LIMIT + 4 * MIB
    assert sent < 64 * MIB
    assert node.status()["name"] == "n1"


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(node: NodeProcess) -> None:
    data = b"only if you want it"
    with socket.create_connection(node.address, timeout=8) as link:
        size = f"Content-Length: {len(data)}"
        link.sendall(head(f"PUT {path_of(data)}", size, "Expect: 100-continue"))
        assert link.recv(65536).startswith(b"HTTP/1.1 100 ")
        link.sendall(data)
        assert code_of(link.recv(65536)) == 201


def test_head_says_what_get_would(node: NodeProcess) -> None:
    for data in (SMALL, LARGE):
        put(node, data)
        code, headers, body = node.request("HEAD", path_of(data))
        assert (code, body) == (200, b"")
        assert headers["content-length"] == str(len(data))
        assert headers["accept-ranges"] == "bytes"
    code, _, body = node.request("HEAD", path_of(b"never put"))
    assert (code, body) == (404, b"")


def test_a_blob_that_is_not_here_is_404_with_a_reason(node: NodeProcess) -> None:
    code, headers, body = node.request("GET", path_of(b"never put"))
    assert code == 404
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["error"]


def test_one_connection_serves_many_requests(node: NodeProcess) -> None:
    data = b"kept alive"
    link = http.client.HTTPConnection(*node.address, timeout=8)
    link.connect()
    first = link.sock
    requests = [
        ("PUT", path_of(data), data, {}, 201),
        ("GET", path_of(data), None, {}, 200),
        ("PUT", path_of(b"other"), data, {}, 422),
        ("GET", path_of(data), None, {"Range": "bytes=2-4"}, 206),
        ("GET", path_of(data), None, {"Range": "bytes=99-"}, 416),
        ("GET", "/v1/blobs/XY", None, {}, 400),
        ("HEAD", path_of(data), None, {}, 200),
        ("GET", "/nowhere", None, {}, 404),
        ("PUT", path_of(LARGE), LARGE, {}, None),
        ("GET", path_of(LARGE), None, {}, 200),
        ("GET", "/v1/status", None, {}, 200),
    ]
    for method, path, body, headers, expected in requests:
        link.request(method, path, body, headers)
        answer = link.getresponse()
        answer.read()
        assert expected in (answer.status, None), (method, path)
        assert link.sock is first, (method, path)
    link.close()


def test_a_connection_that_is_to_close_is_closed_at_once(node: NodeProcess) -> None:
    put(node, SMALL)
    for line in ("GET /v1/status", f"GET {path_of(SMALL)}", "GET /nowhere"):
        with socket.create_connection(node.address, timeout=8) as link:
            link.sendall(head(line))
            answer = b""
            while data := link.recv(65536):  # a timeout fails the test
                answer += data
        assert code_of(answer) in (200, 404)


# --- Range --------------------------------------------------------------------------------------

PARTS = {
    "bytes=0-0": slice(0, 1),
    "bytes=0-99": slice(0, 100),
    "bytes=300-700": slice(300, 701),
    "bytes=-1": slice(-1, None),
    "bytes=-77": slice(-77, None),
    "bytes=900-": slice(900, None),
    "bytes=1-999999999999999": slice(1, None),
    "bytes=0-": slice(0, None),
    "bytes=-999999999999": slice(0, None),
}
OF_LARGE = {
    "bytes=524287-524288": slice(524287, 524289),
    "bytes=1000000-4300000": slice(1000000, 4300001),
    "bytes=-4500000": slice(-4500000, None),
}
NOT_RANGES = (
    "bytes=2-1", "bytes=a-b", "bytes=-", "bytes=", "bytes", "", "bytes=1", "bytes=--1",
    "bytes=0-1,3-4", "bytes=0-0,-1", "lines=0-1", "bytes=0x0-0x1", "bytes=+1-2", "bytes=1.0-2",
    "bytes=٠-٩", "bytes=0-" + "9" * 400,
)  # fmt: skip


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_range_gets_its_part(node: NodeProcess, data: bytes) -> None:
    put(node, data)
    for header, part in {**PARTS, **(OF_LARGE if data is LARGE else {})}.items():
        code, headers, body = node.request("GET", path_of(data), Range=header)
        assert body == data[part], header
        start, stop, _ = part.indices(len(data))
        if stop - start == len(data):
            assert code in (200, 206), header
        else:
            assert code == 206, header
        if code == 206:
            assert headers["content-range"] == f"bytes {start}-{stop - 1}/{len(data)}"


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_range_beyond_the_end_is_416(node: NodeProcess, data: bytes) -> None:
    put(node, data)
    size = len(data)
    for header in (f"bytes={size}-", f"bytes={size + 5}-{size + 9}", "bytes=-0"):
        code, headers, _ = node.request("GET", path_of(data), Range=header)
        assert code == 416, header
        assert headers["content-range"] == f"bytes */{size}"


def test_what_is_no_single_range_gets_the_whole(node: NodeProcess) -> None:
    put(node, SMALL)
    for header in NOT_RANGES:
        wire = head(f"GET {path_of(SMALL)}").replace(
            b"Connection:", b"Range: " + header.encode() + b"\r\nConnection:"
        )
        answer = talk(node, wire)
        assert code_of(answer) == 200, header
        assert answer.partition(b"\r\n\r\n")[2] == SMALL, header


# --- names that are none ------------------------------------------------------------------------

GOOD = hexed(b"a good name")
BAD_NAMES = {
    "too short": GOOD[:-1],
    "too long": GOOD + "0",
    "upper case": GOOD.upper(),
    "not hex": "g" + GOOD[1:],
    "a newline": GOOD + "%0a",
    "a newline within": GOOD[:-1] + "%0a",
    "a NUL": GOOD + "%00",
    "a NUL within": GOOD[:-1] + "%00",
    "a blank": GOOD[:-1] + "%20",
    "up": "../../../../etc/passwd",
    "up, escaped": "..%2f..%2f..%2fetc%2fpasswd",
    "up, behind a good one": GOOD + "/../../node.json",
    "a backslash": "..%5c..%5cnode.json",
    "not UTF-8": "%ff%fe",
    "not UTF-8, raw": "\xff\xfe",
    "other digits": "%D9%A0" * 64,
    "wide letters": "%EF%BD%81" * 64,
    "nothing": "",
    "a slash": GOOD + "/",
    "an absolute path": "%2fetc%2fpasswd",
    "a percent": "%",
    "very long": "a" * 20_000,
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_a_malformed_digest_is_refused(node: NodeProcess, name: str) -> None:
    with nothing_stored(node):
        for method in ("PUT", "GET", "HEAD"):
            body = b"x" if method == "PUT" else b""
            size = ["Content-Length: 1"] if body else []
            answer = talk(node, head(f"{method} /v1/blobs/{name}", *size) + body)
            assert code_of(answer) in (400, 404), method
            assert b"root:" not in answer


def test_unknown_paths_are_404_in_json(node: NodeProcess) -> None:
    for path in ("/", "/nowhere", "/v1", "/v2/status", "/v1/status/", "/mesh/v1/none", "/%00"):
        code, headers, body = node.request("GET", path)
        assert code == 404, path
        assert headers["content-type"] == "application/json"
        assert json.loads(body)["error"]


def test_methods_that_are_not_there_are_405_in_json(node: NodeProcess) -> None:
    requests = [("DELETE", path_of(SMALL)), ("PATCH", "/v1/status"), ("PUT", "/v1/blobs")]
    for method, path in requests:
        code, headers, body = node.request(method, path)
        assert code == 405, (method, path)
        assert headers["content-type"] == "application/json"
        assert json.loads(body)["error"]


def test_oversized_heads_are_refused(node: NodeProcess) -> None:
    for wire in (
        head("GET /" + "u" * 200_000),
        head("GET /v1/blobs?prefix=" + "0" * 200_000),
        head("GET /v1/status", "X: " + "h" * 200_000),
        head("GET /v1/status", *(f"X-{n}: y" for n in range(20_000))),
    ):
        # A node that answers and closes at once may be faster than its answer can be read.
        assert code_of(talk(node, wire)) in (400, 413, 414, 431, 0)
    assert node.status()["name"] == "n1"


# --- lengths that lie ---------------------------------------------------------------------------

BODY = b"these are twenty-six bytes"
BAD_LENGTHS = {
    "negative": ["-26"],
    "1e20": ["1e20"],
    "1e20 in full": ["100000000000000000000"],
    "20 digits": ["99999999999999999999"],
    "just beyond 64 bits": ["18446744073709551642"],
    "signed": ["+26"],
    "a fraction": ["26.0"],
    "in hex": ["0x1a"],
    "empty": [""],
    "words": ["many"],
    "twice": ["26", "27"],
    "twice in one": ["26, 27"],
}


@pytest.mark.parametrize("lengths", BAD_LENGTHS.values(), ids=BAD_LENGTHS.keys())
def test_an_impossible_length_is_refused(node: NodeProcess, lengths: list[str]) -> None:
    headers = [f"Content-Length: {length}" for length in lengths]
    with nothing_stored(node):
        answer = talk(node, head(f"PUT {path_of(BODY)}", *headers) + BODY, hang_up=True)
        # A client that has hung up may find its connection closed before the answer.
        assert code_of(answer) in (0, 400, 413)


def test_a_length_said_twice_alike_is_one_length_or_refused(node: NodeProcess) -> None:
    data = b"said twice"
    size = f"Content-Length: {len(data)}"
    answer = talk(node, head(f"PUT {path_of(data)}", size, size) + data)
    assert code_of(answer) in (201, 400)
    assert get(node, data) == (200 if code_of(answer) == 201 else 404)


def test_a_body_longer_than_its_length_is_not_stored(node: NodeProcess) -> None:
    with nothing_stored(node):
        answer = talk(node, head(f"PUT {path_of(BODY)}", "Content-Length: 20") + BODY)
        assert code_of(answer) in (400, 422)


def test_a_body_shorter_than_its_length_is_not_stored(node: NodeProcess) -> None:
    for length in (27, 1000, LIMIT):
        with nothing_stored(node):
            wire = head(f"PUT {path_of(BODY)}", f"Content-Length: {length}") + BODY
            # Whoever hangs up may or may not be told.
            assert code_of(talk(node, wire, hang_up=True)) in (0, 400, 408, 413)


def test_a_length_beyond_the_limit_is_413_before_the_body(node: NodeProcess) -> None:
    with nothing_stored(node):
        wires = [
            head(f"PUT {path_of(BODY)}", f"Content-Length: {LIMIT + 1}"),
            head("POST /v1/blobs", "Content-Length: 99999999999999999"),
        ]
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(talk, [node, node], wires))
        assert [code_of(answer) for answer in answers] == [413, 413]


def test_a_length_beside_a_transfer_encoding_is_refused(node: NodeProcess) -> None:
    # Two ends of one body are how requests are smuggled: RFC 9112, 6.3.
    both = ["Content-Length: 26", "Transfer-Encoding: chunked"]
    with nothing_stored(node):
        for headers in (both, both[::-1]):
            wire = head(f"PUT {path_of(BODY)}", *headers) + b"1a\r\n" + BODY + b"\r\n0\r\n\r\n"
            assert code_of(talk(node, wire)) == 400


def test_bad_chunks_and_unknown_codings_are_refused(node: NodeProcess) -> None:
    with nothing_stored(node):
        for coding, body in (
            ("chunked", b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"),
            ("chunked", b"-1\r\n" + BODY + b"\r\n0\r\n\r\n"),
            ("chunked", b"f" * 30 + b"\r\n" + BODY),
            ("chunked", b"1a\r\n" + BODY + b"no newline"),
            ("gzip", BODY),
            ("gzip, chunked", b"1a\r\n" + BODY + b"\r\n0\r\n\r\n"),
            ("identity", BODY),
        ):
            wire = head(f"PUT {path_of(BODY)}", f"Transfer-Encoding: {coding}") + body
            assert code_of(talk(node, wire, hang_up=True)) in (0, 400, 501), (coding, body)


# --- other protocols ----------------------------------------------------------------------------

UPGRADE = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
STRANGE = {
    "HTTP/2 from the start": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2, then junk": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"junk" * 100,
    "HTTP/2, a huge frame": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200,
    "h2c": f"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n{UPGRADE}"
    "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
    "h2c, bad settings": f"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n{UPGRADE}"
    "HTTP2-Settings: ?!\r\n\r\n",
    "h2c with a body": f"PUT {path_of(b'h2c')} HTTP/1.1\r\nHost: 127.0.0.1\r\n{UPGRADE}"
    "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Length: 4\r\n\r\nh2c!",
    "CONNECT": "CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n",
    "WebSocket": "GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "junk": b"\x00\xff" * 300,
    "nothing": b"",
    "HTTP/0.9": b"GET /v1/status\r\n\r\n",
    "HTTP/9.9": b"GET /v1/status HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    "no Host": b"GET /v1/status HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    "OPTIONS *": b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}


@pytest.mark.parametrize("wire", STRANGE.values(), ids=STRANGE.keys())
def test_other_protocols_do_no_harm(node: NodeProcess, wire: str | bytes) -> None:
    raw = wire if isinstance(wire, bytes) else wire.encode()
    with nothing_stored(node):
        for hang_up in (False, True):
            answer = talk(node, raw, hang_up=hang_up, seconds=0.3)
            assert code_of(answer) < 500
    assert node.status()["name"] == "n1"


def test_connect_is_refused(node: NodeProcess) -> None:
    for target in ("127.0.0.1:1", "example.org:443"):
        wire = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()
        assert 400 <= code_of(talk(node, wire, seconds=0.3)) < 500


# --- browsers, compression ----------------------------------------------------------------------


def test_compressed_bodies_are_415(node: NodeProcess) -> None:
    with nothing_stored(node):
        for method, path in (("PUT", path_of(BODY)), ("POST", "/v1/blobs"), ("POST", "/v1/batch")):
            for coding in ("gzip", "br", "identity, gzip"):
                code, _, body = node.request(method, path, BODY, Content_Encoding=coding)
                assert code == 415, (method, coding)
                assert json.loads(body)["error"]


FOREIGN = {
    "Origin": ("http://evil.example", "https://evil.example", "null", "http://127.0.0.1:1", ""),
    "Sec-Fetch-Site": ("cross-site", "same-site"),
}


def test_pages_from_elsewhere_change_nothing(node: NodeProcess) -> None:
    changes = [
        ("PUT", path_of(b"csrf")),
        ("POST", "/v1/blobs"),
        ("POST", "/v1/batch"),
        ("POST", "/v1/peers/ghost/sync"),
        ("POST", "/v1/wait"),
        ("POST", "/mesh/v1/root"),
    ]
    with nothing_stored(node):
        for method, path in changes:
            for name, values in FOREIGN.items():
                for value in values:
                    code, _, body = node.request(method, path, b"csrf", **{name: value})
                    assert code == 403, (method, path, name, value)
                    assert json.loads(body)["error"]


def test_pages_of_our_own_and_plain_clients_may_change_things(node: NodeProcess) -> None:
    for headers in (
        {"Origin": node.url},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {},
    ):
        assert node.request("PUT", path_of(b"own"), b"own", **headers)[0] in (200, 201)
    assert node.request("GET", path_of(b"own"), Origin="http://evil.example")[0] == 200


def test_a_host_that_is_a_name_is_refused(node: NodeProcess) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil"):
        for method, path in (("GET", "/v1/status"), ("GET", "/v1/blobs"), ("POST", "/v1/blobs")):
            code, _, body = node.request(
                method, path, b"x" if method == "POST" else None, Host=host
            )
            assert code == 403, (host, method, path)
            assert json.loads(body)["error"]
    for host in (node.place, "127.0.0.1", "localhost:1234", "[::1]:7280"):
        assert node.request("GET", "/v1/status", Host=host)[0] == 200


# --- listing ------------------------------------------------------------------------------------


def listing(node: NodeProcess, query: str) -> dict:
    code, _, body = node.request("GET", f"/v1/blobs{query}")
    assert code == 200, body
    return json.loads(body)


def test_a_listing_is_sorted_and_comes_in_pages(node: NodeProcess) -> None:
    put_there = {hexed(data): len(data) for data in (b"%d listed" % n for n in range(40))}
    for n in range(40):
        put(node, b"%d listed" % n)
    everything = listing(node, "")["blobs"]
    names = [blob["digest"] for blob in everything]
    assert names == sorted(set(names))
    sizes = {blob["digest"]: blob["size"] for blob in everything}
    assert sizes.items() >= put_there.items()
    paged: list[dict] = []
    page = listing(node, "?limit=7")
    while True:
        assert len(page["blobs"]) <= 7
        paged += page["blobs"]
        if page["next"] is None:
            break
        assert page["next"] == paged[-1]["digest"]
        page = listing(node, f"?limit=7&after={page['next']}")
    assert paged == everything


def test_a_listing_by_prefix_has_that_prefix_only(node: NodeProcess) -> None:
    put(node, SMALL)
    everything = [blob["digest"] for blob in listing(node, "")["blobs"]]
    name = hexed(SMALL)
    for length in (0, 1, 2, 3, 17, 63, 64):
        prefix = name[:length]
        spelled = prefix.upper() if length % 2 else prefix
        found = [blob["digest"] for blob in listing(node, f"?prefix={spelled}")["blobs"]]
        assert found == [one for one in everything if one.startswith(prefix)]
    assert listing(node, f"?prefix={name}&after={name}") == {"blobs": [], "next": None}
    assert listing(node, f"?after={'f' * 64}") == {"blobs": [], "next": None}
    low = listing(node, f"?prefix={name[:1]}&after={'0' * 64}")["blobs"]
    assert [blob["digest"] for blob in low] == [one for one in everything if one[0] == name[0]]


BAD_QUERIES = (
    "prefix=XY", "prefix=%00", "prefix=0%0a", "prefix=" + "0" * 65, "prefix=%D9%A0", "prefix=0G",
    "after=00", "after=zz", "after=" + "A" * 64, "after=" + "0" * 64 + "%0a",
    "limit=0", "limit=-1", "limit=x", "limit=1.5", "limit=10001", "limit=1e3", "limit=%D9%A3",
    "limit=99999999999999999999999", "limit=000000001999999999",
)  # fmt: skip


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_a_bad_query_is_400(node: NodeProcess, query: str) -> None:
    code, _, body = node.request("GET", f"/v1/blobs?{query}")
    assert code == 400
    assert json.loads(body)["error"]


def test_a_bad_time_to_wait_is_400(node: NodeProcess) -> None:
    for text in ("x", "-1", "nan", "inf", "1e300", "%D9%A3%00"):
        assert node.request("POST", f"/v1/wait?timeout={text}")[0] == 400, text


def test_waiting_ends_in_time_and_says_who_is_not_level(node: NodeProcess) -> None:
    code, _, body = node.request("POST", "/v1/wait?timeout=0.3")
    report = json.loads(body)
    assert (code, report["level"]) == (200, False)
    assert report["peers"][0]["peer"] == "ghost"
    assert report["peers"][0]["error"]


# --- batch --------------------------------------------------------------------------------------


def framed(*blobs: tuple[bytes, bytes]) -> bytes:
    """A batch of (what the name says, what comes)."""
    frames = [frame(Kind.BLOB, digest_of(name), len(data)) + data for name, data in blobs]
    return b"".join(frames) + end(len(frames))


def test_a_batch_stores_what_fits_its_names(node: NodeProcess) -> None:
    blobs = [b"%d in a batch" % n for n in range(3000)]
    assert put(node, blobs[0]) == 201
    wrong = (b"called so", b"but is this")
    body = framed(*((data, data) for data in blobs[:1500]), wrong, *((d, d) for d in blobs[1500:]))
    code, _, answer = node.request("POST", "/v1/batch", body)
    assert code == 200
    assert json.loads(answer) == {"stored": 2999, "known": 1, "rejected": 1}
    assert get(node, blobs[2999]) == 200
    assert [get(node, data) for data in wrong] == [404, 404]
    code, _, answer = node.request("POST", "/v1/batch", body)
    assert json.loads(answer) == {"stored": 0, "known": 3000, "rejected": 1}


def test_a_blob_twice_in_a_batch_is_stored_once(node: NodeProcess) -> None:
    twice = (b"twice in a batch", b"twice in a batch")
    before = node.status()["blobs"]
    _, _, answer = node.request("POST", "/v1/batch", framed(twice, twice))
    assert json.loads(answer) == {"stored": 1, "known": 1, "rejected": 0}
    assert node.status()["blobs"] == before + 1


def test_an_empty_batch_stores_nothing(node: NodeProcess) -> None:
    with nothing_stored(node):
        code, _, answer = node.request("POST", "/v1/batch", end(0))
        assert (code, json.loads(answer)) == (200, {"stored": 0, "known": 0, "rejected": 0})


WHOLE = framed((b"a frame", b"a frame"))
BAD_BATCHES = {
    "nothing": b"",
    "junk": b"junk" * 100,
    "zeros": bytes(5000),
    "no end mark": WHOLE[:-41],
    "cut in the end mark": WHOLE[:-1],
    "cut in a body": WHOLE[:45],
    "cut in a header": WHOLE[:20],
    "goes on after the end": WHOLE + b"x",
    "a wrong count": WHOLE[:-1] + b"\x09",
    "a frame of another kind": frame(Kind.ABSENT, digest_of(b"")) + end(1),
    "a frame of no kind": frame(9, digest_of(b"")) + end(1),  # type: ignore[arg-type]
    "a frame too large": frame(Kind.BLOB, digest_of(b""), 4 * MIB + 1),
    "a frame of 2**64 - 1": frame(Kind.BLOB, digest_of(b""), 2**64 - 1),
}


@pytest.mark.parametrize("body", BAD_BATCHES.values(), ids=BAD_BATCHES.keys())
def test_what_is_no_batch_is_refused(node: NodeProcess, body: bytes) -> None:
    with nothing_stored(node):
        code, _, answer = node.request("POST", "/v1/batch", body)
        assert code in (400, 408)
        assert json.loads(answer)["error"]


@pytest.mark.parametrize("verb", ["root", "tree", "offer", "batch", "push/" + "0" * 32, "blob/x/y"])
def test_junk_from_a_peer_is_refused(node: NodeProcess, verb: str) -> None:
    with nothing_stored(node):
        for body in (b"", b"junk" * 50, b"\xdf\xff\xff\xff\xff", b"\x91" * 5000, bytes(7 * MIB)):
            code, _, answer = node.request("POST", f"/mesh/v1/{verb}", body)
            assert 400 <= code < 500, body[:10]
            assert json.loads(answer)["error"]


# --- many clients, and those that vanish --------------------------------------------------------


@pytest.mark.parametrize(("clients", "size", "times"), [(50, 100_000, 1), (12, 4 * MIB, 4)])
def test_many_clients_put_one_blob_and_all_succeed(
    node: NodeProcess, clients: int, size: int, times: int
) -> None:
    barrier = threading.Barrier(clients)

    def client(data: bytes) -> int:
        barrier.wait(30)
        return put(node, data)

    for n in range(times):
        data = b"the one blob of many %d" % n + bytes(size)
        before = held(node)
        with ThreadPoolExecutor(clients) as pool:
            codes = sorted(pool.map(client, [data] * clients))
        assert codes == [200] * (clients - 1) + [201]
        until(lambda: held(node) == (before[0] + 1, before[1] + len(data), []))  # noqa: B023
        assert get(node, data) == 200


def reset(link: socket.socket) -> None:
    """Vanish without a goodbye."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()


def test_a_client_gone_in_mid_put_leaves_nothing(node: NodeProcess) -> None:
    data = b"never whole" + bytes(5 * MIB)
    size = f"Content-Length: {len(data)}"
    before = descriptors(node)
    with nothing_stored(node):
        for sent in (0, 11, 100_000, len(data) - 1):
            for vanish in (reset, socket.socket.close):
                link = socket.create_connection(node.address, timeout=8)
                link.sendall(head(f"PUT {path_of(data)}", size) + data[:sent])
                vanish(link)
        link = socket.create_connection(node.address, timeout=8)
        link.sendall(head(f"PUT {path_of(b'x' * 99)}", "Transfer-Encoding: chunked"))
        link.sendall(b"63\r\n" + b"x" * 99)
        reset(link)
        link = socket.create_connection(node.address, timeout=8)
        link.sendall(head("POST /v1/batch", "Content-Length: 100000") + WHOLE[:45])
        reset(link)
    until(lambda: descriptors(node) <= before, 15)
    assert get(node, data) == 404
    assert put(node, data) == 201


def test_a_client_gone_in_mid_get_costs_nothing(node: NodeProcess) -> None:
    put(node, LARGE)
    before = descriptors(node)
    for vanish in (reset, socket.socket.close) * 6:
        link = socket.create_connection(node.address, timeout=8)
        link.sendall(head(f"GET {path_of(LARGE)}"))
        assert link.recv(1000).startswith(b"HTTP/1.1 200")
        vanish(link)
    until(lambda: descriptors(node) <= before, 15)
    assert get(node, LARGE) == 200


def test_a_connection_that_its_client_has_closed_is_let_go_of(node: NodeProcess) -> None:
    before = descriptors(node)
    for _ in range(30):
        socket.create_connection(node.address, timeout=8).close()
        link = http.client.HTTPConnection(*node.address, timeout=8)
        link.request("GET", "/v1/status")
        link.getresponse().read()
        link.close()
    until(lambda: descriptors(node) <= before + 5, 20)


def test_idle_clients_and_half_a_head_keep_nobody_waiting(node: NodeProcess) -> None:
    wire = head(f"PUT {path_of(BODY)}", "Content-Length: 26")
    with crowd(node, [wire[: n * len(wire) // 100] for n in range(100)]):
        assert put(node, b"beside a hundred idle ones") == 201
        assert node.status()["name"] == "n1"


def test_uploads_that_stand_still_keep_nobody_waiting(node: NodeProcess) -> None:
    wire = head(f"PUT {path_of(BODY)}", "Content-Length: 26") + BODY[:5]
    data = b"beside forty that stand still"
    with crowd(node, [wire] * 40):
        size = f"Content-Length: {len(data)}"
        assert code_of(talk(node, head(f"PUT {path_of(data)}", size) + data, seconds=5)) == 201


def test_readers_that_stand_still_keep_nobody_waiting(node: NodeProcess) -> None:
    put(node, LARGE)
    with crowd(node, [head(f"GET {path_of(LARGE)}")] * 40):
        wire = head(f"GET {path_of(LARGE)}")
        assert code_of(talk(node, wire, seconds=5)) == 200
        assert put(node, b"beside forty that do not read") == 201


@contextmanager
def crowd(node: NodeProcess, wires: list[bytes]) -> Iterator[None]:
    """Clients that have sent this much and then do nothing, until the body is over."""
    with ExitStack() as stack:
        for wire in wires:
            link = stack.enter_context(socket.create_connection(node.address, timeout=8))
            link.sendall(wire)
        yield


# --- after all of it ----------------------------------------------------------------------------


def test_after_all_of_it_the_node_is_up_and_ends_with_0_and_a_clean_log(node: NodeProcess) -> None:
    assert node.process.poll() is None
    put(node, SMALL)
    put(node, LARGE)
    assert get(node, SMALL) == 200
    assert sorted(path.name for path in node.data.iterdir() if path.is_dir()) == [
        "damaged",
        "large",
        "partial",
        "segments",
        "tmp",
    ]
    began = time.monotonic()
    assert node.stop() == 0
    assert "Traceback" not in node.log, node.log
    assert " ERROR " not in node.log, node.log
    # All clients have gone, so nothing is under way that the deadline would be for.
    assert time.monotonic() - began < 60
