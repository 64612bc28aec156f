"""Bodies without end, where nothing is stored of them: 413 after a bound, and little memory."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.processes import NodeProcess, nodes

MIB = 1024 * 1024
SENT = 64 * MIB  # of each, at most; a node that is in order takes a part of it and answers
ALLOWED = 10 * MIB  # what one of them may cost

TRIGGER = b"POST /api/sync/_trigger HTTP/1.1\r\nHost: 127.0.0.1\r\n"
TRIGGER += b"Content-Type: application/x-www-form-urlencoded\r\n"
UPLOAD = b"POST /api/blobstore/upload HTTP/1.1\r\nHost: 127.0.0.1\r\n"
UPLOAD += b"Content-Type: multipart/form-data; boundary=b\r\n"
# The blob of no bytes, whole.
PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n\r\n' % (
    b"0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"
)

# What begins the body, and what follows without end.
ENDLESS = {
    "a form": (TRIGGER, b"url=", b"x"),
    "a form of fields": (TRIGGER, b"", b"a=b&"),
    "a preamble": (UPLOAD, b"", b"x"),
    "a preamble of lines": (UPLOAD, b"", b"x\r\n"),
    "a preamble of boundaries, almost": (UPLOAD, b"", b"--c\r\n"),
    "a part's header": (UPLOAD, b"--b\r\nX-A: ", b"x"),
    "a part's headers": (UPLOAD, b"--b\r\n", b"X-A: b\r\n"),
    "a part's name": (UPLOAD, b'--b\r\nContent-Disposition: form-data; name="', b"0"),
    "an epilogue": (UPLOAD, PART + b"--b--\r\n", b"x"),
    "an epilogue of lines": (UPLOAD, PART + b"--b--\r\n", b"\r\n"),
    "blanks behind a boundary": (UPLOAD, b"--b", b" "),
    "parts": (UPLOAD, b"", PART),
}


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with nodes() as start:
        started = start(tmp_path_factory.mktemp("node") / "data", backend=request.param)
        started.ready()
        yield started


def resident(node: NodeProcess) -> int:
    text = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024


def forget_peak(node: NodeProcess) -> None:
    """Have the kernel measure the most resident memory anew."""
    Path(f"/proc/{node.process.pid}/clear_refs").write_text("5")


@pytest.mark.parametrize("sized", [False, True], ids=["chunked", "sized"])
@pytest.mark.parametrize("what", ENDLESS)
def test_what_does_not_end_is_413_and_small(node: NodeProcess, what: str, sized: bool) -> None:
    head, first, more = ENDLESS[what]
    piece = more * (65536 // len(more))
    framing = b"Content-Length: %d\r\n\r\n" % (2 * SENT)
    if not sized:
        framing = b"Transfer-Encoding: chunked\r\n\r\n"
        piece = b"%x\r\n%s\r\n" % (len(piece), piece)
        first = b"%x\r\n%s\r\n" % (len(first), first) if first else b""
    before = resident(node)
    forget_peak(node)
    with socket.create_connection(node.address, timeout=20) as link:
        link.sendall(head + framing + first)
        with suppress(ConnectionError):  # it has answered, and reads no more
            for _ in range(SENT // len(piece)):
                link.sendall(piece)
        assert link.recv(12) == b"HTTP/1.1 413"
    assert node.peak_bytes() - before < ALLOWED


def test_the_node_ends_as_it_should(node: NodeProcess) -> None:
    assert node.status()["state"] == "ready"
    assert node.stop() == 0
    assert "Traceback" not in node.log, node.log
