"""Real nodes as real processes, for end-to-end tests and benchmarks."""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from mesh.cli.main import main
from mesh.core.digest import digest_of
from mesh.offload import Lane, Threads
from mesh.store.base import Blob
from mesh.store.directory import DataDirectory
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles

READY = re.compile(r"listening on (http://\S+),")

# Straight to the node, whatever proxies the machine has.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


SEGMENT_BYTES = "TESTS_SEGMENT_BYTES"
"""In the environment of a forked node: how large its segments are, in bytes."""


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings of mesh, and with `extra`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
    return {**kept, **(extra or {})}


class NodeProcess:
    """`python -m mesh run` in a process of its own; end it with `stop` or `kill`.

    `prefix` is a command that runs it, such as strace with its options.
    """

    def __init__(
        self,
        data: Path,
        *args: str,
        backend: str = "asyncio",
        listen: str = "",
        prefix: Sequence[str] = (),
    ) -> None:
        self.data = data
        command = [*prefix, sys.executable, "-m", "mesh", "run", "--data", str(data)]
        command += ["--listen", listen or "127.0.0.1:0", "--backend", backend, *args]
        if "--log-format" not in args:
            command += ["--log-format", "text"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        self.errors: list[str] = []
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()
        assert self.process.stdout is not None
        line = self.first_line = self.process.stdout.readline()
        match = READY.search(line)
        if match is None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.kill()
            raise RuntimeError(f"the node did not start: {line}{''.join(self.errors)}")
        self.url = match[1]

    def _drain(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
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
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return code


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
    seconds: float = 60.0,
) -> subprocess.CompletedProcess[bytes]:
    """The command line in a process of its own; it completed, with its output as bytes.

    The process is a fork of one that has imported everything, which is most of what a short
    command costs. TimeoutExpired when it takes more than `seconds`.
    """
    words = [os.fsencode(arg).hex() for arg in args]
    order = json.dumps([words, environment(env)]).encode()
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(stdin)
        files[0].seek(0)
        here, there = socket.socketpair()
        stack.enter_context(here)
        with there:
            descriptors = [file.fileno() for file in files] + [there.fileno()]
            with _template_lock:
                socket.send_fds(_template(), [struct.pack(">I", len(order))], descriptors)
                _template().sendall(order)
        here.settimeout(seconds)
        process = _number(here)
        try:
            code = _number(here)
        except TimeoutError:
            os.kill(process, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(args), seconds) from None
        output = [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0) for file in files]
        return subprocess.CompletedProcess(args, code, output[1], output[2])


# What the commands import when they are called.
_PARTS = ("status", "rounds", "listing", "get", "put", "run", "store")

_template_lock = threading.Lock()


@functools.cache
def _template() -> socket.socket:
    """The way to the process that forks for each command; it ends with this one."""
    here, there = socket.socketpair()
    with there:
        number = there.fileno()
        process = subprocess.Popen([sys.executable, __file__, str(number)], pass_fds=[number])

    def end() -> None:
        here.close()
        process.wait()

    atexit.register(end)
    return here


def _number(link: socket.socket) -> int:
    number = b""
    while len(number) < 4:
        piece = link.recv(4 - len(number))
        assert piece, "the command's process has gone"
        number += piece
    return struct.unpack(">i", number)[0]


def _serve_forks(orders: socket.socket) -> None:
    """Fork for each order; return in the fork, which is the command, with all set up for it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        head, descriptors, _, _ = socket.recv_fds(orders, 4, 4)
        if len(head) < 4:
            os._exit(0)
        order = b""
        while len(order) < struct.unpack(">I", head)[0]:
            order += orders.recv(struct.unpack(">I", head)[0] - len(order))
        if os.fork():
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        orders.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if process := os.fork():
            os.write(descriptors[3], struct.pack(">i", process))
            _, status = os.waitpid(process, 0)
            os.write(descriptors[3], struct.pack(">i", os.waitstatus_to_exitcode(status)))
            os._exit(0)
        for number in range(3):
            os.dup2(descriptors[number], number)
        for descriptor in descriptors:
            os.close(descriptor)
        words, env = json.loads(order)
        sys.argv = ["mesh", *(os.fsdecode(bytes.fromhex(word)) for word in words)]
        if segment_bytes := env.pop(SEGMENT_BYTES, None):
            _use_segments_of(int(segment_bytes))
        os.environ.clear()
        os.environ.update(env)
        return


def _use_segments_of(size: int) -> None:
    """Have this process, which is about to be a node, begin new segments at `size` bytes.

    For campaigns: a node of millions of blobs has many segments, one of a test has a single one.
    """
    assembly = importlib.import_module("mesh.api.assembly")
    vars(assembly)["DiskStore"] = partial(DiskStore, segment_bytes=size)


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


if __name__ == "__main__":
    for name in ("anyio._backends._asyncio", *(f"mesh.cli.{part}" for part in _PARTS)):
        importlib.import_module(name)
    gc.freeze()
    _serve_forks(socket.socket(fileno=int(sys.argv[1])))
    main()
