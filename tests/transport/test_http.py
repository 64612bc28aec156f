"""Answers that no node gives: whatever a stranger says, the wire raises a PeerError."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import create_task_group
from anyio.abc import SocketAttribute, SocketStream

from mesh.blobstash.remote import Remote
from mesh.config import parse_peer
from mesh.errors import Misbehaved, Refused
from mesh.status import Status
from mesh.transport.client import node_client
from mesh.transport.http import Http, HttpWire, new_client

pytestmark = [
    pytest.mark.anyio,
    # httpx does not close its own generators when a stream is left early.
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning"),
]

BODIES = {
    "not UTF-8": b'{"error":"\xff"}',
    "half a character": b'{"error":"\xc3',
    "a surrogate": b'{"error":"\xed\xa0\x80"}',
    "a key that is not UTF-8": b'{"\xff":"x"}',
    "nested deeply": b"[" * 60_000,
    "another type": b'{"error":{"error":"x"}}',
    "no object": b'"error"',
    "nothing": b"",
    "too much": b'{"error":"' + b"x" * 100_000 + b'"}',
}


@asynccontextmanager
async def stranger(status: int, body: bytes) -> AsyncIterator[str]:
    """The URL of a server that answers every request so."""
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"

    async def answer(link: SocketStream) -> None:
        async with link:
            await link.receive()
            await link.send(head.encode() + body)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, create_task_group() as group:
        group.start_soon(listener.serve, answer)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        group.cancel_scope.cancel()


@pytest.mark.parametrize("what", BODIES)
async def test_an_error_in_any_words_is_a_refusal(what: str) -> None:
    async with stranger(503, BODIES[what]) as url, new_client() as client:
        with pytest.raises(Refused, match="declined"):
            await HttpWire(Http(client, url)).call("root", b"")
        with pytest.raises(Refused, match="declined"):
            await Remote(Http(client, url), "there").state()
        async with node_client(parse_peer(url)) as node:
            with pytest.raises(Refused, match="declined"):
                await node.status(Status)


@pytest.mark.parametrize("what", BODIES)
async def test_an_answer_that_cannot_be_read_is_misbehaviour(what: str) -> None:
    async with stranger(200, BODIES[what]) as url, new_client() as client:
        with pytest.raises(Misbehaved):
            await Remote(Http(client, url), "there").state()
        async with node_client(parse_peer(url)) as node:
            with pytest.raises(Misbehaved):
                await node.status(Status)


@pytest.mark.parametrize("filler", [b" ", b'{"error":"\xff"}'])
async def test_a_leaf_without_digests_is_given_up_early(filler: bytes) -> None:
    body = filler * (4 * 2**20 // len(filler))
    async with stranger(200, body) as url, new_client() as client:
        with pytest.raises(Misbehaved):
            await Remote(Http(client, url), "there").leaf("00")
