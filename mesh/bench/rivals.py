"""The same blobs as files by tools that people use for this, in the same run."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mesh.errors import InputError, MeshError, Unreachable

RIVALS = ("rsync", "rclone")

_START = 10.0  # seconds for a daemon to listen


def available(rival: str) -> str:
    """The program of a rival; InputError when it is not installed."""
    if rival not in RIVALS:
        raise InputError(f"no rival is called {rival[:40]!a}; there are {', '.join(RIVALS)}")
    program = shutil.which(rival)
    if program is None:
        raise InputError(f"{rival} is not installed; install it, or leave --against out")
    return program


def race(rival: str, source: Path, work: Path) -> float:
    """Seconds that `rival` takes to bring the files in `source` into an empty directory."""
    program = available(rival)
    target = work / f"{rival}-target"
    return (
        _rsync(program, source, target, work)
        if rival == "rsync"
        else _rclone(program, source, target)
    )


def _rsync(program: str, source: Path, target: Path, work: Path) -> float:
    """From an rsync daemon, every file synced: what durable means for us."""
    port = _free_port()
    settings = work / "rsyncd.conf"
    settings.write_text(
        f"address = 127.0.0.1\nport = {port}\nuse chroot = no\nlog file = /dev/null\n"
        # As root, rsync would read as nobody, who may not look into a temporary directory.
        f"pid file = {work / 'rsyncd.pid'}\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
        f"[blobs]\npath = {source}\nread only = yes\n"
    )
    daemon = [program, "--daemon", "--no-detach", f"--config={settings}"]
    with _running(daemon, port):
        url = f"rsync://127.0.0.1:{port}/blobs/"
        return _timed([program, "-a", "--fsync", url, f"{target}/"])


def _rclone(program: str, source: Path, target: Path) -> float:
    """From rclone's own WebDAV server, sixteen files at a time."""
    port = _free_port()
    server = [program, "serve", "webdav", str(source), "--addr", f"127.0.0.1:{port}", "--read-only"]
    url = f":webdav,url='http://127.0.0.1:{port}':"
    with _running(server, port):
        return _timed([program, "copy", "--transfers", "16", url, str(target)])


def _timed(command: Sequence[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    seconds = time.perf_counter() - began
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise MeshError(f"{Path(command[0]).name} ended with {done.returncode}: {last}")
    return seconds


@contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[None]:
    """A server that listens on `port`, until the block is left."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        deadline = time.monotonic() + _START
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unreachable(f"{command[0]} did not begin to listen on port {port}")
        yield
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
        return True
    return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number: int = one.getsockname()[1]
        return number
