"""Whole nodes as real processes: they converge, survive kill -9, and sync before they say so."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import NodeProcess, mesh, nodes, until

PACKAGES = ("email", "json", "http", "unittest", "concurrent", "encodings")
# Two on asyncio meet in the mixed one; most other tests of nodes run on asyncio alone.
BACKENDS = {
    "trio": ("trio", "trio", "trio"),
    "mixed": ("asyncio", "trio", "asyncio"),
}


def places(count: int) -> list[str]:
    """Loopback ports that are free now; nodes have to know each other's beforehand."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Some hundred real files, an empty one, one of 5 MB, a link and an empty directory."""
    source = tmp_path / "tree"
    for name in PACKAGES:
        shutil.copytree(Path(sysconfig.get_path("stdlib")) / name, source / name)
    (source / "empty").touch()
    (source / "nothing here").mkdir()
    (source / "large").write_bytes(os.urandom(5_000_000))
    (source / "link").symlink_to("email/utils.py")
    return source


def name_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def same(one: Path, other: Path) -> bool:
    compared = filecmp.dircmp(one, other, ignore=[])
    if compared.left_only or compared.right_only or compared.funny_files:
        return False
    match, _, _ = filecmp.cmpfiles(one, other, compared.common_files, shallow=False)
    deeper = all(same(one / name, other / name) for name in compared.common_dirs)
    return deeper and sorted(match) == sorted(compared.common_files)


@pytest.mark.parametrize("backends", BACKENDS.values(), ids=BACKENDS)
def test_three_nodes_become_equal_and_serve_everything(
    tmp_path: Path, tree: Path, backends: tuple[str, ...]
) -> None:
    with nodes() as start:
        where = places(3)
        three: list[NodeProcess] = []
        for number, (place, backend) in enumerate(zip(where, backends, strict=True)):
            peers = ",".join(other for other in where if other != place)
            options = ("--name", f"n{number}", "--peers", peers, "--interval", "3600")
            three.append(start(tmp_path / f"d{number}", *options, backend=backend, listen=place))
        put = mesh("put", "--tree", str(tree), "--node", three[0].url)
        assert put.returncode == 0, put.stderr
        lines = [line.split("  ", 1) for line in put.stdout.decode().splitlines()]
        waited = mesh("wait", "--timeout", "60", "--node", three[0].url)
        assert (waited.returncode, waited.stderr) == (0, b"")
        assert len({node.status()["root"] for node in three}) == 1
        for node in three:
            for digest, _ in lines:
                status, _, data = node.request("GET", f"/v1/blobs/{digest}")
                assert status == 200
                assert name_of(data) == digest
        out = tmp_path / "out"
        got = mesh("get", "--tree", lines[-1][0], str(out), "--node", three[2].url)
        assert got.returncode == 0, got.stderr
        assert same(tree, out)
        assert (out / "link").readlink() == Path("email/utils.py")
        for node in three:
            assert node.stop() == 0
            assert not [line for line in node.errors if "Traceback" in line or "ERROR" in line]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_blob_crosses_a_chain_within_a_second_whatever_the_interval(
    tmp_path: Path, backend: str
) -> None:
    with nodes() as start:
        options = ("--interval", "3600")
        # Only one side of each pair lists the other.
        a = start(tmp_path / "a", *options, backend=backend)
        c = start(tmp_path / "c", *options, backend=backend)
        b = start(tmp_path / "b", *options, "--peers", f"{a.place},{c.place}", backend=backend)
        until(lambda: all(peer["in_sync"] for peer in b.status()["peers"]))
        b.request("PUT", f"/v1/blobs/{name_of(b'from the middle')}", b"from the middle")
        for end in (a, c):
            until(lambda end=end: end.status()["blobs"] == 1, 20.0)


def fill(node: NodeProcess, count: int) -> set[str]:
    directory = node.data.parent / "files"
    directory.mkdir()
    for number in range(count):
        (directory / str(number)).write_bytes(os.urandom(4096))
    put = mesh("put", str(directory), "--node", node.url)
    assert put.returncode == 0, put.stderr
    return {line.split()[0] for line in put.stdout.decode().splitlines()}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_kill_9_in_mid_transfer_loses_nothing_and_a_restart_just_works(
    tmp_path: Path, backend: str
) -> None:
    with nodes() as start:
        source = start(tmp_path / "source", backend=backend)
        digests = fill(source, 3000)
        place = places(1)[0]
        options = ("--peers", source.place, "--interval", "0.2")
        for _ in range(3):
            target = start(tmp_path / "target", *options, backend=backend, listen=place)
            before = target.status()["blobs"]
            until(lambda t=target, n=before: t.status()["blobs"] > n or t.status()["blobs"] == 3000)
            held = target.status()["blobs"]
            target.kill()
            target = start(tmp_path / "target", *options, backend=backend, listen=place)
            until(lambda t=target: t.status()["state"] == "ready")
            assert target.status()["blobs"] >= held
            target.kill()
        source.kill()
        source = start(tmp_path / "source", backend=backend, listen=source.place)
        target = start(tmp_path / "target", *options, backend=backend, listen=place)
        until(lambda: target.status()["blobs"] == 3000)
        until(lambda: target.status()["root"] == source.status()["root"])
        listed = mesh("ls", "--node", target.url).stdout.decode().splitlines()
        assert {line.split()[0] for line in listed} == digests


def test_what_was_acknowledged_before_kill_9_is_there_afterwards(tmp_path: Path) -> None:
    with nodes() as start:
        acknowledged: dict[str, bytes] = {}
        for round_number in range(3):
            node = start(tmp_path / "data")
            until(lambda n=node: n.status()["state"] == "ready")
            for number in range(40):
                data = f"{round_number} {number} ".encode() * (1 + number * 40)
                status, _, _ = node.request("PUT", f"/v1/blobs/{name_of(data)}", data)
                assert status == 201
                acknowledged[name_of(data)] = data
            node.kill()
        node = start(tmp_path / "data")
        until(lambda: node.status()["state"] == "ready")
        for digest, data in acknowledged.items():
            assert node.request("GET", f"/v1/blobs/{digest}")[2] == data


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_signal_in_mid_transfer_ends_a_node_cleanly(tmp_path: Path, backend: str) -> None:
    with nodes() as start:
        source = start(tmp_path / "source", backend=backend)
        fill(source, 2000)
        options = ("--peers", source.place, "--interval", "0.1")
        target = start(tmp_path / "target", *options, backend=backend)
        until(lambda: target.status()["blobs"] > 0)
        assert target.stop(signal.SIGINT) == 0
        assert source.stop(signal.SIGTERM) == 0
        for node in (source, target):
            assert not [line for line in node.errors if "Traceback" in line]


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[tuple[NodeProcess, Path]]:
    """A node whose writes and syncs strace writes down."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    log = tmp_path / "strace"
    with nodes() as start:
        node = start(tmp_path / "data")
        until(lambda: node.status()["state"] == "ready")
        calls = "fdatasync,fsync,write,writev,sendto,sendmsg,rename,renameat,renameat2"
        tracer = subprocess.Popen(
            ["strace", "-f", "-y", "-s", "80", "-e", f"trace={calls}", "-o", str(log),
             "-p", str(node.process.pid)],
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert tracer.stderr is not None
        until(lambda: b"attached" in tracer.stderr.readline())
        yield node, log
        tracer.send_signal(signal.SIGINT)
        tracer.wait(30)
        tracer.stderr.close()


def first(lines: list[str], pattern: str, after: int = -1) -> int:
    """The first line that matches behind line `after`."""
    for number, line in enumerate(lines):
        if number > after and re.search(pattern, line):
            return number
    raise AssertionError(f"no {pattern} behind line {after}:\n" + "\n".join(lines[-40:]))


@pytest.mark.parametrize("size", [4096, 5_000_000])
def test_a_blob_is_synced_before_201(traced: tuple[NodeProcess, Path], size: int) -> None:
    node, log = traced
    data = os.urandom(size)
    assert node.request("PUT", f"/v1/blobs/{name_of(data)}", data)[0] == 201
    until(lambda: "HTTP/1.1 201" in log.read_text("latin-1"))
    lines = log.read_text("latin-1").splitlines()
    answered = first(lines, r"HTTP/1\.1 201")
    at = -1
    if size > 4_194_304:
        at = first(lines, r"fdatasync\(\d+</.*/tmp/\d+>", at)
        at = first(lines, r"rename.*/large/", at)
        at = first(lines, r"fsync\(\d+</.*/large/..>", at)
    at = first(lines, r"write.*</.*/segments/\d+\.seg>.*mREC", at)
    at = first(lines, r"fdatasync\(\d+</.*/segments/\d+\.seg>", at)
    done = at
    if "unfinished" in lines[at]:
        done = first(lines, rf"^{lines[at].split()[0]} .*fdatasync resumed.*= 0", at)
    else:
        assert lines[at].rstrip().endswith("= 0")
    assert done < answered


def test_a_second_node_on_one_directory_is_refused_in_a_line(tmp_path: Path) -> None:
    with nodes() as start:
        start(tmp_path / "data")
        second = mesh("run", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
        assert second.returncode == 2
        assert second.stdout == b""
        assert second.stderr.count(b"\n") == 1
        assert b"belongs to a running node" in second.stderr


def test_status_says_what_an_unreachable_peer_lacks_and_wait_fails(tmp_path: Path) -> None:
    with nodes() as start:
        gone = places(1)[0]
        node = start(tmp_path / "data", "--peers", f"gone={gone}", "--interval", "0.1")
        until(lambda: node.status()["peers"][0]["failures"] > 0)
        peer = node.status()["peers"][0]
        assert (peer["name"], peer["state"], peer["in_sync"]) == ("gone", "failing", False)
        assert (peer["missing_here"], peer["missing_there"]) == (None, None)
        waited = mesh("wait", "--timeout", "0.5", "--node", node.url)
        assert waited.returncode == 1
        assert b"gone: cannot reach" in waited.stderr
        status = json.loads(mesh("status", "--json", "--node", node.url).stdout)
        assert status["root"] == node.status()["root"]
