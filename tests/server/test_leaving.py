"""Senders that leave while what they sent is being stored: stored or not, and nothing else."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from mesh.core.digest import digest_of
from mesh.core.limits import LARGE_BLOB
from tests.processes import nodes

NODE = "ab" * 16
RESET = struct.pack("ii", 1, 0)  # closed so, a connection is reset


def head(path: str, size: int) -> bytes:
    return f"{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n".encode()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_sender_may_leave_as_its_large_blob_is_stored(tmp_path: Path, backend: str) -> None:
    with nodes() as start:
        node = start(tmp_path / "data", backend=backend)
        node.ready()
        for number in range(12):
            data = b"%4d" % number + bytes(LARGE_BLOB)
            name = digest_of(data).hex()
            push = f"/mesh/v1/push/{NODE}/{name}/{len(data)}"
            path = f"POST {push}" if number % 3 else f"PUT /v1/blobs/{name}"
            with socket.create_connection(node.address, timeout=20) as link:
                link.sendall(head(path, len(data)) + data)
                if number % 2:
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            # While the first may still be stored, the next one comes with the same blob.
            code, _, answer = node.request("PUT", f"/v1/blobs/{name}", data)
            assert code in (200, 201), answer
            assert node.request("HEAD", f"/v1/blobs/{name}")[0] == 200
        assert node.stop() == 0
        assert "Traceback" not in node.log, node.log
