"""The client of a node: uploads that listen, and deadlines in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import anyio
import pytest
from anyio import create_task_group
from anyio.abc import SocketStream
from trio.testing import MockClock

from mesh.config import parse_peer
from mesh.core.digest import Digest
from mesh.errors import InputError, MeshError, Refused, Stalled, Unreachable
from mesh.status import RoundStats, Status, WaitReport
from mesh.transport.client import NodeClient, node_client
from mesh.transport.http import Http, Streamed

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return cast(str, request.param)


# --- an answer that comes before the body has gone -------------------------------------------


def answer(status: int, text: str) -> bytes:
    body = b'{"error":"%s"}' % text.encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@asynccontextmanager
async def a_server(serve: Callable[[SocketStream], Awaitable[None]]) -> AsyncIterator[NodeClient]:
    """A client of somebody who does `serve` with each connection, and then closes it."""

    async def handle(stream: SocketStream) -> None:
        async with stream:
            await serve(stream)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with create_task_group() as group:
            group.start_soon(listener.serve, handle)
            async with node_client(parse_peer(f"127.0.0.1:{port}")) as client:
                yield client
            group.cancel_scope.cancel()


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield bytes(512 * 1024)


async def silent() -> AsyncIterator[bytes]:
    yield b"start"
    await anyio.sleep_forever()


BODIES = {"an endless body": endless, "a producer that pauses": silent}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("status", [401, 413, 503, 507])
async def test_an_early_answer_ends_an_upload_with_its_reason(
    body: Callable[[], AsyncIterator[bytes]], status: int
) -> None:
    async def serve(stream: SocketStream) -> None:
        await stream.receive()
        await stream.send(answer(status, "the reason"))

    with anyio.fail_after(20):
        async with a_server(serve) as client:
            with pytest.raises(Refused, match="the reason") as caught:
                await client.put_stream(body(), None)
    assert caught.value.status == status


async def test_an_answer_of_somebody_who_stays_and_reads_nothing_is_read_too() -> None:
    async def serve(stream: SocketStream) -> None:
        await stream.receive()
        await stream.send(answer(413, "too large"))
        await anyio.sleep_forever()

    with anyio.fail_after(20):
        async with a_server(serve) as client:
            with pytest.raises(Refused, match="too large"):
                await client.put_stream(endless(), None)


async def test_a_connection_that_breaks_in_mid_upload_is_said() -> None:
    async def serve(stream: SocketStream) -> None:
        await stream.receive()

    with anyio.fail_after(20):
        async with a_server(serve) as client:
            with pytest.raises(Unreachable, match="connection to 127"):
                await client.put_stream(endless(), None)


async def test_an_error_of_the_body_passes_as_it_is() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise InputError("the file has changed")

    async def serve(stream: SocketStream) -> None:
        await anyio.sleep_forever()

    with anyio.fail_after(20):
        async with a_server(serve) as client:
            with pytest.raises(InputError, match="the file has changed"):
                await client.put_stream(broken(), None)


# --- a node that does not answer -------------------------------------------------------------


class Frozen(Http):
    """Requests that are never answered, but those for the status for as long as `alive`."""

    def __init__(self, alive: Callable[[], bool]) -> None:
        self._alive = alive

    async def exchange(  # type: ignore[override]
        self, method: str, path: str, *_: object, **__: object
    ) -> tuple[int, Mapping[str, str], bytes]:
        if method != "GET" or path != "/v1/status" or not self._alive():
            await anyio.sleep_forever()
        return 200, {}, b"{}"

    @asynccontextmanager
    async def open(self, *_: object, **__: object) -> AsyncIterator[Streamed]:
        await anyio.sleep_forever()
        yield Streamed(200, {}, silent())


def never() -> bool:
    return False


CALLS: dict[str, Callable[[NodeClient], Awaitable[Any]]] = {
    "status": lambda client: client.status(Status),
    "sync": lambda client: client.sync("peer", RoundStats),
    "wait": lambda client: client.wait(None, WaitReport),
    "scrub": lambda client: client.scrub("start", Status),
    "put": lambda client: client.put_stream(b"data", 4),
    "batch": lambda client: client.put_batch(b"data", 4),
    "ls": lambda client: anext(client.listing("")),
    "get": lambda client: first(client.get(Digest(bytes(32)))),
    "get --tree": lambda client: first(client.batch([Digest(bytes(32))])),
}


async def first(opening: AbstractAsyncContextManager[Any]) -> None:
    async with opening:
        pass


@pytest.mark.trio
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_no_call_waits_for_a_node_that_is_stopped(
    autojump_clock: MockClock, call: Callable[[NodeClient], Awaitable[Any]]
) -> None:
    began = anyio.current_time()
    with pytest.raises(Stalled, match="has not answered for 30 s"):
        await call(NodeClient(Frozen(never), "here"))
    assert anyio.current_time() - began == pytest.approx(30)


@pytest.mark.trio
async def test_a_node_that_works_for_hours_is_waited_for_until_it_is_stopped(
    autojump_clock: MockClock,
) -> None:
    began = anyio.current_time()
    frozen = Frozen(lambda: anyio.current_time() < began + 7200)
    with pytest.raises(Stalled):
        await CALLS["sync"](NodeClient(frozen, "here"))
    assert 7200 < anyio.current_time() - began < 7200 + 45


@pytest.mark.trio
async def test_a_wait_with_a_time_ends_soon_after_it(autojump_clock: MockClock) -> None:
    began = anyio.current_time()
    with pytest.raises(MeshError, match="no answer within 13 s"):
        await NodeClient(Frozen(never), "here").wait(3, WaitReport)
    assert anyio.current_time() - began == pytest.approx(13)
