"""Answers whose head does not end, or to which other answers are put in front; and cookies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import create_task_group
from anyio.abc import SocketAttribute, SocketStream

from mesh.errors import Unreachable
from mesh.transport.http import Http, HttpWire, new_client
from mesh.transport.repairs.heads import MOST

pytestmark = pytest.mark.anyio

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
FINAL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Stranger:
    """A server that answers each request with pieces of its own, the last of them again and again.

    `got` is what it was sent.
    """

    def __init__(self, pieces: Sequence[bytes], endless: bool) -> None:
        self.url = ""
        self.got = b""
        self._pieces = pieces
        self._endless = endless

    async def serve(self, link: SocketStream) -> None:
        async with link:
            try:
                while True:
                    self.got += await link.receive()
                    for piece in self._pieces:
                        await link.send(piece)
                    while self._endless:
                        await link.send(self._pieces[-1])
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass


@asynccontextmanager
async def stranger(*pieces: bytes, endless: bool = False) -> AsyncIterator[Stranger]:
    there = Stranger(pieces, endless)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, create_task_group() as group:
        group.start_soon(listener.serve, there.serve)
        there.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        yield there
        group.cancel_scope.cancel()


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


ENDLESS = {
    "interim answers": CONTINUE,
    "many interim answers at once": CONTINUE * 10_000,
    "interim answers, cut anywhere": CONTINUE * 3 + CONTINUE[:7],
    "early hints": b"HTTP/1.1 103 X\r\nLink: <" + b"x" * 5_000 + b">\r\n\r\n",
    "headers": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100,
    "a header": b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 1_000,
    "a status line": b"HTTP/1.1 200 " + b"O" * 1_000,
    "junk": b"\xff" * 1_000,
    "a chunk extension": CHUNKED + b"1;" + b"a" * 1_000,
    "trailers": CHUNKED + b"0\r\n" + b"X-A: b\r\n" * 100,
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_what_does_not_end_is_an_error_of_that_peer(what: str) -> None:
    """All at once, as fast as it can be sent."""
    first = ENDLESS[what]
    again = {"a chunk extension": b"a", "trailers": b"X-A: b\r\n", "headers": b"X-A: b\r\n"}
    more = again.get(what, first[-26:]) * 1_000
    async with stranger(first, more, endless=True) as there, new_client() as client:
        with anyio.fail_after(20), pytest.raises(Unreachable):
            await HttpWire(Http(client, there.url)).call("root", b"")


async def test_what_does_not_end_is_an_error_while_something_is_sent() -> None:
    async with stranger(CONTINUE * 1_000, endless=True) as there, new_client() as client:
        with anyio.fail_after(20), pytest.raises(Unreachable):
            await HttpWire(Http(client, there.url)).upload("push", chunks(b"a", b"b"))


INTERIM = {
    "one": CONTINUE,
    "some": CONTINUE * 20,
    "many": CONTINUE * (MOST // len(CONTINUE) // 2),
}


@pytest.mark.parametrize("what", INTERIM)
async def test_interim_answers_are_passed_over(what: str) -> None:
    interim = INTERIM[what]
    cuts = (len(interim), 3, len(interim) - 5)
    for cut in cuts:
        whole = interim + FINAL
        async with stranger(whole[:cut], whole[cut:]) as there, new_client() as client:
            wire = HttpWire(Http(client, there.url))
            for _ in range(2):  # also on a connection that is kept
                assert await wire.call("root", b"") == b"hi"
            assert await wire.upload("push", chunks(b"a", b"b")) == b"hi"


async def test_a_body_behind_interim_answers_comes_whole() -> None:
    body = bytes(range(256)) * 2_000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with stranger(CONTINUE + head + body) as there, new_client() as client:
        for _ in range(2):
            assert await HttpWire(Http(client, there.url)).call("root", b"") == body


async def test_no_cookie_is_kept_or_sent() -> None:
    set_cookies = b"".join(b"Set-Cookie: c%d=%s; Path=/\r\n" % (n, b"x" * 800) for n in range(80))
    answer = FINAL.replace(b"\r\n", b"\r\n" + set_cookies, 1)
    async with stranger(answer) as liar, stranger(FINAL) as honest, new_client() as client:
        for there in (liar, liar, honest):
            assert await HttpWire(Http(client, there.url)).call("root", b"") == b"hi"
        assert b"cookie" not in (liar.got + honest.got).lower()
        assert not client.cookies


async def test_a_redirect_is_not_followed() -> None:
    async with stranger(FINAL) as elsewhere:
        where = elsewhere.url.encode()
        moved = b"HTTP/1.1 307 X\r\nLocation: %s/\r\nContent-Length: 0\r\n\r\n" % where
        async with stranger(moved) as liar, new_client() as client:
            with pytest.raises(Exception, match="declined: HTTP status 307"):
                await HttpWire(Http(client, liar.url)).call("root", b"")
        assert elsewhere.got == b""


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stranger(FINAL) as peer, stranger(FINAL) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with new_client() as client:
            assert await HttpWire(Http(client, peer.url)).call("root", b"") == b"hi"
        assert proxy.got == b""
