"""What the server holds of bodies that wait is bounded by design: the bound, measured."""

from __future__ import annotations

import re
import select
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from mesh.core.digest import digest_of
from mesh.server.repairs.inflow import AHEAD, READ
from tests.processes import NodeProcess, nodes

MIB = 1024 * 1024
UPLOADS = 150
SENT = 1_300_000  # of each upload, which then stands still

# Uploads that have got a place are taken in whole, up to where they stand still; server/blobs.py.
PLACES = 12
# What an upload may hold without a place, beside the read that is in hand (server/metered.py).
FREE = 64 * 1024
# A connection with its tasks and buffers, measured: 27 KiB.
CONNECTION = 48 * 1024

BOUND = AHEAD + PLACES * SENT + UPLOADS * (FREE + READ + CONNECTION)


def resident(node: NodeProcess) -> int:
    text = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024


def feed(links: list[socket.socket], size: int) -> None:
    """Send `size` bytes on every connection, or as much as the node and the kernel take."""
    left = dict.fromkeys(links, size)
    while left:
        _, ready, _ = select.select([], list(left), [], 1.0)
        if not ready:
            return
        for link in ready:
            left[link] -= link.send(bytes(min(65536, left[link])))
            if not left[link]:
                del left[link]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_uploads_that_stand_still_hold_what_was_promised(backend: str, tmp_path: Path) -> None:
    head = b"POST /v1/blobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4000000\r\n\r\n"
    with nodes() as start, ExitStack() as stack:
        node = start(tmp_path / "data", backend=backend)
        node.ready()
        before = resident(node)
        links = []
        for _ in range(UPLOADS):
            link = stack.enter_context(socket.create_connection(node.address, timeout=20))
            link.sendall(head)
            link.setblocking(False)
            links.append(link)
        feed(links, SENT)
        # Others are served beside them, as long as they need no place.
        data = bytes(range(256)) * 100
        waits = []
        for number in range(20):
            began = time.monotonic()
            blob = b"%d" % number + data
            assert node.request("PUT", f"/v1/blobs/{digest_of(blob).hex()}", blob)[0] == 201
            waits.append(time.monotonic() - began)
        grown = node.peak_bytes() - before
        assert grown < BOUND, f"{grown / MIB:.0f} MiB, and {BOUND / MIB:.0f} MiB are promised"
        assert sorted(waits)[10] < 1.0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_upload_goes_on_where_the_handler_does(backend: str, tmp_path: Path) -> None:
    """A body in bits, and one that is far larger than all that may be read ahead."""
    with nodes() as start:
        node = start(tmp_path / "data", backend=backend)
        node.ready()
        for data, size in ((b"0123456789" * 50, 1), (bytes(3 * AHEAD), 1_000_000)):
            head = (
                b"POST /v1/blobs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            with socket.create_connection(node.address, timeout=30) as link:
                link.sendall(head)
                for at in range(0, len(data), size):
                    piece = data[at : at + size]
                    link.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                link.sendall(b"0\r\n\r\n")
                assert link.recv(12) == b"HTTP/1.1 201"
