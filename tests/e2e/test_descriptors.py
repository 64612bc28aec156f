"""A node with few descriptors and many connections: load is shed, and it comes back by itself."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import ExitStack, suppress
from pathlib import Path

from mesh.core.digest import digest_of
from tests.processes import NodeProcess, nodes, until

LIMIT = 128
LIMITED = ("sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh")
ASK = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(node: NodeProcess, stack: ExitStack) -> socket.socket:
    """A connection that is reset in the end: Hypercorn holds one that was closed for a while."""
    one = stack.enter_context(socket.create_connection(node.address))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.settimeout(2.0)
    return one


def status(node: NodeProcess) -> int:
    """The status of a request on a connection of its own; 0 when there is no answer."""
    with ExitStack() as stack, suppress(OSError):
        one = connect(node, stack)
        one.sendall(ASK)
        line = one.recv(65536).split(b"\r\n")[0]
        return int(line.split()[1]) if line else 0
    return 0


def test_many_connections_are_declined_and_then_cost_nothing(tmp_path: Path) -> None:
    data = os.urandom(1000)
    path = f"/v1/blobs/{digest_of(data).hex()}"
    with nodes() as start:
        both = [
            start(tmp_path / backend, backend=backend, prefix=LIMITED)
            for backend in ("asyncio", "trio")
        ]
        for node in both:
            node.ready()
            assert node.request("PUT", path, data)[0] == 201
        with ExitStack() as stack:
            for node in both:
                # Few are left: connections are answered, and in words.
                until(lambda node=node: connect(node, stack) and status(node) == 503)
                # None at all: they wait, or are closed, and the log does not fill.
                for _ in range(LIMIT):
                    with suppress(OSError):
                        connect(node, stack)
            for node in both:
                assert status(node) in (0, 503)
        for node in both:
            until(lambda node=node: status(node) == 200)
            assert node.request("GET", path)[2] == data
            until(lambda node=node: node.status()["store"]["state"] == "ok")
            assert node.request("PUT", f"/v1/blobs/{digest_of(b'new').hex()}", b"new")[0] == 201
            assert node.stop() == 0
            assert "Traceback" not in node.log
            assert len([line for line in node.errors if "descriptors" in line]) <= 1
            assert len(node.errors) < 12
