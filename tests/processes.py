"""Real nodes as real processes, for end-to-end tests and benchmarks."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import anyio

from mesh.core.digest import digest_of
from mesh.offload import Lane, Threads
from mesh.store.base import Blob
from mesh.store.directory import DataDirectory
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles
from tests.forks import Fork, environment

READY = re.compile(r"listening on (http://\S+),")

# Straight to the node, whatever proxies the machine has.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NodeProcess:
    """`python -m mesh run` in a process of its own; end it with `stop` or `kill`.

    It is a fork of one that has imported everything (forks.py), unless it is `fresh`, or `prefix`
    is a command that runs it, such as strace with its options.
    """

    def __init__(
        self,
        data: Path,
        *args: str,
        backend: str = "asyncio",
        listen: str = "",
        prefix: Sequence[str] = (),
        fresh: bool = False,
    ) -> None:
        self.data = data
        words = ["run", "--data", str(data), "--listen", listen or "127.0.0.1:0"]
        words += ["--backend", backend, *args]
        if "--log-format" not in args:
            words += ["--log-format", "text"]
        self.process: Fork | subprocess.Popen[bytes]
        with ExitStack() as ends:
            self._out, out = _pipe(ends)
            self._err, err = _pipe(ends)
            nothing = ends.enter_context(open(os.devnull, "rb"))
            if prefix or fresh:
                command = [*prefix, sys.executable, "-m", "mesh", *words]
                self.process = subprocess.Popen(
                    command, stdin=nothing, stdout=out, stderr=err, env=environment()
                )
            else:
                self.process = Fork(words, [nothing.fileno(), out, err], environment())
        self.errors: list[str] = []
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()
        line = self.first_line = self._out.readline()
        match = READY.search(line)
        if match is None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.kill()
            raise RuntimeError(f"the node did not start: {line}{''.join(self.errors)}")
        self.url = match[1]

    def _drain(self) -> None:
        for line in self._err:
            self.errors.append(line)

    @property
    def place(self) -> str:
        return self.url.removeprefix("http://")

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.place.rpartition(":")
        return host, int(port)

    @property
    def log(self) -> str:
        """What it has written to stderr; complete once it has ended."""
        return "".join(self.errors)

    def request(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        request = urllib.request.Request(self.url + path, data=body, method=method)
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with _DIRECT.open(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def status(self) -> dict[str, Any]:
        code, _, body = self.request("GET", "/v1/status")
        assert code == 200, body
        return json.loads(body)

    def ready(self) -> None:
        """Return once its tree is built."""
        until(lambda: self.status()["state"] == "ready")

    def peak_bytes(self) -> int:
        """The most resident memory so far."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", text)[1]) * 1024

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self._ended()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self._ended()

    def _ended(self) -> int:
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._reader.join(10)
        self._out.close()
        self._err.close()
        return code


def _pipe(stack: ExitStack) -> tuple[TextIO, int]:
    """The end of a pipe that is read, as text, and the one to be written to, closed by `stack`."""
    reading, writing = os.pipe()
    stack.callback(os.close, writing)
    return open(reading, encoding="utf-8", errors="backslashreplace"), writing


@contextmanager
def nodes() -> Iterator[Callable[..., NodeProcess]]:
    """A way to start nodes; all of them are ended at the end."""
    started: list[NodeProcess] = []

    def start(data: Path, *args: str, **options: Any) -> NodeProcess:
        node = NodeProcess(data, *args, **options)
        started.append(node)
        return node

    try:
        yield start
    finally:
        for node in started:
            if node.process.poll() is None:
                node.kill()


def until(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Ask again until the answer is true; real processes are watched, not slept for."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (answer := what()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s")
        pause.wait(0.02)
    return answer


def mesh(
    *args: str | bytes | Path,
    stdin: bytes = b"",
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = 60.0,
) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own; it completed, with its output as bytes.

    The process is a fork of one that has imported everything, which is most of what a short
    command costs. TimeoutExpired when it takes more than `seconds`.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(stdin)
        files[0].seek(0)
        process = Fork(args, [file.fileno() for file in files], environment(env), cwd)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        output = [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0) for file in files]
        return subprocess.CompletedProcess(args, code, output[1], output[2])


def free_places(count: int) -> list[str]:
    """Addresses on loopback that nobody listens on, for nodes that list each other."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in held]


class Valve:
    """A TCP relay to a node that stops after so many bytes of answers: a transfer held in mid-way.

    `open` lets everything pass. Its address is what the other node lists as its peer.
    """

    def __init__(self, target: str, limit: int) -> None:
        """`limit`: bytes that may pass from the target before it closes."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._left: float = limit
        self.passed = 0
        """Bytes that have come from the target."""
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def open(self) -> None:
        """From now on everything passes."""
        with self._changed:
            self._left = float("inf")
            self._changed.notify_all()

    def close(self) -> None:
        """Cut every connection and take no more."""
        self.open()
        for one in list(self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def __enter__(self) -> Valve:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                self._sockets.append(far)
                for source, sink, counted in ((near, far, False), (far, near, True)):
                    pipe = (source, sink, counted)
                    threading.Thread(target=self._pipe, args=pipe, daemon=True).start()

    def _pipe(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if counted:
                    with self._changed:
                        self._changed.wait_for(lambda: self._left > 0)
                        self._left -= len(data)
                        self.passed += len(data)
                sink.sendall(data)
        # One side has gone: so the other one hears of it.
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def fill(directory: Path, blobs: Sequence[bytes]) -> list[str]:
    """Blobs straight into a data directory, before any node runs on it; their names."""
    return anyio.run(_fill, directory, blobs)


async def _fill(directory: Path, blobs: Sequence[bytes]) -> list[str]:
    claimed = DataDirectory.claim(directory)
    store = DiskStore(DiskFiles(directory), directory / "index.sqlite", Lane, Threads(2))
    await store.open()
    items = [Blob(digest_of(data), data) for data in blobs]
    for at in range(0, len(items), 1000):
        await store.commit(items[at : at + 1000])
    await store.close()
    claimed.release()
    return [item.digest.hex() for item in items]
