"""`mesh blobstash sync`, as people run it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blobstash.fake_server import KEY, FakeServer, name_of
from tests.processes import NodeProcess, mesh, nodes, until

HERE = [b"here %d" % number for number in range(7)]
THERE = [b"there, and longer %d" % number for number in range(11)]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(THERE) as server:
        yield server


@pytest.fixture
def key(tmp_path: Path) -> str:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    return str(file)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def sync(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    return mesh("blobstash", "sync", *map(str, arguments))


def failed(result: subprocess.CompletedProcess[bytes], code: int = 1) -> str:
    """The one line that it failed with."""
    assert result.returncode == code, result
    assert result.stdout == b""
    assert result.stderr.count(b"\n") == 1, result.stderr
    assert result.stderr.startswith(b"mesh: ")
    return result.stderr.decode()


def stats(result: subprocess.CompletedProcess[bytes]) -> dict[str, object]:
    """The seed's JSON form, without the duration."""
    assert result.returncode == 0, result.stderr
    assert result.stderr == b""
    value = json.loads(result.stdout)
    duration = value.pop("sync_duration")
    assert duration.endswith("s")
    assert duration[0].isdigit()
    return value


def put(node: NodeProcess, blobs: list[bytes]) -> None:
    for blob in blobs:
        assert node.request("PUT", f"/v1/blobs/{name_of(blob)}", blob)[0] == 201


def listed(node: NodeProcess) -> set[str]:
    return {blob["digest"] for blob in json.loads(node.request("GET", "/v1/blobs")[2])["blobs"]}


MOVED = {
    "blobs_downloaded": len(THERE),
    "downloaded_size": sum(map(len, THERE)),
    "blobs_uploaded": len(HERE),
    "uploaded_size": sum(map(len, HERE)),
    "already_in_sync": False,
    "one_way_sync": False,
}
LEVEL = {
    "blobs_downloaded": 0,
    "downloaded_size": 0,
    "blobs_uploaded": 0,
    "uploaded_size": 0,
    "already_in_sync": True,
    "one_way_sync": False,
}


def test_a_data_directory_and_a_server_are_levelled(
    server: FakeServer, key: str, data: Path
) -> None:
    everything = {name_of(blob) for blob in HERE + THERE}
    with nodes() as start:
        node = start(data)
        put(node, HERE)
        assert node.stop() == 0
        assert stats(sync(server.peer, "--key-file", key, "--data", data, "--json")) == MOVED
        assert set(server.blobs) == everything
        assert set(server.uploads.values()) == set(server.downloads.values()) == {1}
        server.forget()
        # `blobstash+` may be left out.
        assert stats(sync(server.url, "--key-file", key, "--data", data, "--json")) == LEVEL
        assert server.requests == {"state": 1}
        node = start(data)
        until(lambda: node.status()["state"] == "ready")
        assert listed(node) == everything


def test_a_new_data_directory_is_made(server: FakeServer, key: str, data: Path) -> None:
    result = sync(server.peer, "--key-file", key, "--data", data)
    assert result.returncode == 0, result.stderr
    size = sum(map(len, THERE))
    assert result.stdout.startswith(b"11 blobs (%d bytes) here, 0 (0 bytes) there, in " % size)
    result = sync(server.peer, "--key-file", key, "--data", data)
    assert result.stdout.startswith(b"already in sync (")


def test_a_running_node_and_a_server_are_levelled(
    server: FakeServer, key: str, data: Path, tmp_path: Path
) -> None:
    node_key = tmp_path / "node key"
    node_key.write_text("the-nodes-own\n")
    with nodes() as start:
        node = start(data)
        until(lambda: node.status()["state"] == "ready")
        put(node, HERE)
        both = ("--key-file", key, "--node", node.url)
        assert stats(sync(server.peer, *both, "--json")) == MOVED
        assert listed(node) == set(server.blobs) == {name_of(blob) for blob in HERE + THERE}
        assert stats(sync(server.peer, *both, "--json")) == LEVEL
        assert set(server.uploads.values()) == {1}
        guarded = start(tmp_path / "guarded", "--key-file", str(node_key))
        both = ("--key-file", key, "--node", guarded.url)
        assert "key" in failed(sync(server.peer, *both))
        result = sync(server.peer, *both, "--node-key-file", node_key, "--json")
        assert stats(result)["blobs_downloaded"] == len(HERE + THERE)
        # Its data directory is its own.
        said = failed(sync(server.peer, "--key-file", key, "--data", data), 2)
        assert str(data) in said


def test_blobs_of_every_size(server: FakeServer, key: str, data: Path) -> None:
    server.add(b"", b"l" * 5_000_000, b"h" * 17_000_000)
    moved = stats(sync(server.peer, "--key-file", key, "--data", data, "--json"))
    assert moved["blobs_downloaded"] == len(THERE) + 3
    with FakeServer() as other:
        moved = stats(sync(other.peer, "--key-file", key, "--data", data, "--json"))
        assert moved["blobs_uploaded"] == len(THERE) + 3
        assert other.blobs == server.blobs


def test_one_way_takes_everything_or_says_how_many_are_only_here(
    server: FakeServer, key: str, data: Path
) -> None:
    arguments = (server.peer, "--key-file", key, "--data", data, "--one-way", "--json")
    moved = stats(sync(*arguments))
    assert (moved["blobs_downloaded"], moved["one_way_sync"]) == (len(THERE), True)
    with FakeServer([*THERE[4:], b"one more there"]) as fewer:
        said = failed(sync(fewer.peer, *arguments[1:]))
        assert said.startswith("mesh: 4 blobs exist only here")
        assert fewer.requests["get"] == fewer.requests["post"] == 0


def test_what_goes_wrong_is_one_line(server: FakeServer, key: str, data: Path) -> None:
    arguments = (server.peer, "--key-file", key, "--data", data)
    server.key = "another"
    assert "Unauthorized" in failed(sync(*arguments))
    server.key = KEY
    server.faults.close.add("leaf")
    assert server.place in failed(sync(*arguments))
    server.faults.close.clear()
    server.faults.wrong.add(name_of(THERE[3]))
    assert name_of(THERE[3]) in failed(sync(*arguments))
    server.faults.wrong.clear()
    moved = stats(sync(*arguments, "--json"))
    assert moved["blobs_downloaded"] in range(1, len(THERE) + 1)
    assert server.uploads.total() == 0


def test_a_server_that_is_not_there_is_one_line(key: str, data: Path) -> None:
    with FakeServer() as server:
        place = server.place
    assert place in failed(sync(f"blobstash+http://{place}", "--key-file", key, "--data", data))


@pytest.mark.parametrize(
    "url", ["", "ftp://host", "http://host/path", "mesh+http://host", "http://:SECRET@host:port"]
)
def test_a_url_that_is_none_is_asked_wrongly(url: str, data: Path) -> None:
    assert "SECRET" not in failed(sync(url, "--data", data), 2)
    assert not data.exists()


def test_a_key_file_that_is_none_is_asked_wrongly(
    server: FakeServer, data: Path, tmp_path: Path
) -> None:
    absent = str(tmp_path / "absent")
    assert absent in failed(sync(server.peer, "--key-file", absent, "--data", data), 2)
    assert server.requests.total() == 0


def test_a_key_in_the_url_is_accepted_and_not_shown(server: FakeServer, data: Path) -> None:
    server.key = "SECRET"
    server.faults.stall.add("state")
    url = f"blobstash+http://:SECRET@{server.place}"
    command = [sys.executable, "-m", "mesh", "blobstash", "sync", url, "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(lambda: server.requests["state"], 20)
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        server.faults.released.set()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert b"SECRET" not in shown + out + err
    assert server.unauthorized == 0
    server.key = "changed"
    assert "SECRET" not in failed(sync(url, "--data", data))
