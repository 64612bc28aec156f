"""Bodies from peers that stop coming: 408. In virtual time, through the application.

Uploads from clients may pause: tests/server/test_pauses.py.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from mesh.config import Config
from mesh.core.digest import digest_of
from mesh.node import Identity, Node
from mesh.offload import Inline
from mesh.server.app import create_app
from mesh.store.memory import MemoryStore
from mesh.wire.frames import Kind, frame

pytestmark = pytest.mark.trio

DATA = bytes(50_000)
FRAME = frame(Kind.BLOB, digest_of(DATA), len(DATA)) + DATA
NAME = digest_of(DATA).hex()


def nobody(*_: Any) -> Any:
    raise AssertionError("it has no peers")


@pytest.mark.parametrize(
    ("method", "path", "begun"),
    [
        ("POST", f"/mesh/v1/push/{'0' * 32}", FRAME[:100]),
        ("POST", f"/mesh/v1/push/{'0' * 32}", b""),
        ("POST", f"/mesh/v1/push/{'0' * 32}/{NAME}/{len(DATA)}", DATA[:100]),
        ("POST", "/mesh/v1/root", b"\x80"),
    ],
    ids=["push", "push of nothing", "push of one blob", "message"],
)
async def test_a_body_that_stops_is_408(
    method: str, path: str, begun: bytes, autojump_clock: MockClock
) -> None:
    identity = Identity(b"n" * 16, b"i" * 8, "node")
    node = Node(Config(), identity, MemoryStore(), nobody, Inline(), Random(0))
    app = create_app(node, "trio", nobody, trio.Event())
    sent: list[dict[str, Any]] = []
    came = [{"type": "http.request", "body": begun, "more_body": True}]
    answered = trio.Event()

    async def receive() -> dict[str, Any]:
        if came:
            return came.pop()
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    scope = {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": None,
        "headers": [(b"host", b"127.0.0.1"), (b"content-length", b"50100")], "extensions": {},
    }  # fmt: skip
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        await node.keeper.built()
        began = trio.current_time()
        await app(scope, receive, send)
        nursery.cancel_scope.cancel()
    assert sent[0]["status"] == 408
    assert b"error" in b"".join(message.get("body", b"") for message in sent)
    assert 25 < trio.current_time() - began < 70
