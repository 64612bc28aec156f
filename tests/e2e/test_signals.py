"""Signals to a node that is in the middle of something: TERM, INT twice, STOP."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from mesh.core.digest import digest_of
from tests.processes import NodeProcess, nodes, until

DATA = b"half and half" * 50_000
HALF = len(DATA) // 2


def settings(place: Path, shutdown: float) -> tuple[str, str]:
    file = place / "mesh.toml"
    file.write_text(f"shutdown_seconds = {shutdown}")
    return "--config", str(file)


def uploading(node: NodeProcess) -> socket.socket:
    """An upload that has come half-way."""
    upload = socket.create_connection(node.address, timeout=60)
    head = f"PUT /v1/blobs/{digest_of(DATA).hex()} HTTP/1.1\r\nHost: localhost\r\n"
    upload.sendall(f"{head}Content-Length: {len(DATA)}\r\n\r\n".encode() + DATA[:HALF])
    return upload


def signalled(node: NodeProcess, number: int) -> None:
    node.process.send_signal(number)
    until(lambda: "stopping" in node.log)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sigterm_lets_what_is_under_way_end(tmp_path: Path, backend: str) -> None:
    with nodes() as start:
        node = start(tmp_path / "data", *settings(tmp_path, 60.0), backend=backend)
        node.ready()
        with uploading(node) as upload:
            signalled(node, signal.SIGTERM)
            upload.sendall(DATA[HALF:])
            assert b" 201 " in upload.recv(65536).split(b"\r\n")[0]
        assert node.process.wait(30) == 0
        assert node.stop() == 0
        assert "Traceback" not in node.log
        node = start(tmp_path / "data", backend=backend)
        node.ready()
        assert node.request("GET", f"/v1/blobs/{digest_of(DATA).hex()}")[2] == DATA


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("path", ["/v1/wait", "/v1/wait?mesh=1", "/v1/peers/mute/sync"])
def test_sigterm_ends_what_only_waits(tmp_path: Path, backend: str, path: str) -> None:
    """Although an hour is given to what is under way: this would need all of it."""
    with nodes() as start, socket.create_server(("127.0.0.1", 0)) as mute:
        peer = f"mute=127.0.0.1:{mute.getsockname()[1]}"
        node = start(
            tmp_path / "data", *settings(tmp_path, 3600.0), "--peers", peer, backend=backend
        )
        node.ready()
        with socket.create_connection(node.address, timeout=60) as waiting:
            request = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            waiting.sendall(request.encode())
            mute.accept()[0].close()  # its round has begun
            signalled(node, signal.SIGTERM)
            answer = waiting.recv(65536)
            while not answer.endswith(b"}\n"):
                answer += waiting.recv(65536) or b"}\n"
            assert b" 503 " in answer.split(b"\r\n")[0]
            assert node.process.wait(30) == 0
        assert node.stop() == 0
        assert b"the node is stopping" in answer
        assert "Traceback" not in node.log


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sigterm_cuts_at_its_deadline_what_does_not_end(tmp_path: Path, backend: str) -> None:
    with nodes() as start:
        node = start(tmp_path / "data", *settings(tmp_path, 0.3), backend=backend)
        node.ready()
        with uploading(node):
            node.process.send_signal(signal.SIGTERM)
            assert node.process.wait(30) == 0
        assert node.stop() == 0
        assert "Traceback" not in node.log


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_second_sigint_ends_a_node_at_once(tmp_path: Path, backend: str) -> None:
    with nodes() as start:
        # An hour for what is under way: whoever ends sooner did not wait for it.
        node = start(tmp_path / "data", *settings(tmp_path, 3600.0), backend=backend)
        node.ready()
        kept = b"acknowledged"
        path = f"/v1/blobs/{digest_of(kept).hex()}"
        assert node.request("PUT", path, kept)[0] == 201
        with uploading(node):
            signalled(node, signal.SIGINT)
            assert node.process.poll() is None
            assert node.stop(signal.SIGINT) == 128 + signal.SIGINT
        node = start(tmp_path / "data", backend=backend)
        node.ready()
        assert node.request("GET", path)[2] == kept
        assert node.status()["blobs"] == 1


def test_a_node_that_was_stopped_for_a_while_goes_on(tmp_path: Path) -> None:
    with nodes() as start:
        source = start(tmp_path / "source")
        target = start(tmp_path / "target", "--peers", source.place, "--interval", "0.1")
        source.request("POST", "/v1/blobs", b"before")
        until(lambda: target.status()["blobs"] == 1)
        target.process.send_signal(signal.SIGSTOP)
        with socket.create_connection(target.address) as link:
            link.sendall(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            link.settimeout(1.5)
            with pytest.raises(TimeoutError):
                link.recv(1)
        source.request("POST", "/v1/blobs", b"meanwhile")
        target.process.send_signal(signal.SIGCONT)
        until(lambda: target.status()["blobs"] == 2)
        assert target.status()["peers"][0]["in_sync"]
        for node in (target, source):
            assert node.stop() == 0
            assert "Traceback" not in node.log
