"""A node on a file system of 8 MiB that fills up, and on one that takes no writes at all."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.core.digest import digest_of
from tests.processes import NodeProcess, mesh, nodes, until

KIB, MIB = 1024, 1024 * 1024


def mounted(*args: str) -> str:
    """Run mount; what it had to say against it."""
    if shutil.which("mount") is None:
        return "there is no mount command"
    done = subprocess.run(["mount", *args], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    problem = mounted("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place))
    if problem:
        pytest.skip(f"no file system of its own can be mounted here: {problem}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def put(node: NodeProcess, data: bytes) -> int:
    return node.request("PUT", f"/v1/blobs/{digest_of(data).hex()}", data)[0]


def check(node: NodeProcess, blobs: list[bytes]) -> None:
    for data in blobs:
        status, _, got = node.request("GET", f"/v1/blobs/{digest_of(data).hex()}")
        assert (status, got == data) == (200, True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Take all the room but for `leave` bytes."""
    filler = disk / "filler"
    room = os.statvfs(disk)
    with filler.open("wb") as out:
        left = room.f_bavail * room.f_frsize - leave
        while left > 0:
            try:
                left -= out.write(bytes(min(left, 64 * KIB)))
                out.flush()
            except OSError:
                break
    return filler


def until_full(node: NodeProcess, size: int) -> list[bytes]:
    """Put blobs until there is no room; those that were acknowledged."""
    taken: list[bytes] = []
    while True:
        data = os.urandom(size)
        status = put(node, data)
        if status == 507:
            return taken
        assert status == 201
        taken.append(data)


def test_a_disk_that_fills_up_is_a_state_and_ends(disk: Path) -> None:
    """Without a reserve, so that the disk itself says no, in the middle of a write."""
    (disk / "mesh.toml").write_text("reserve_bytes = 0")
    with nodes() as start:
        node = start(disk / "data", "--config", str(disk / "mesh.toml"))
        node.ready()
        taken = until_full(node, 300 * KIB)
        assert len(taken) > 10
        assert node.status()["store"]["state"] == "full"
        said = mesh("status", "--node", node.url)
        assert b"store: full: " in said.stdout
        check(node, taken)
        assert put(node, taken[0]) == 200, "what is known needs no room"
        large = os.urandom(5 * MIB)
        assert put(node, large) == 507
        batch = mesh("put", "--node", node.url, "-", stdin=os.urandom(500 * KIB))
        assert batch.returncode == 1
        assert batch.stderr.count(b"\n") == 1
        assert node.status()["blobs"] == len(taken)
        assert mounted("-o", "remount,size=32m", str(disk)) == ""
        until(lambda: node.status()["store"]["state"] == "ok")
        assert put(node, large) == 201
        check(node, [*taken, large])
        node.kill()
        node = start(disk / "data")
        node.ready()
        check(node, [*taken, large])
        assert not [line for line in node.errors if "Traceback" in line]


def test_a_node_starts_on_a_full_disk_and_serves(disk: Path) -> None:
    with nodes() as start:
        node = start(disk / "data")
        node.ready()
        taken = [os.urandom(200 * KIB) for _ in range(5)]
        assert [put(node, data) for data in taken] == [201] * 5
        node.kill()
        filler = fill(disk)
        node = start(disk / "data")
        node.ready()
        check(node, taken)
        until(lambda: node.status()["store"]["state"] == "full")
        assert put(node, os.urandom(300 * KIB)) == 507
        assert put(node, os.urandom(5 * MIB)) == 507
        check(node, taken)
        filler.unlink()
        until(lambda: node.status()["store"]["state"] == "ok")
        taken.append(os.urandom(300 * KIB))
        assert put(node, taken[-1]) == 201
        node.kill()
        node = start(disk / "data")
        node.ready()
        check(node, taken)
        assert node.stop() == 0
        assert not [line for line in node.errors if "Traceback" in line]


def test_a_node_starts_on_a_disk_that_takes_no_writes_and_serves(disk: Path) -> None:
    with nodes() as start:
        node = start(disk / "data")
        node.ready()
        taken = [os.urandom(200 * KIB) for _ in range(5)]
        assert [put(node, data) for data in taken] == [201] * 5
        node.kill()
        assert mounted("-o", "remount,ro", str(disk)) == ""
        node = start(disk / "data")
        node.ready()
        check(node, taken)
        until(lambda: node.status()["store"]["state"] == "read-only")
        for size in (300 * KIB, 5 * MIB):
            assert put(node, os.urandom(size)) == 503
        second = mesh("run", "--data", str(disk / "data"), "--listen", "127.0.0.1:0")
        assert (second.returncode, second.stderr.count(b"\n")) == (2, 1)
        assert mounted("-o", "remount,rw", str(disk)) == ""
        until(lambda: node.status()["store"]["state"] == "ok")
        taken.append(os.urandom(300 * KIB))
        assert put(node, taken[-1]) == 201
        assert node.stop() == 0
        assert not [line for line in node.errors if "Traceback" in line]
        node = start(disk / "data")
        node.ready()
        check(node, taken)


def test_a_restore_onto_a_full_disk_ends_with_one_line_and_goes_on_later(
    disk: Path, tmp_path: Path
) -> None:
    tree, into = tmp_path / "tree", disk / "into"
    tree.mkdir()
    for number in range(600):
        (tree / f"{number}").write_bytes(bytes([number % 256]) * (32 * KIB + number))
    with nodes() as start:
        node = start(tmp_path / "data")
        node.ready()
        env = {"MESH_NODE": node.url}
        done = mesh("put", "--tree", tree, env=env)
        restore = ("get", "--tree", done.stdout.split()[-2].decode(), into)
        done = mesh(*restore, env=env)
        said = done.stderr.decode()
        assert (done.returncode, said.count("\n")) == (1, 1), said
        assert "No space left on device" in said
        assert not list(into.glob(".mesh-restore-*"))
        assert mounted("-o", "remount,size=64m", str(disk)) == ""
        done = mesh(*restore, env=env)
        assert (done.returncode, done.stderr) == (0, b"")
        assert sorted(os.listdir(into)) == sorted(os.listdir(tree))
        assert mounted("-o", "remount,ro", str(disk)) == ""
        done = mesh(*restore, "--include", "1", "--force", env=env)
        assert (done.returncode, done.stderr) == (0, b""), "what is there needs no writing"


def test_replication_stops_before_the_disk_is_full_and_goes_on_when_there_is_room(
    disk: Path, tmp_path: Path
) -> None:
    with nodes() as start:
        source = start(tmp_path / "source")
        source.ready()
        for _ in range(20):
            assert put(source, os.urandom(600 * KIB)) == 201
        options = ("--peers", source.place, "--interval", "0.2")
        target = start(disk / "data", *options)
        until(lambda: target.status()["store"]["state"] == "full")
        peer = until(lambda: [p for p in target.status()["peers"] if p["missing_here"]])[0]
        assert peer["missing_here"] + target.status()["blobs"] == 20
        assert mounted("-o", "remount,size=64m", str(disk)) == ""
        until(lambda: target.status()["blobs"] == 20)
        assert not [line for line in target.errors if "Traceback" in line]
