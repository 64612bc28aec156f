"""POST /v1/lacking: what a client need not send, and who may believe it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from mesh.config import parse_peer
from mesh.core.digest import Digest, digest_of
from mesh.transport.client import node_client
from tests.processes import NodeProcess, nodes

MOST = 4096


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with nodes() as start:
        data = tmp_path_factory.mktemp("node") / "data"
        started = start(data, "--interval", "3600", backend=request.param)
        started.ready()
        yield started


def ask(node: NodeProcess, digests: list[str]) -> tuple[int, Any]:
    status, _, body = node.request("POST", "/v1/lacking", json.dumps({"digests": digests}).encode())
    return status, json.loads(body)


def put(node: NodeProcess, data: bytes) -> str:
    assert node.request("POST", "/v1/blobs", data)[0] in (200, 201)
    return digest_of(data).hex()


def test_what_is_not_here_is_named_in_the_order_of_the_question(node: NodeProcess) -> None:
    here = {put(node, b"blob %d" % number) for number in range(20)}
    digests = [digest_of(b"blob %d" % number).hex() for number in range(40)]
    Random(1).shuffle(digests)
    status, answer = ask(node, digests)
    assert status == 200
    assert answer == {"lacking": [digest for digest in digests if digest not in here]}
    assert ask(node, []) == (200, {"lacking": []})


def test_a_question_has_so_many_digests_at_most(node: NodeProcess) -> None:
    digests = [digest_of(b"%d" % number).hex() for number in range(MOST + 1)]
    status, answer = ask(node, digests[:MOST])
    assert (status, len(answer["lacking"])) == (200, MOST)
    status, answer = ask(node, digests)
    assert (status, answer["error"]) == (400, "4097 digests in one question; it may have 4096")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b'{"digests": "00"}', b'{"digests": [1]}', b"\xff", b"[" * 100_000,
        b'{"digests": ["00"]}', b'{"digests": ["' + b"A" * 64 + b'"]}',
        b'{"digests": ["' + b"0" * 63 + b'", "' + b"0" * 65 + b'"]}', b" " * 1_000_000,
    ],
    ids=lambda body: body[:20],
)  # fmt: skip
def test_a_question_that_is_none_is_refused(node: NodeProcess, body: bytes) -> None:
    status, _, answer = node.request("POST", "/v1/lacking", body)
    assert status == 400
    assert json.loads(answer)["error"]


def test_what_is_damaged_is_lacking(node: NodeProcess) -> None:
    data = Random(2).randbytes(3000)
    digest = put(node, data)
    assert ask(node, [digest]) == (200, {"lacking": []})
    (segment,) = [
        path for path in node.data.glob("segments/*") if data in (content := path.read_bytes())
    ]
    content = segment.read_bytes()
    at = content.find(data) + 1000
    with segment.open("r+b") as file:
        file.seek(at)
        file.write(bytes([content[at] ^ 1]))
    assert node.request("GET", f"/v1/blobs/{digest}")[0] == 404
    assert ask(node, [digest]) == (200, {"lacking": [digest]})
    assert put(node, data) == digest
    assert ask(node, [digest]) == (200, {"lacking": []})


# --- the client --------------------------------------------------------------------------------


def lacking(url: str, digests: list[Digest], times: int = 1) -> list[set[Digest]]:
    async def asked() -> list[set[Digest]]:
        async with node_client(parse_peer(url)) as client:
            return [await client.lacking(digests) for _ in range(times)]

    return anyio.run(asked)


def test_a_client_may_ask_for_any_number(node: NodeProcess) -> None:
    held = bytes.fromhex(put(node, b"held"))
    others = [digest_of(b"other %d" % number) for number in range(2 * MOST)]
    assert lacking(node.url, [*others, Digest(held)]) == [set(others)]


class _Old(BaseHTTPRequestHandler):
    """A node that does not know the question."""

    asked = 0

    def do_POST(self) -> None:
        _Old.asked += 1
        self.rfile.read(int(self.headers["content-length"]))
        self.send_error(405)

    def log_message(self, *_: object) -> None:
        pass


def test_an_older_node_lacks_everything_and_is_asked_once() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Old) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        digests = [digest_of(b"one"), digest_of(b"two")]
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert lacking(url, digests, times=3) == [set(digests)] * 3
        server.shutdown()
        thread.join()
    assert _Old.asked == 1


def test_the_limit_of_a_blob_is_told(tmp_path: Path) -> None:
    with nodes() as start:
        assert start(tmp_path / "plain").status()["max_blob_bytes"] == 64 * 1024**3
        limited = start(tmp_path / "limited", "--max-blob", "5MiB")
        assert limited.status()["max_blob_bytes"] == 5 * 1024**2
