"""Commands and nodes as forks of a process that has imported everything.

Importing a node and its server is most of what starting one costs: a second of a core, and the
tests start hundreds. A fork of a process that has imported all of it is there in a tenth of that.
Whoever tests the start itself, or the modules that are loaded, wants a process of its own.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from mesh.store.disk import DiskStore

SEGMENT_BYTES = "TESTS_SEGMENT_BYTES"
"""In the environment of a forked node: how large its segments are, in bytes."""

# What is imported when a command or a node needs it.
_PARTS = (
    *(
        f"mesh.cli.{part}"
        for part in (
            *("status", "rounds", "listing", "get", "put", "run", "store"),
            *("config", "peers"),
        )
    ),
    "anyio._backends._asyncio",
    "anyio._backends._trio",
    "hypercorn.asyncio",
    "hypercorn.trio",
    "uvloop",
    "mesh.core.sketch",
)

_lock = threading.Lock()


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings of mesh, and with `extra`.

    The record of what was put is in a directory that goes when this process ends.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
    return {**kept, "XDG_CACHE_HOME": _cache_home().name, **(extra or {})}


@functools.cache
def _cache_home() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mesh-tests-")


class Fork:
    """`mesh WORDS...` in a process of its own, with what subprocess.Popen offers of it."""

    def __init__(
        self,
        words: Sequence[str | bytes | Path],
        streams: Sequence[int],
        env: dict[str, str],
        cwd: Path | None = None,
    ) -> None:
        """`streams`: descriptors of its standard input, output and error."""
        named = [os.fsencode(word).hex() for word in words]
        order = json.dumps([named, env, str(cwd or Path.cwd())]).encode()
        self.args = list(words)
        self.returncode: int | None = None
        self._link, there = socket.socketpair()
        with there:
            descriptors = [*streams, there.fileno()]
            with _lock:
                socket.send_fds(_template(), [struct.pack(">I", len(order))], descriptors)
                _template().sendall(order)
        self._link.settimeout(60)
        self.pid = _number(self._link)

    def poll(self) -> int | None:
        """Its exit code, as Popen has it; None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended; TimeoutExpired when it does not."""
        if self.returncode is None:
            self._link.settimeout(timeout)
            try:
                self.returncode = _number(self._link)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._link.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ended this very moment
                os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)


@functools.cache
def _template() -> socket.socket:
    """The way to the process that forks for each command; it ends with this one."""
    here, there = socket.socketpair()
    with there:
        number = there.fileno()
        # By its path and not by -m, by which the program would call itself something else.
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
    return int(struct.unpack(">i", number)[0])


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
        words, env, cwd = json.loads(order)
        sys.argv = ["mesh", *(os.fsdecode(bytes.fromhex(word)) for word in words)]
        if segment_bytes := env.pop(SEGMENT_BYTES, None):
            _use_segments_of(int(segment_bytes))
        os.environ.clear()
        os.environ.update(env)
        os.chdir(cwd)
        return


def _use_segments_of(size: int) -> None:
    """Have this process, which is about to be a node, begin new segments at `size` bytes.

    For campaigns: a node of millions of blobs has many segments, one of a test has a single one.
    """
    assembly = importlib.import_module("mesh.api.assembly")
    vars(assembly)["DiskStore"] = partial(DiskStore, segment_bytes=size)


if __name__ == "__main__":
    for name in _PARTS:
        importlib.import_module(name)
    from mesh.cli.main import main

    gc.freeze()
    _serve_forks(socket.socket(fileno=int(sys.argv[1])))
    main()
