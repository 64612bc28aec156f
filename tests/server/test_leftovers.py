"""Connections that end leave nothing for Python's collector to find."""

from __future__ import annotations

import gc
import socket
from pathlib import Path

import anyio
import pytest

import mesh
from mesh.server.repairs.requests import Requests

GET = b"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n"
PUT = b"PUT /v1/blobs/%s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n" % (b"a" * 64)

# How a client may go: after its answer, without its answer, within a body, within a head.
ENDINGS = (GET + b"Connection: close\r\n\r\n", GET + b"\r\n", PUT + b"abc", GET, PUT)


def _open() -> int:
    return sum(isinstance(each, Requests) for each in gc.get_objects())


def _come_and_go(address: tuple[str, int]) -> None:
    for number in range(40):
        with socket.create_connection(address, timeout=20) as link:
            link.sendall(ENDINGS[number % len(ENDINGS)])
            if number % len(ENDINGS) == 0:
                while link.recv(65536):
                    pass


async def _ended() -> None:
    while _open():
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(gc.is_tracked, None)  # the sockets' turn


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_connections_go_when_they_end(tmp_path: Path, backend: str) -> None:
    async def main() -> None:
        config = mesh.Config(data=str(tmp_path), listen="127.0.0.1:0", backend=backend)
        async with mesh.Node(config) as node:
            host, _, port = node.url.rpartition("://")[2].rpartition(":")
            gc.disable()
            try:
                await anyio.to_thread.run_sync(_come_and_go, (host, int(port)))
                with anyio.fail_after(20):
                    await _ended()
            finally:
                gc.enable()

    anyio.run(main, backend=backend)
