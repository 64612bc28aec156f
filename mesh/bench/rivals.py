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

from mesh.bench.processes import free_port, timed
from mesh.errors import InputError, Unreachable

# "rsync-unsynced" leaves its files to the page cache: as fast as rsync is, and not durable.
RIVALS = ("rsync", "rsync-unsynced", "rclone")

_START = 10.0  # seconds for a daemon to listen


def available(rival: str) -> str:
    """The program of a rival; InputError when it is not installed."""
    if rival not in RIVALS:
        raise InputError(f"no rival is called {rival[:40]!a}; there are {', '.join(RIVALS)}")
    name = rival.partition("-")[0]
    program = shutil.which(name)
    if program is None:
        raise InputError(f"{name} is not installed; install it, or leave --against out")
    return program


def race(rival: str, source: Path, target: Path, work: Path) -> float:
    """Seconds that `rival` takes to bring the files in `source` into `target`.

    `target` is empty, or has what an earlier race brought. Settings are written to `work`.
    """
    program = available(rival)
    if rival == "rclone":
        return _rclone(program, source, target)
    return _rsync(program, source, target, work, synced=rival == "rsync")


def _rsync(program: str, source: Path, target: Path, work: Path, *, synced: bool) -> float:
    """From an rsync daemon; `synced`: every file, which is what durable means for us."""
    port = free_port()
    settings = work / "rsyncd.conf"
    settings.write_text(
        f"address = 127.0.0.1\nport = {port}\nuse chroot = no\nlog file = /dev/null\n"
        # As root, rsync would read as nobody, who may not look into a temporary directory.
        f"pid file = {work / 'rsyncd.pid'}\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
        f"[blobs]\npath = {source.resolve()}\nread only = yes\n"
    )
    daemon = [program, "--daemon", "--no-detach", f"--config={settings}"]
    with _running(daemon, port):
        url = f"rsync://127.0.0.1:{port}/blobs/"
        options = ["-a", "--fsync"] if synced else ["-a"]
        return timed([program, *options, url, f"{target}/"]).seconds


def _rclone(program: str, source: Path, target: Path) -> float:
    """From rclone's own WebDAV server, sixteen files at a time."""
    port = free_port()
    server = [program, "serve", "webdav", str(source), "--addr", f"127.0.0.1:{port}", "--read-only"]
    url = f":webdav,url='http://127.0.0.1:{port}':"
    with _running(server, port):
        return timed([program, "copy", "--transfers", "16", url, str(target)]).seconds


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
