"""The N-th write, sync or rename of a put fails, or ends the process, for every N: strace does it.

What tests/store/test_faults.py shows on a simulated disk, on the real one, SQLite's files included.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from mesh.core.digest import digest_of
from mesh.store.disk import DiskStore
from tests.processes import NodeProcess, nodes, until
from tests.store.injected import BLOBS, FAILED, FULL, STORED, over, put

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is not installed: apt-get install strace"
)

ROOT = Path(__file__).parents[2]
BEFORE, AFTER = b"before", b"after"
ENDLESS = 40  # more than any of these calls is made

# What a put makes of each call at least: a sweep that met fewer would prove nothing.
SMALL = {"writev": 2, "pwrite64": 3, "fdatasync": 1, "fsync": 1}
LARGE = {"write,writev": 3, "fdatasync": 2, "fsync": 2, "rename": 1}
KILL = "signal=KILL"

SWEEPS = [
    *(("small", calls, fault, least) for fault in ("error=EIO", "error=ENOSPC", KILL)
      for calls, least in SMALL.items()),
    *(("large", calls, fault, least) for fault in ("error=ENOSPC", KILL)
      for calls, least in LARGE.items()),
]  # fmt: skip


class Driver:
    """The process that forks for each put, and strace beside it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.store.injected"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip

    def put(self, directory: Path, kind: str, inject: str) -> tuple[int, bool]:
        """A put with a fault: the exit code, or minus a signal; and whether the fault struck."""
        self._say(f"{directory} {kind}\n")
        number = self._hear()
        log = self._place / "trace"
        calls = inject.partition(":")[0]
        tracer = subprocess.Popen(
            ["strace", "-f", "-p", str(number), "-o", str(log), "-e", f"trace={calls}",
             "-e", f"inject={inject}"],
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        if b"attached" not in said:
            tracer.kill()
            pytest.skip(f"strace cannot trace here: {said.decode().strip()}")
        self._say("!")
        code = self._hear()
        tracer.wait(30)
        tracer.stderr.close()
        return code, "INJECTED" in log.read_text() or code == -signal.SIGKILL

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait(30)

    def _say(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())

    def _hear(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    driver = Driver(tmp_path_factory.mktemp("strace"))
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a blob in it."""
    directory = tmp_path_factory.mktemp("template") / "data"
    directory.mkdir()
    anyio.run(filled, directory)
    return directory


async def filled(directory: Path) -> None:
    store = over(directory)
    await store.open()
    await put(store, BEFORE)
    await store.close()


async def check(directory: Path, data: bytes, acknowledged: bool) -> None:
    """After a restart: all that was acknowledged, nothing wrong, and room for more."""
    store = over(directory)
    await store.open()
    try:
        assert await content(store, BEFORE) == BEFORE
        there = await store.size(digest_of(data)) is not None
        assert there or not acknowledged
        for each in [data] if there else []:
            assert await content(store, each) == data
        for each in (data, AFTER):
            await put(store, each)
            assert await content(store, each) == each
        # Over what is half there: swept, or never visible.
        assert store.totals.blobs == 3
    finally:
        await store.close()


async def content(store: DiskStore, data: bytes) -> bytes:
    return b"".join([piece async for piece in store.stream(digest_of(data), 0, len(data))])


@pytest.mark.parametrize(("kind", "calls", "fault", "least"), SWEEPS)
def test_whichever_system_call_of_a_put_fails_nothing_acknowledged_is_lost(
    driver: Driver, template: Path, tmp_path: Path, kind: str, calls: str, fault: str, least: int
) -> None:
    data = BLOBS[kind]
    for nth in range(1, ENDLESS):
        directory = tmp_path / str(nth)
        shutil.copytree(template, directory)
        code, struck = driver.put(directory, kind, f"{calls}:{fault}:when={nth}")
        if not struck:
            assert code == STORED
            break
        if fault == KILL:
            assert code == -signal.SIGKILL
        else:
            # A directory's sync, or a checkpoint's write, may fail without making the put fail.
            assert code in (STORED, FULL if "ENOSPC" in fault else FAILED)
        anyio.run(check, directory, data, code == STORED)
        shutil.rmtree(directory)
    assert least < nth < ENDLESS - 1


def traced(node: NodeProcess, log: Path, inject: str) -> subprocess.Popen[bytes]:
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(node.process.pid), "-o", str(log), "-e", f"inject={inject}"],
        stderr=subprocess.PIPE,
    )
    assert tracer.stderr is not None
    until(lambda: b"attached" in tracer.stderr.readline())
    return tracer


def ended(tracer: subprocess.Popen[bytes]) -> None:
    tracer.send_signal(signal.SIGINT)
    tracer.wait(30)
    assert tracer.stderr is not None
    tracer.stderr.close()


def test_a_node_whose_calls_fail_says_so_and_goes_on(tmp_path: Path) -> None:
    small, large = BLOBS["small"], BLOBS["large"]
    name, other = (f"/v1/blobs/{digest_of(data).hex()}" for data in (small, large))
    with nodes() as start:
        node = start(tmp_path / "data")
        node.ready()
        for inject, expected in (
            ("fdatasync:error=EIO:when=1", {503}),
            ("writev:error=ENOSPC:when=1+", {507}),
        ):
            tracer = traced(node, tmp_path / "trace", inject)
            status, _, said = node.request("PUT", name, small)
            assert status in expected, said
            assert node.request("GET", name)[0] == 404
            ended(tracer)
            until(lambda: node.status()["store"]["state"] == "ok")
        assert node.request("PUT", name, small)[0] == 201
        tracer = traced(node, tmp_path / "trace", "rename:signal=KILL:when=1")
        with pytest.raises((ConnectionError, urllib.error.URLError)):
            node.request("PUT", other, large)
        tracer.wait(30)
        ended(tracer)
        assert "Traceback" not in node.log
        node.kill()
        node = start(tmp_path / "data")
        node.ready()
        assert node.request("GET", name)[2] == small
        assert node.request("GET", other)[0] == 404
        assert node.request("PUT", other, large)[0] == 201
        assert node.request("GET", other)[2] == large
