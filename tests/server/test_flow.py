"""What only a race on a real connection would show now and then."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from quart_trio import QuartTrio

from mesh.server.repairs.connections import TrioConnection
from mesh.server.repairs.flow import with_flow
from mesh.server.repairs.inflow import Ahead

pytestmark = pytest.mark.trio


class Closing:
    """A connection on which another task sends its end from the N-th time on that we send."""

    def __init__(self, stream: trio.SocketStream, first: int) -> None:
        self._stream = stream
        self._left = first

    async def send_all(self, data: bytes) -> None:
        self._left -= 1
        if self._left < 0:
            raise trio.BusyResourceError("another task is currently sending data")
        await self._stream.send_all(data)

    def __getattr__(self, name: str) -> Any:
        if name == "do_handshake":
            raise AttributeError(name)  # it is no TLS stream
        return getattr(self._stream, name)


# A good request; one with bytes behind it that are not HTTP; and those alone.
GOOD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.parametrize("sent", [GOOD, GOOD + b"surplus\r\n\r\n", b"surplus\r\n\r\n"])
@pytest.mark.parametrize("first", [0, 1])
async def test_a_connection_that_closes_while_it_is_sent_to_ends_quietly(
    sent: bytes, first: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = QuartTrio("test")

    @app.get("/")
    async def hello() -> str:
        return "hello"

    async def serve(stream: trio.SocketStream) -> None:
        wrapper = ASGIWrapper(with_flow(app))
        server = TrioConnection(
            Ahead(), wrapper, Config(), WorkerContext(None), {}, Closing(stream, first)
        )
        await server.run()
        ended.set()

    ended = trio.Event()
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        client = await trio.testing.open_stream_to_socket_listener(listener)
        async with client:
            await client.send_all(sent)
            await client.send_eof()
            with trio.fail_after(30):
                await ended.wait()
        nursery.cancel_scope.cancel()
    assert not [record for record in caplog.records if record.exc_info]
