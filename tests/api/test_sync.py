"""`mesh.sync.Client`: the same without async, for many threads, and with files that are sought."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mesh
import mesh.sync
from mesh.core.digest import digest_of
from tests.processes import NodeProcess, environment, nodes


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    base = tmp_path_factory.mktemp("sync")
    (base / "key").write_text("of-the-test\n")
    with nodes() as start:
        yield start(base / "data", "--key-file", str(base / "key"))


@pytest.fixture
def client(served: NodeProcess) -> Iterator[mesh.sync.Client]:
    with mesh.sync.Client(served.url, key="of-the-test") as client:
        yield client


def test_all_that_a_client_can_do(client: mesh.sync.Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from a file")
    sources = [b"bytes", bytearray(b"more bytes"), tmp_path / "file", iter([b"made ", b"bytes"])]
    wanted = [b"bytes", b"more bytes", b"from a file", b"made bytes"]
    digests = [client.put(source) for source in sources]
    assert digests == [digest_of(data).hex() for data in wanted]
    assert [client.get(digest) for digest in digests] == wanted
    assert client.get(digests[0], range=(1, 3)) == b"yt"
    assert client.size(digests[2]) == 11
    assert list(client.put_all(wanted)) == digests
    assert list(client.get_all(iter(digests))) == list(zip(digests, wanted, strict=True))
    absent = digest_of(b"absent").hex()
    assert client.has([*digests, absent]) == set(digests)
    assert {blob.digest for blob in client.list()} >= set(digests)
    assert client.status().state == "ready"
    assert list(client.sync()) == []
    assert not client.wait(timeout=5).level
    with pytest.raises(mesh.NotFound):
        client.open(absent)
    with pytest.raises(mesh.InputError, match="str"):
        client.put("text")


def test_a_key_that_is_wrong_and_a_client_that_is_closed(served: NodeProcess) -> None:
    with mesh.sync.Client(served.url) as client, pytest.raises(mesh.Refused, match="wants a key"):
        client.status()
    with pytest.raises(mesh.InputError, match="closed"):
        client.status()
    with pytest.raises(mesh.ConfigError, match="not both"):
        mesh.sync.Client(served.url, key="a", key_file="b")


def test_an_open_blob_is_a_file(client: mesh.sync.Client) -> None:
    chance = random.Random(5)
    data = chance.randbytes(5_000_000)
    digest = client.put(data)
    oracle = io.BytesIO(data)
    with client.open(digest) as blob:
        assert blob.read() == data
        assert blob.read() == b""
        for _ in range(30):
            move = chance.choice([(chance.randrange(len(data)), 0), (-chance.randrange(999), 2)])
            assert blob.seek(*move) == oracle.seek(*move)
            for size in (0, 1, chance.randrange(700_000)):
                assert blob.read(size) == oracle.read(size)
            assert blob.tell() == oracle.tell()
        assert blob.seek(len(data) + 5) == len(data) + 5
        assert blob.read(3) == b""
    lines = client.put(b"one\ntwo\nthree")
    with client.open(lines) as blob:
        assert [line.strip() for line in blob] == [b"one", b"two", b"three"]


def test_many_threads_use_one_client(client: mesh.sync.Client) -> None:
    def one(number: int) -> bytes:
        digest = client.put(b"%d of many" % number)
        with client.open(digest) as blob:
            return blob.read()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(100))) == [b"%d of many" % n for n in range(100)]


class Interrupted(Exception):
    """What the handler of a signal raises, as that of Ctrl-C raises KeyboardInterrupt."""


@pytest.fixture
def interruption() -> Iterator[Callable[[], None]]:
    """Raises Interrupted in the main thread, whatever it waits for."""

    def interrupted(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupted)
    yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def test_an_interruption_ends_what_was_waited_for(
    served: NodeProcess, interruption: Callable[[], None]
) -> None:
    released = threading.Event()

    def pausing() -> Iterator[bytes]:
        yield b"a part"
        interruption()
        released.wait()

    client = mesh.sync.Client(served.url, key="of-the-test")
    with pytest.raises(Interrupted), client:
        client.put(pausing())
    released.set()


def test_leaving_ends_what_is_open(served: NodeProcess) -> None:
    began = threading.Event()

    def listen(client: mesh.sync.Client) -> None:
        for _ in client.events():
            began.set()

    with ThreadPoolExecutor(1) as pool:
        with mesh.sync.Client(served.url, key="of-the-test") as client:
            listening = pool.submit(listen, client)
            began.wait()
            left = client.open(client.put(bytes(6 * 2**20)))
            left.read(10)
            events, blobs = client.events(), client.list()
            next(events), next(blobs)
        with pytest.raises(mesh.InputError, match="closed"):
            listening.result(timeout=30)
    for ended in (lambda: left.read(), lambda: next(events), lambda: list(blobs)):
        with pytest.raises(mesh.InputError, match="closed"):
            ended()
    left.close()


def test_events_that_are_left_do_not_listen_on(client: mesh.sync.Client) -> None:
    for _ in range(70):  # a node has 64 listeners at most
        for event in client.events():
            assert isinstance(event, mesh.Began)
            break


def test_what_makes_no_bytes_is_no_source(client: mesh.sync.Client) -> None:
    for wrong in (5, [1, 2], [b"a", None, b"b"], ["a"]):
        with pytest.raises(mesh.InputError, match="expected bytes"):
            client.put(wrong)  # type: ignore[arg-type]


FORKING = """
import os, sys, mesh, mesh.sync
with mesh.sync.Client(sys.argv[1], key="of-the-test") as client:
    file = client.open(client.put(bytes(6 * 2**20)))
    file.read(1)
    listing = client.list()
    next(listing)
    child = os.fork()
    if child == 0:
        try:
            client.status()
        except mesh.InputError as error:
            print(error)
    else:
        assert os.waitpid(child, 0)[1] == 0
        print(client.status().state)
"""


def test_a_fork_does_not_wait_for_the_thread_of_its_parent(served: NodeProcess) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKING, served.url]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment(), check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(";")[0] for line in done.stdout.splitlines()] == [
        "this client was made before the process was forked",
        "ready",
    ]
