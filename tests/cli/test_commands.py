"""The commands as a shell runs them: output, exit codes, and one line for what goes wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mesh.core.digest import digest_of
from tests.processes import NodeProcess, environment, fill, free_places, mesh, nodes, until

MIB = 1024 * 1024
NEVER_PUT = "0" * 64


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with nodes() as start:
        started = start(
            tmp_path_factory.mktemp("node") / "data", "--name", "n1", "--max-blob", "6M"
        )
        started.ready()
        yield started


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """Two nodes; the second lists the first, and a third that does not exist."""
    base = tmp_path_factory.mktemp("pair")
    (nobody,) = free_places(1)
    with nodes() as start:
        one = start(base / "one", "--name", "one", "--interval", "3600")
        peers = f"{one.place},ghost={nobody}"
        two = start(base / "two", "--name", "two", "--interval", "3600", "--peers", peers)
        one.ready()
        two.ready()
        yield one, two


@pytest.fixture
def run(node: NodeProcess) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """A command that talks to `node`."""

    def command(
        *args: str | bytes | Path, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        return mesh(*args, stdin=stdin, env={"MESH_NODE": node.url})

    return command


Run = Callable[..., subprocess.CompletedProcess[bytes]]


def name_of(data: bytes) -> str:
    return digest_of(data).hex()


def one_line(text: bytes) -> bool:
    return text.count(b"\n") == 1 and text.startswith(b"mesh: ") and b"Traceback" not in text


def failed(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    """What a command that must fail with `code` said, in its one line on stderr."""
    assert one_line(done.stderr), done.stderr.decode()
    assert done.returncode == code, done.stderr.decode()
    return done.stderr.decode()


def stored(node: NodeProcess, data: bytes) -> bool:
    return node.request("GET", f"/v1/blobs/{name_of(data)}")[2] == data


# --- put ----------------------------------------------------------------------------------------

b2sum = pytest.mark.skipif(shutil.which("b2sum") is None, reason="b2sum is not installed")


@b2sum
def test_put_prints_what_b2sum_prints(run: Run, tmp_path: Path) -> None:
    names = [b"plain", b"two words", b"new\nline", b"back\\slash", b"\\\n\\", b"\xff\xfe", b"-dash"]
    names += ["ünïcödé ☃".encode(), b"tab\there", b"\x1b[31mred", b"quote'\"", b" ", b"*star"]
    paths = []
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(tmp_path), name)
        Path(os.fsdecode(path)).write_bytes(b"%d" % number * number * 1000)
        paths.append(path)
    done = run("put", *paths)
    reference = subprocess.run(["b2sum", "-l", "256", *paths], capture_output=True, check=True)
    assert done.stdout == reference.stdout
    assert (done.returncode, done.stderr) == (0, b"")


@b2sum
def test_put_of_a_directory_prints_its_files_in_order(run: Run, tmp_path: Path) -> None:
    for name in ("a/b/c", "a-b", "a/x", "z", "large"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 100)
    (tmp_path / "large").write_bytes(bytes(5 * MIB))
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("z")
    done = run("put", tmp_path)
    ordered = [tmp_path / name for name in ("a-b", "a/b/c", "a/x", "large", "z")]
    reference = subprocess.run(["b2sum", "-l", "256", *ordered], capture_output=True, check=True)
    assert done.stdout == reference.stdout
    assert (done.returncode, done.stderr) == (0, b"")


def test_put_reads_standard_input(run: Run, node: NodeProcess) -> None:
    for data in (b"from a pipe", b"", b"p" * (5 * MIB)):
        done = run("put", "-", stdin=data)
        assert done.stdout == f"{name_of(data)}  -\n".encode()
        assert (done.returncode, done.stderr) == (0, b"")
        assert stored(node, data)


def test_put_goes_on_after_what_it_cannot_read(run: Run, node: NodeProcess, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_bytes(b"good, between bad ones")
    # Reading this regular file fails, even for root.
    done = run("put", tmp_path / "missing", "/proc/self/mem", good, tmp_path / "gone")
    assert done.returncode == 1
    assert done.stdout == f"{name_of(good.read_bytes())}  {good}\n".encode()
    assert stored(node, good.read_bytes())
    complaints = done.stderr.decode().splitlines()
    assert len(complaints) == 3
    for line, path in zip(complaints, ("missing", "/proc/self/mem", "gone"), strict=True):
        assert line.startswith("mesh: ")
        assert path in line


def test_put_passes_by_a_fifo_with_a_word(run: Run, node: NodeProcess, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"beside a FIFO")
    for arguments in ([tmp_path], [tmp_path / "fifo", tmp_path / "file"]):
        done = run("put", *arguments)
        assert b"FIFO" in done.stderr
        assert one_line(done.stderr)
        assert done.stdout == f"{name_of(b'beside a FIFO')}  {tmp_path}/file\n".encode()
    assert stored(node, b"beside a FIFO")


def test_put_over_the_limit_fails_and_stores_the_others(
    run: Run, node: NodeProcess, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"under the limit")
    (tmp_path / "b").write_bytes(bytes(6 * MIB + 1))
    (tmp_path / "c").write_bytes(b"under it too")
    done = run("put", tmp_path)
    assert done.returncode == 1
    assert one_line(done.stderr)
    assert f"{tmp_path}/b" in done.stderr.decode()
    assert [line.split(b"  ")[1] for line in done.stdout.splitlines()] == [
        os.fsencode(tmp_path / "a"),
        os.fsencode(tmp_path / "c"),
    ]


def test_put_of_nothing_is_asked_wrongly(run: Run, tmp_path: Path) -> None:
    assert run("put").returncode == 2
    failed(run("put", "--tree", tmp_path / "missing"), 2)
    file = tmp_path / "file"
    file.write_bytes(b"")
    failed(run("put", "--tree", file), 2)


# --- trees --------------------------------------------------------------------------------------


def planted(root: Path) -> Path:
    """A tree with all that a tree may have."""
    root.mkdir()
    files = {
        b"plain": b"plain",
        b"executable": b"#!/bin/sh\n",
        b"empty": b"",
        b"large": b"l" * (4 * MIB + 1),
        b"twin": b"plain",
        b"sub/deep/er/file": b"deep",
        b"a-b": b"sorts before a/x",
        b"a/x": b"sorts after a-b",
        b"\xff not UTF-8": b"bytes",
        b"new\nline": b"line",
        b"back\\slash": b"slash",
    }
    for name, data in files.items():
        path = Path(os.fsdecode(os.path.join(os.fsencode(root), name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "executable").chmod(0o755)
    (root / "plain").chmod(0o640)
    (root / "twin").chmod(0o600)
    (root / "no files").mkdir(mode=0o700)
    (root / "sub" / "deep").chmod(0o711)
    (root / "link").symlink_to("plain")
    (root / "dangling").symlink_to("../not/there")
    Path(os.fsdecode(os.fsencode(root) + b"/odd link")).symlink_to(os.fsdecode(b"\xfe"))
    return root


def picture(root: Path) -> dict[bytes, tuple[str, int, bytes]]:
    """Everything below `root`: kind, mode, and bytes or target."""
    found: dict[bytes, tuple[str, int, bytes]] = {}
    top = os.fsencode(root)
    for at, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(at, name)
            status = os.lstat(path)
            mode = stat.S_IMODE(status.st_mode)
            key = os.path.relpath(path, top)
            if stat.S_ISLNK(status.st_mode):
                found[key] = ("link", 0, os.readlink(path))
            elif stat.S_ISDIR(status.st_mode):
                found[key] = ("directory", mode, b"")
            else:
                with open(path, "rb") as file:
                    found[key] = ("file", mode, file.read())
    return found


def put_tree(run: Run, root: Path) -> str:
    """The digest of the manifest, which is the line before the last."""
    done = run("put", "--tree", root)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    digest, _, path = done.stdout.splitlines()[-2].partition(b"  ")
    assert path == os.fsencode(root) + b"/"
    return digest.decode()


def test_a_tree_comes_back_as_it_was(run: Run, tmp_path: Path) -> None:
    source = planted(tmp_path / "source")
    digest = put_tree(run, source)
    assert put_tree(run, source) == digest
    done = run("get", "--tree", digest, tmp_path / "made" / "on the way")
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    assert picture(tmp_path / "made" / "on the way") == picture(source)


def test_a_restore_goes_on_where_it_was_and_replaces_only_by_force(
    run: Run, tmp_path: Path
) -> None:
    source = planted(tmp_path / "source")
    digest = put_tree(run, source)
    target = tmp_path / "target"
    target.mkdir()
    (target / "plain").write_bytes(b"mine")
    (target / "more").write_bytes(b"not in the manifest")
    done = run("get", "--tree", digest, target)
    assert done.returncode == 1
    assert "plain" in failed(done, 1)
    assert (target / "plain").read_bytes() == b"mine"
    assert (target / "twin").read_bytes() == b"plain"
    done = run("get", "--tree", "--force", digest, target)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (target / "more").read_bytes() == b"not in the manifest"
    (target / "more").unlink()
    assert picture(target) == picture(source)
    done = run("get", "--tree", digest, target)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_restore_never_goes_through_a_link(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_bytes(b"where to?")
    digest = put_tree(run, source)
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "target"
    target.mkdir()
    (target / "sub").symlink_to(outside)
    for flags in ([], ["--force"]):
        failed(run("get", "--tree", *flags, digest, target), 1)
    assert list(outside.iterdir()) == []


def manifest(*entries: dict[str, object]) -> bytes:
    """A manifest by somebody else, in canonical form but for what `entries` say."""
    body = {"entries": entries, "mesh": "tree", "version": 1}
    return json.dumps(body, separators=(",", ":"), sort_keys=True).encode() + b"\n"


DATA = b"from a stranger"
A_FILE = {"digest": name_of(DATA), "kind": "file", "mode": 0o644, "size": len(DATA)}
A_DIRECTORY = {"kind": "directory", "mode": 0o755, "path": "d"}
HOSTILE = {
    "up": manifest({**A_FILE, "path": "../evil"}),
    "up within": manifest(A_DIRECTORY, {**A_FILE, "path": "d/../../evil"}),
    "absolute": manifest({**A_FILE, "path": "/tmp/mesh-evil"}),
    "up in hex": manifest({**A_FILE, "path_hex": b"../evil".hex()}),
    "a directory up": manifest({"kind": "directory", "mode": 0o755, "path": ".."}),
    "itself": manifest({"kind": "directory", "mode": 0o755, "path": "."}),
    "below a link": manifest(
        {"kind": "link", "path": "l", "target": ".."}, {**A_FILE, "path": "l/evil"}
    ),
    "a link and a directory": manifest(
        {"kind": "link", "path": "l", "target": ".."},
        {"kind": "directory", "mode": 0o755, "path": "l"},
        {**A_FILE, "path": "l/evil"},
    ),
    "a NUL": manifest({**A_FILE, "path": "a\0b"}),
    "another version": manifest().replace(b'"version":1', b'"version":2'),
    "an unknown field": manifest({**A_FILE, "path": "f", "owner": "root"}),
    "no manifest": DATA,
    "nothing": b"",
    "a list": b"[]\n",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_manifest_writes_nothing(
    run: Run, node: NodeProcess, tmp_path: Path, hostile: bytes
) -> None:
    node.request("POST", "/v1/blobs", DATA)
    node.request("POST", "/v1/blobs", hostile)
    failed(run("get", "--tree", "--force", name_of(hostile), tmp_path / "target"), 2)
    assert not (tmp_path / "evil").exists()
    assert not Path("/tmp/mesh-evil").exists()
    target = tmp_path / "target"
    assert not target.exists() or list(target.iterdir()) == []


def test_a_link_to_anywhere_is_made_but_not_followed(
    run: Run, node: NodeProcess, tmp_path: Path
) -> None:
    text = manifest({"kind": "link", "path": "l", "target": "../../etc"})
    node.request("POST", "/v1/blobs", text)
    assert run("get", "--tree", name_of(text), tmp_path / "target").returncode == 0
    assert os.readlink(tmp_path / "target" / "l") == "../../etc"


def test_a_manifest_whose_sizes_lie_restores_nothing_wrong(
    run: Run, node: NodeProcess, tmp_path: Path
) -> None:
    node.request("POST", "/v1/blobs", DATA)
    for size in (len(DATA) - 1, len(DATA) + 1, 5 * MIB, 2**62):
        text = manifest({**A_FILE, "path": "f", "size": size})
        node.request("POST", "/v1/blobs", text)
        failed(run("get", "--tree", name_of(text), tmp_path / str(size)), 1)
        assert list((tmp_path / str(size)).iterdir()) == []


def test_a_tree_with_a_blob_missing_restores_the_rest(
    run: Run, node: NodeProcess, tmp_path: Path
) -> None:
    node.request("POST", "/v1/blobs", DATA)
    lost = {"digest": name_of(b"never put"), "kind": "file", "mode": 0o644, "size": 9}
    text = manifest({**lost, "path": "a"}, {**A_FILE, "path": "b"}, {**lost, "path": "c"})
    node.request("POST", "/v1/blobs", text)
    done = run("get", "--tree", name_of(text), tmp_path / "target")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert picture(tmp_path / "target") == {b"b": ("file", 0o644, DATA)}


def test_a_tree_that_only_a_peer_has_is_restored_and_what_nobody_has_is_named(
    tmp_path: Path,
) -> None:
    large, size = b"l" * (5 * MIB), 9 * MIB
    with nodes() as start:
        one = start(tmp_path / "one", "--interval", "3600")
        one.ready()
        two = start(tmp_path / "two", "--interval", "3600", "--peers", one.place)
        until(lambda: two.status()["peers"][0]["rounds"] == 1)
        lost = {"kind": "file", "mode": 0o644}
        text = manifest(
            {**lost, "path": "a", "digest": name_of(b"never put"), "size": 9},
            {**lost, "path": "b", "digest": name_of(b"never put, large"), "size": size},
            {**A_FILE, "path": "c"},
            {**A_FILE, "path": "d", "digest": name_of(large), "size": len(large)},
        )
        for data in (DATA, large, text):
            assert one.request("POST", "/v1/blobs", data)[0] == 201
        target = tmp_path / "target"
        done = mesh("get", "--tree", name_of(text), target, env={"MESH_NODE": two.url})
        assert done.returncode == 1
        first, second = done.stderr.decode().splitlines()
        assert first.startswith(("mesh: b: ", "mesh: a: "))
        assert name_of(b"never put") in first + second
        assert name_of(b"never put, large") in first + second
        assert picture(target) == {b"c": ("file", 0o644, DATA), b"d": ("file", 0o644, large)}


# --- get ----------------------------------------------------------------------------------------


def test_get_writes_to_standard_output(run: Run, node: NodeProcess) -> None:
    for data in (b"to be fetched\n", b"", b"g" * (5 * MIB)):
        node.request("POST", "/v1/blobs", data)
        done = run("get", name_of(data))
        assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")


def test_get_writes_a_file_in_one_step(run: Run, node: NodeProcess, tmp_path: Path) -> None:
    data = b"g" * (5 * MIB)
    node.request("POST", "/v1/blobs", data)
    target = tmp_path / "target"
    target.write_bytes(b"what was there")
    done = run("get", name_of(data), "-o", target)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert target.read_bytes() == data
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_blob_that_is_missing_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    assert NEVER_PUT in failed(run("get", NEVER_PUT), 1)
    failed(run("get", NEVER_PUT, "-o", tmp_path / "new"), 1)
    kept = tmp_path / "kept"
    kept.write_bytes(b"what was there")
    failed(run("get", NEVER_PUT, "-o", kept), 1)
    assert kept.read_bytes() == b"what was there"
    failed(run("get", "--tree", NEVER_PUT, tmp_path / "tree"), 1)
    assert "no blob on" in failed(run("get", NEVER_PUT[1:]), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_get_asked_wrongly_is_2(run: Run, tmp_path: Path) -> None:
    for digest in ("", "zz", "12345", "G" * 64, NEVER_PUT + "\n", b"\xff" * 64):
        failed(run("get", digest), 2)
    failed(run("get", NEVER_PUT, "-o", tmp_path / "no" / "such" / "directory"), 2)
    for arguments in ([tmp_path], ["--tree"], ["--force"], ["--tree", tmp_path, "-o", "x"]):
        done = run("get", NEVER_PUT, *arguments)
        assert done.returncode == 2
        assert b"Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


# --- ls, status, sync, wait ---------------------------------------------------------------------


def test_ls_lists_digests_and_sizes(run: Run, node: NodeProcess) -> None:
    data = b"listed by ls"
    node.request("POST", "/v1/blobs", data)
    lines = [line.split() for line in run("ls").stdout.decode().splitlines()]
    assert [name_of(data), str(len(data))] in lines
    assert len(lines) == node.status()["blobs"]
    assert lines == sorted(lines)
    prefix = name_of(data)[:3]
    some = run("ls", "--prefix", prefix).stdout.decode().splitlines()
    assert [line.split() for line in some] == [one for one in lines if one[0].startswith(prefix)]
    listing = json.loads(run("ls", "--json").stdout)
    counts = {"count": len(lines), "bytes": sum(int(size) for _, size in lines)}
    assert [[one["digest"], str(one["size"])] for one in listing["blobs"]] == lines
    assert counts.items() <= listing.items()
    *blobs, last = map(json.loads, run("ls", "--json-lines").stdout.splitlines())
    assert blobs == [{"event": "blob", **one} for one in listing["blobs"]]
    assert counts.items() <= last.items()
    assert json.loads(run("ls", "--json", "--prefix", "0" * 60).stdout)["blobs"] == []
    assert run("ls", prefix.upper()).stdout.decode().splitlines() == some
    failed(run("ls", prefix, "--prefix", prefix), 2)
    for bad in ("XY", "G", "0" * 65):
        failed(run("ls", "--prefix", bad), 2)


def test_a_listing_goes_on_beyond_one_page_and_a_reader_may_leave_early(tmp_path: Path) -> None:
    names = fill(tmp_path / "data", [b"%d" % number for number in range(10_050)])
    files = tmp_path / "files"
    files.mkdir()
    for number in range(2000):
        (files / f"{number:0100d}").write_bytes(b"%d" % number)
    with nodes() as start:
        many = start(tmp_path / "data")
        many.ready()
        lines = mesh("ls", "--node", many.url).stdout.decode().splitlines()
        assert [line.split()[0] for line in lines] == sorted(names)
        many.request("POST", "/v1/blobs", b"line\n" * MIB)
        for command in (
            ["ls"], ["ls", "--json"], ["put", files], ["get", name_of(b"line\n" * MIB)],
        ):  # fmt: skip
            assert first_line(many, *command)


def first_line(node: NodeProcess, *args: str | Path) -> bytes:
    """`mesh ARGS | head -1`, which must be quiet."""
    with subprocess.Popen(
        [sys.executable, "-m", "mesh", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment({"MESH_NODE": node.url}),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    return line


def test_a_closed_standard_output_is_quiet(node: NodeProcess, tmp_path: Path) -> None:
    data = b"nobody reads it"
    file = tmp_path / "file"
    file.write_bytes(data)
    node.request("POST", "/v1/blobs", data)
    commands: list[list[str]] = [
        ["put", str(file)], ["get", name_of(data)], ["ls"], ["status"], ["status", "--json"],
        ["version"],
    ]  # fmt: skip
    for command in commands:
        for closed in (">&-", "| true", ">/dev/full"):
            shell = f'{sys.executable} -m mesh "$@" {closed}'
            done = subprocess.run(
                ["sh", "-c", shell, "sh", *command],
                capture_output=True,
                timeout=60,
                env=environment({"MESH_NODE": node.url}),
            )
            said = done.stderr.decode()
            assert "Traceback" not in said, (command, closed)
            assert "Exception ignored" not in said, (command, closed)
            assert said.count("\n") <= (1 if closed == ">/dev/full" else 0), (command, said)


def test_status_tells_people_and_programs(pair: tuple[NodeProcess, NodeProcess]) -> None:
    _, two = pair
    mesh("sync", "--node", two.url)
    done = mesh("status", "--node", two.url)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    status = two.status()
    for part in ("two", status["node_id"], status["root"], "one", "ghost", "unreachable"):
        assert part in text
    assert "\x1b" not in text
    done = mesh("status", "--json", "--node", two.url)
    printed = json.loads(done.stdout)
    assert done.stdout.count(b"\n") == 1
    assert printed.keys() >= {"node_id", "name", "version", "root", "blobs", "bytes", "peers"}
    for peer in printed["peers"]:
        assert peer.keys() >= {
            "name", "url", "state", "in_sync", "root", "missing_here", "missing_there",
            "last_success_seconds_ago", "last_success_at", "last_error", "last_error_at",
            "standing", "standing_since", "standing_seconds", "missing_here_bytes",
            "missing_there_bytes",
        }  # fmt: skip


def test_sync_prints_what_moved(pair: tuple[NodeProcess, NodeProcess]) -> None:
    one, two = pair
    # The first rounds are over: else one of them may bring what is put now.
    until(lambda: two.status()["peers"][0]["in_sync"] and two.status()["peers"][1]["last_error"])
    one.request("POST", "/v1/blobs", b"to be pulled")
    done = mesh("sync", "one", "--node", two.url)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith("one: fetched 1 blob (12 B), sent 0 ")
    assert stored(two, b"to be pulled")
    # By name, by address, by URL: one peer, one round.
    for name in ("one", one.place, one.url):
        done = mesh("sync", name, "--node", two.url)
        assert done.returncode == 0
        assert len(done.stdout.splitlines()) == 1


def test_sync_fails_when_a_peer_does_and_does_the_others(
    pair: tuple[NodeProcess, NodeProcess],
) -> None:
    one, two = pair
    one.request("POST", "/v1/blobs", b"pulled beside a failure")
    done = mesh("sync", "--node", two.url)
    assert done.returncode == 1
    text = done.stdout.decode() + done.stderr.decode()
    assert re.search(r"ghost: .*failed", text)
    assert stored(two, b"pulled beside a failure")
    assert mesh("sync", "ghost", "--node", two.url).returncode == 1


def test_sync_with_nobody_is_asked_wrongly(pair: tuple[NodeProcess, NodeProcess], run: Run) -> None:
    _, two = pair
    assert "one" in failed(mesh("sync", "nobody", "--node", two.url), 2)
    failed(run("sync"), 2)


def test_wait_ends_at_its_time_and_says_what_is_missing(
    pair: tuple[NodeProcess, NodeProcess],
) -> None:
    _, two = pair
    done = mesh("wait", "--timeout", "1.5", "--node", two.url)
    assert "ghost" in failed(done, 1)
    assert done.stdout == b""


def test_wait_promises_nothing_without_peers(run: Run) -> None:
    assert "no peers are configured" in failed(run("wait"), 1)
    for bad in ("-1", "x"):
        assert run("wait", "--timeout", bad).returncode == 2


def test_wait_is_over_at_once_where_all_is_level_and_says_how_far_it_saw(
    pair: tuple[NodeProcess, NodeProcess], tmp_path: Path
) -> None:
    one, two = pair
    with nodes() as start:
        near = start(tmp_path / "near", "--interval", "3600", "--peers", one.place)
        far = start(tmp_path / "far", "--interval", "3600", "--peers", two.place)
        near.ready()
        far.ready()
        done = mesh("wait", "--mesh", "--node", near.url)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == b"level with 1 of 1 peers\n"
        done = mesh("wait", "--node", far.url)
        assert (done.returncode, done.stderr) == (0, b"")
        said = b"level with 1 of 1 peers; two says its peer ghost is not level ("
        assert done.stdout.startswith(said)
        done = mesh("wait", "--mesh", "--timeout", "1.5", "--node", far.url)
        assert "two says its peer ghost is not level" in failed(done, 1)


# --- no node, the wrong node --------------------------------------------------------------------


def test_without_a_node_every_command_says_so_in_one_line(tmp_path: Path) -> None:
    (place,) = free_places(1)
    file = tmp_path / "file"
    file.write_bytes(b"x")
    commands = [
        ["put", file], ["put", "--tree", tmp_path], ["get", NEVER_PUT], ["ls"], ["sync"],
        ["get", "--tree", NEVER_PUT, tmp_path / "tree"], ["status"], ["status", "--json"],
        ["wait", "--timeout", "1"], ["get", NEVER_PUT, "-o", tmp_path / "new"], ["sync", "one"],
    ]  # fmt: skip

    def tried(command: list[str | Path]) -> None:
        said = failed(mesh(*command, "--node", place), 1)
        assert place in said

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(tried, commands))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_the_node_comes_from_the_environment_and_the_option_wins(node: NodeProcess) -> None:
    (place,) = free_places(1)
    assert mesh("ls", env={"MESH_NODE": node.place}).returncode == 0
    assert mesh("ls", "--node", node.url, env={"MESH_NODE": place}).returncode == 0
    assert mesh("ls", "--node", place, env={"MESH_NODE": node.url}).returncode == 1
    for bad in ("ftp://x", "http://x/y", "a b", "x:99999", "http://user@x"):
        failed(mesh("ls", env={"MESH_NODE": bad}), 2)


def test_something_that_is_no_node_is_an_error_in_one_line() -> None:
    for answer in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html>\x1b[m",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 \r\nContent-Length: 2\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"",
    ):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            place = f"127.0.0.1:{listener.getsockname()[1]}"
            with ThreadPoolExecutor(1) as pool:
                done = pool.submit(mesh, "status", "--node", place)
                # A client may try once more on a fresh connection.
                listener.settimeout(0.5)
                until(lambda: said_to_all(listener, answer, done))  # noqa: B023
                assert "\x1b" not in failed(done.result(), 1)


def said_to_all(listener: socket.socket, answer: bytes, done: object) -> bool:
    """Answer whoever connects; whether the client has ended."""
    try:
        link, _ = listener.accept()
    except TimeoutError:
        return done.done()  # type: ignore[attr-defined]
    with link:
        link.settimeout(5)
        link.recv(65536)
        link.sendall(answer)
    return done.done()  # type: ignore[attr-defined]


# --- run ----------------------------------------------------------------------------------------

REFUSED = {
    "an empty peer": ["--peers", "a,,b"],
    "an empty peer at the end": ["--peers", "a:1,"],
    "a peer without host": ["--peers", ":7280"],
    "a peer without host, with scheme": ["--peers", "http://"],
    "a peer of another scheme": ["--peers", "ftp://host"],
    "a port that is none": ["--peers", "host:99999"],
    "a port in words": ["--peers", "host:http"],
    "port 0 of a peer": ["--peers", "host:0"],
    "half an IPv6 address": ["--peers", "[::1"],
    "no IPv6 address": ["--peers", "[::zz]:1"],
    "a path": ["--peers", "http://host:1/path"],
    "a query": ["--peers", "host?x=1"],
    "a user": ["--peers", "user:secret@host"],
    "a blank": ["--peers", "a b"],
    "a newline": ["--peers", "a\nb"],
    "a bad name": ["--peers", "na me=host:1"],
    "a non-ASCII host": ["--peers", "hóst:1"],
    "one bad of a thousand": ["--peers", ",".join(["host:1"] * 1000 + ["host:x"])],
    "a very long one": ["--peers", "h" * 10_000 + "!"],
    "a port to listen on that is none": ["--listen", "127.0.0.1:99999"],
    "a port to listen on in words": ["--listen", "127.0.0.1:http"],
    "a path to listen on": ["--listen", "127.0.0.1:1/x"],
    "everybody": ["--listen", "0.0.0.0:0"],
    "a host that is not ours": ["--listen", "nohost.invalid:0", "--insecure"],
    "words for a size": ["--max-blob", "lots"],
    "an unknown unit": ["--max-blob", "1XiB"],
    "a negative size": ["--max-blob", "-1"],
    "no size": ["--max-blob", ""],
    "size 0": ["--max-blob", "0"],
    "more than replication brings": ["--max-blob", "65GiB"],
    "interval 0": ["--interval", "0"],
    "a negative interval": ["--interval", "-5"],
    "no number of seconds": ["--interval", "nan"],
    "an endless interval": ["--interval", "inf"],
    "an unknown backend": ["--backend", "curio"],
    "a bad name of its own": ["--name", "two words"],
    "an unknown level": ["--log-level", "loud"],
    "a missing file": ["--config", "/no/such/file.toml"],
    "a directory as file": ["--config", "/"],
}


def refused(*args: str | Path, env: dict[str, str] | None = None) -> str:
    """What `mesh run` says when it must not start."""
    return failed(mesh("run", *args, env=env, seconds=20), 2)


@pytest.mark.parametrize("flags", REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_option_is_refused_before_anything_is_made(tmp_path: Path, flags: list[str]) -> None:
    listen = [] if "--listen" in flags else ["--listen", "127.0.0.1:0"]
    said = refused("--data", tmp_path / "data", *listen, *flags)
    assert len(said) < 500
    assert list(tmp_path.iterdir()) == []


def test_a_bad_setting_in_the_environment_is_refused(tmp_path: Path) -> None:
    for key, value in (
        ("MESH_INTERVAL_SECONDS", "soon"),
        ("MESH_MAX_BLOB_BYTES", "lots"),
        ("MESH_PEERS", "a,,b"),
        ("MESH_INSECURE", "perhaps"),
        ("MESH_BACKEND", "curio"),
        ("MESH_NODE_ID", "xyz"),
        ("MESH_SHUTDOWN_SECONDS", "-1"),
    ):
        refused("--data", tmp_path / "data", "--listen", "127.0.0.1:0", env={key: value})
    assert list(tmp_path.iterdir()) == []


def test_a_bad_file_is_refused_and_a_typo_gets_the_nearest_name(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    for text, hint in (
        ('lisen = "127.0.0.1:0"', "listen"),
        ("interval = 30", "interval_seconds"),
        ("interval_secs = 30", "interval_seconds"),
        ("zzz = 1", "zzz"),
        ("name = 7280", "name"),
        ('interval_seconds = "30"', "interval_seconds"),
        ('max_blob_bytes = "lots"', "lots"),
        ("peers = [1]", "peers"),
        ('peers = "a"', "peers"),
        ("peers = [", "TOML"),
        ('name = "\\u0000"', "name"),
        ("[name]", "name"),
    ):
        file.write_text(text)
        said = refused("--data", tmp_path / "data", "--listen", "127.0.0.1:0", "--config", file)
        assert hint in said, text
    file.write_bytes(b"\xff\xfe")
    refused("--data", tmp_path / "data", "--listen", "127.0.0.1:0", "--config", file)
    assert [path.name for path in tmp_path.iterdir()] == ["mesh.toml"]


def test_an_occupied_port_is_refused(node: NodeProcess, tmp_path: Path) -> None:
    assert node.place in refused("--data", tmp_path / "data", "--listen", node.place)
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_that_cannot_be_is_refused(node: NodeProcess, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"a file")
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "no" / "where")
    listen = ["--listen", "127.0.0.1:0"]
    for data in (file, file / "below", "/proc/nothing", dangling):
        refused("--data", data, *listen)
    assert file.read_bytes() == b"a file"
    before = sorted(path.name for path in node.data.iterdir())
    assert "running node" in refused("--data", node.data, *listen)
    assert sorted(path.name for path in node.data.iterdir()) == before
    assert node.status()["name"] == "n1"


def test_a_pinned_identity_never_becomes_a_new_node(node: NodeProcess, tmp_path: Path) -> None:
    listen = ["--listen", "127.0.0.1:0"]
    env = {"MESH_NODE_ID": "0" * 32}
    (tmp_path / "unmounted").mkdir()
    refused("--data", tmp_path / "unmounted", *listen, env=env)
    refused("--data", tmp_path / "missing", *listen, env=env)
    assert not (tmp_path / "unmounted" / "node.json").exists()
    assert not (tmp_path / "missing").exists()


def test_unknown_options_and_commands_are_2_without_a_traceback() -> None:
    for arguments in (["run", "--interval", "abc"], ["run", "--pears", "a"], ["rnu"], ["ls", "x"]):
        done = mesh(*arguments)
        assert done.returncode == 2
        assert done.stderr
        assert b"Traceback" not in done.stderr


def test_every_command_explains_itself() -> None:
    text = mesh("--help").stdout.decode()
    for command in ("run", "put", "get", "ls", "status", "sync", "wait"):
        assert re.search(rf"\b{command}\b", text)
        short = mesh(command, "-h")
        assert short.returncode == 0
        assert short.stdout == mesh(command, "--help").stdout


def test_the_version_is_told_in_either_form() -> None:
    assert mesh("--version").stdout == mesh("version").stdout != b""


def test_a_shell_gets_its_completions() -> None:
    wanted = {"_MESH_COMPLETE": "complete_bash", "COMP_WORDS": "mesh sta", "COMP_CWORD": "1"}
    assert mesh(env=wanted).stdout.split() == [b"status"]


def test_settings_come_from_file_environment_and_flags_in_that_order(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text(
        f'listen = "127.0.0.1:0"\ndata = "{tmp_path}/file"\nname = "by-file"\n'
        'peers = ["first=10.0.0.1", "[::1]:7281"]\nmax_blob_bytes = "64K"\n'
    )
    with nodes() as start:
        one = start(tmp_path / "flag", "--config", str(file))
        status = one.status()
        assert status["name"] == "by-file"
        assert [peer["name"] for peer in status["peers"]] == ["first", "[::1]:7281"]
        assert [peer["url"] for peer in status["peers"]] == [
            "http://10.0.0.1:7280",
            "http://[::1]:7281",
        ]
        assert one.request("POST", "/v1/blobs", bytes(65537))[0] == 413
        assert (tmp_path / "flag").is_dir()
        assert not (tmp_path / "file").exists()


def test_a_node_that_lists_itself_or_one_peer_twice_says_so_and_carries_on(tmp_path: Path) -> None:
    place, other = free_places(2)
    port = place.rpartition(":")[2]
    with nodes() as start:
        peers = f"{place},localhost:{port},{other},{other},again=localhost:{other.split(':')[1]}"
        two = start(tmp_path / "two", listen=other)
        two.ready()
        one = start(tmp_path / "one", "--peers", peers, "--interval", "0.2", listen=place)
        until(
            lambda: (
                {"self", "idle", "duplicate"} == {peer["state"] for peer in one.status()["peers"]}
            )
        )
        one.request("POST", "/v1/blobs", b"carried on")
        until(lambda: stored(two, b"carried on"))
        assert mesh("wait", "--timeout", "20", "--node", one.url).returncode == 0
        assert one.stop() == 0
        assert "itself" in one.log
        assert "twice" in one.log
        assert "Traceback" not in one.log
