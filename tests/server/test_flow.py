"""Flow control at its ASGI edge: what only a race on a real connection would show now and then."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from quart_trio import QuartTrio

from mesh.server.flow import with_flow

pytestmark = pytest.mark.trio

SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "asgi": {"version": "3.0"},
    "scheme": "http",
    "method": "GET",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"127.0.0.1")],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 2),
    "state": {},
    "extensions": {},
}


@pytest.mark.parametrize("which", ["http.response.start", "http.response.body"])
async def test_an_answer_on_a_connection_that_is_being_closed_is_dropped_quietly(
    which: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = QuartTrio("test")

    @app.get("/")
    async def hello() -> str:
        return "hello"

    arriving = [{"type": "http.request", "body": b"", "more_body": False}]
    closed = trio.Event()
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        if arriving:
            return arriving.pop()
        await closed.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])
        if message["type"] == which:
            closed.set()
            raise trio.BusyResourceError("another task is currently sending data")

    with caplog.at_level(logging.INFO):
        await with_flow(app)(dict(SCOPE), receive, send)
    assert sent[-1] == which
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]
