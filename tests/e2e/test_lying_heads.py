"""Peers that lie below the messages, in HTTP itself, do not keep the others from converging."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mesh.core.digest import digest_of
from tests.processes import NodeProcess, nodes, until

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000
COOKIES = b"".join(b"Set-Cookie: c%d=%s\r\n" % (n, b"x" * 800) for n in range(80))
WITH_COOKIES = b"HTTP/1.1 200 OK\r\n" + COOKIES + b"Content-Length: 0\r\n\r\n"


class Liar:
    """A peer that answers each request with `first`, and then with `again` without end."""

    def __init__(self, first: bytes, again: bytes = b"") -> None:
        self.calls = 0
        self.got = b""
        self._first = first
        self._again = again
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(link,), daemon=True).start()

    def _answer(self, link: socket.socket) -> None:
        with suppress(OSError), link:
            while data := link.recv(65536):
                self.got += data
                self.calls += 1
                link.sendall(self._first)
                while self._again:
                    link.sendall(self._again)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def liars() -> Iterator[dict[str, Liar]]:
    made = {
        "interim answers": Liar(INTERIM, INTERIM),
        "headers": Liar(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 5_000),
        "cookies": Liar(WITH_COOKIES),
    }
    try:
        yield made
    finally:
        for each in made.values():
            each.close()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_peers_that_lie_in_http_keep_nobody_from_being_in_sync(
    tmp_path: Path, backend: str
) -> None:
    with liars() as made, nodes() as start:
        honest = start(tmp_path / "honest", backend=backend)
        lying = ",".join(each.place for each in made.values())
        fast = ("--peers", f"{lying},{honest.place}", "--interval", "0.2")
        node = start(tmp_path / "node", *fast, backend=backend)
        until(lambda: all(each.calls for each in made.values()), 20)
        for number in range(3):
            body = b"blob %d" % number
            assert node.request("POST", "/v1/blobs", body)[0] == 201
            path = f"/v1/blobs/{digest_of(body).hex()}"
            until(lambda path=path: honest.request("HEAD", path)[0] == 200, 10)
        until(lambda: peers_of(node)[honest.place]["in_sync"], 10)
        for what, each in made.items():
            assert peers_of(node)[each.place]["last_error"], what
            assert b"ookie" not in each.got, what
        assert node.stop() == 0
        assert "Traceback" not in node.log, node.log


def peers_of(node: NodeProcess) -> dict[str, dict[str, Any]]:
    return {each["url"].removeprefix("http://"): each for each in node.status()["peers"]}
