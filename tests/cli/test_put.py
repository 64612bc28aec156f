"""`mesh put`: trees, what is left out of them, and what becomes of files that cannot be put."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import anyio
import pytest

from mesh.cli.forms import Form
from mesh.cli.putting.outcome import Outcome
from mesh.cli.putting.printing import Printer
from mesh.cli.putting.reading import Changed, Group, Reader, Reading, Trouble, opened
from mesh.cli.putting.sending import Sender
from mesh.cli.putting.steps import Steps
from mesh.cli.putting.survey import Survey
from mesh.cli.putting.watching import Watcher
from mesh.cli.teller import Teller
from mesh.cli.walk import Found, FoundFile, walk
from mesh.core.digest import Digest, digest_of
from mesh.errors import Unreachable
from mesh.transport.client import NodeClient
from tests.processes import NodeProcess, environment, mesh, nodes

MIB = 1024 * 1024
Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with nodes() as start:
        started = start(tmp_path_factory.mktemp("node") / "data", "--max-blob", "5MiB")
        started.ready()
        yield started


@pytest.fixture
def run(node: NodeProcess) -> Run:
    def command(
        *args: str | bytes | Path, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        return mesh(*args, stdin=stdin, env={"MESH_NODE": node.url})

    return command


def name_of(data: bytes) -> str:
    return digest_of(data).hex()


def has(node: NodeProcess, data: bytes) -> bool:
    return node.request("GET", f"/v1/blobs/{name_of(data)}")[2] == data


def planted(root: Path, **files: bytes) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return root


def manifest_of(node: NodeProcess, line: bytes) -> list[str]:
    """The paths in the manifest that a line of output names, or its snapshot."""
    said = json.loads(node.request("GET", f"/v1/blobs/{line.split()[0].decode()}")[2])
    if said["mesh"] == "snapshot":
        said = json.loads(node.request("GET", f"/v1/blobs/{said['manifest']}")[2])
    return [entry["path"] for entry in said["entries"]]


# --- trees -----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["--tree 1 2", "1 --tree 2", "1 2 --tree", "--tree 1 --tree 2"])
def test_each_directory_gets_a_manifest_of_its_own(
    run: Run, node: NodeProcess, tmp_path: Path, words: str
) -> None:
    for name in "12":
        planted(tmp_path / name, **{f"file{name}": b"in " + name.encode()})
    done = run("put", *(word if word[0] == "-" else tmp_path / word for word in words.split()))
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.splitlines()
    names = (b"/1/file1", b"/1/", b"/1/@", b"/2/file2", b"/2/", b"/2/@")
    ends = [os.fsencode(tmp_path) + name for name in names]
    assert [re.sub(rb"@.*Z$", b"@", line.split(b"  ", 1)[1]) for line in lines] == ends
    for at in (1, 2):
        assert [manifest_of(node, lines[at]), manifest_of(node, lines[at + 3])] == [
            ["file1"],
            ["file2"],
        ]


def test_a_file_among_the_trees_is_refused_before_anything_is_sent(
    run: Run, node: NodeProcess, tmp_path: Path
) -> None:
    planted(tmp_path / "tree", file=b"is not sent")
    (tmp_path / "file").write_bytes(b"nor this")
    for other in (tmp_path / "file", "-", tmp_path / "missing"):
        done = run("put", "--tree", tmp_path / "tree", other)
        assert done.returncode == 2
        assert done.stdout == b""
        assert done.stderr.startswith(b"mesh: --tree takes directories")
    assert not has(node, b"is not sent")


@pytest.mark.parametrize("strict", [False, True])
def test_a_fifo_is_left_out_of_a_tree_with_a_line(
    run: Run, node: NodeProcess, tmp_path: Path, strict: bool
) -> None:
    planted(tmp_path / "tree", doc=b"beside a FIFO")
    os.mkfifo(tmp_path / "tree" / "pipe")
    done = run("put", "--tree", tmp_path / "tree", *(["--strict"] if strict else []))
    assert done.returncode == 0
    assert done.stderr.decode() == f"mesh: {tmp_path}/tree/pipe: is a FIFO; left out\n"
    assert manifest_of(node, done.stdout.splitlines()[-1]) == ["doc"]


def test_what_cannot_be_put_is_named_and_the_rest_gets_its_manifest(
    run: Run, node: NodeProcess, tmp_path: Path
) -> None:
    tree = planted(tmp_path / "tree", a=b"a", large=bytes(5 * MIB + 1), z=b"z")
    done = run("put", "--tree", tree)
    assert done.returncode == 1
    (said,) = done.stderr.decode().splitlines()
    assert said == (
        f"mesh: {tree}/large: has {5 * MIB + 1} bytes, and the node takes {5 * MIB} bytes at most; "
        "start the node with a larger --max-blob"
    )
    assert manifest_of(node, done.stdout.splitlines()[-1]) == ["a", "z"]
    done = run("put", "--tree", "--strict", tree)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    assert b"no manifest" in done.stderr.splitlines()[-1]


def test_strict_goes_with_tree(run: Run, tmp_path: Path) -> None:
    assert run("put", "--strict", tmp_path).returncode == 2


def test_exclusions_and_a_dry_run(run: Run, node: NodeProcess, tmp_path: Path) -> None:
    tree = planted(tmp_path / "tree", **{"a.o": b"object", "a.c": b"source", "b.tmp": b"scratch"})
    planted(tree / "build", made=b"made")
    (tmp_path / "list").write_text("*.tmp\n# not this\n/build\n")
    flags = ["--exclude", "*.o", "--exclude-from", str(tmp_path / "list")]
    done = run("put", "--dry-run", "--tree", tree, *flags)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split() == ["6", f"{tree}/a.c"]
    assert not has(node, b"source")
    done = run("put", "--tree", tree, *flags)
    assert manifest_of(node, done.stdout.splitlines()[-1]) == ["a.c"]
    assert not has(node, b"object")
    assert not has(node, b"made")


# --- refusals --------------------------------------------------------------------------------


def test_a_wrong_key_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    tree = planted(tmp_path / "tree", **{f"file{number}": b"%d" % number for number in range(20)})
    planted(tree / "deep", large=bytes(5 * MIB), small=b"small")
    with nodes() as start:
        guarded = start(tmp_path / "data", "--key-file", str(tmp_path / "key"))
        for args in (["put", tree], ["put", "--tree", tree], ["put", tree / "deep"], ["put", "-"]):
            done = mesh(*args, "--node", guarded.url, stdin=bytes(9 * MIB))
            assert done.returncode == 1
            assert done.stdout == b""
            assert done.stderr.count(b"\n") == 1
            assert b"wants a key, and none was sent" in done.stderr
        (tmp_path / "wrong").write_text("secrets")
        done = mesh("put", tree, "--node", guarded.url, "--key-file", tmp_path / "wrong")
        assert done.returncode == 1
        assert done.stdout == b""
        (line,) = done.stderr.splitlines()
        assert b"does not accept the key that was sent" in line


def test_a_large_pipe_over_the_limit_is_told_so(run: Run) -> None:
    done = run("put", "-", stdin=bytes(60 * MIB))
    assert done.returncode == 1
    assert b"bytes at most (--max-blob)" in done.stderr
    assert done.stderr.count(b"\n") == 1


# --- a step that fails --------------------------------------------------------------------------


class Gone(NodeClient):
    """A node that goes when two groups were read, so that one waits behind the one it is asked."""

    def __init__(self) -> None:
        self._left = 2
        self._read = threading.Event()

    def hashed(self, _size: int) -> None:
        self._left -= 1
        if not self._left:
            self._read.set()

    async def lacking(self, digests: Sequence[Digest]) -> set[Digest]:
        del digests
        await anyio.to_thread.run_sync(self._read.wait)
        await anyio.wait_all_tasks_blocked()
        raise Unreachable("the node has gone")


def test_a_node_that_goes_while_files_wait_is_all_that_is_said(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number}").write_bytes(b"%d" % number)
    client = Gone()
    watcher = Watcher()
    watcher.hashed = client.hashed  # type: ignore[method-assign]
    outcome = Outcome(watcher, Printer(Teller(Form(), "put", "files")), tree=False)
    reader = Reader(watcher, None, lambda: 0)
    steps = Steps(client, reader, Sender(client, outcome, watcher), outcome, None)
    survey = Survey([(str(tmp_path), walk(tmp_path))], None, watcher)
    with pytest.raises(BaseExceptionGroup) as raised:
        anyio.run(steps.run, survey)
    assert [type(error) for error in raised.value.exceptions] == [Unreachable]


# --- files that change while they are read ---------------------------------------------------


def groups(path: Path, walked: Iterator[Found]) -> Iterator[Group]:
    """What is read of a walk, with no record of it."""
    reader = Reader(Watcher(), None, lambda: 0)
    survey = Survey([(str(path), walked)], None, Watcher())
    while batch := survey.next():
        for job in reader.jobs(batch):
            assert isinstance(job, Group)
            yield job


def found(path: Path) -> FoundFile:
    (one,) = walk(path)
    assert isinstance(one, FoundFile)
    return one


def test_a_file_that_changes_while_it_is_streamed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"more")

    def overwrite() -> None:
        with path.open("r+b") as file:
            file.write(b"other")
        os.utime(path, ns=(1, 1))

    for change in (grow, lambda: os.truncate(path, MIB), overwrite):
        path.write_bytes(bytes(3 * MIB))
        with opened(found(path)) as descriptor:
            reading = Reading(descriptor)
            reading.piece()
            change()
            with pytest.raises(Changed, match="put it again"):
                list(iter(reading.piece, b""))


def test_a_file_that_is_at_rest_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * MIB)
    with opened(found(path)) as descriptor:
        reading = Reading(descriptor)
        pieces = list(iter(reading.piece, b""))
        assert b"".join(pieces) == path.read_bytes()
        assert reading.digest() == digest_of(path.read_bytes())
        reading.unchanged()


def test_a_file_that_vanishes_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    planted(tmp_path, a=b"a", b=b"b", c=b"c")

    def vanishing() -> Iterator[Found]:
        for each in walk(tmp_path):
            if each.path == b"b":
                (tmp_path / "b").unlink()
            yield each

    (group,) = groups(tmp_path, vanishing())
    assert isinstance(group, Group)
    assert Trouble(os.fsencode(tmp_path / "b"), "No such file or directory") in group.others
    assert [(file.digest, file.data) for file in group.files] == [
        (digest_of(data), data) for data in (b"a", b"c")
    ]


def test_a_file_that_became_a_fifo_is_no_empty_file(tmp_path: Path) -> None:
    planted(tmp_path, a=b"a", b=b"b")

    def replacing() -> Iterator[Found]:
        for each in walk(tmp_path):
            if each.path == b"b":
                (tmp_path / "b").unlink()
                os.mkfifo(tmp_path / "b")
            yield each

    (group,) = groups(tmp_path, replacing())
    (trouble,) = group.others
    assert isinstance(trouble, Trouble)
    assert "changed while it was read" in trouble.reason
    assert [file.data for file in group.files] == [b"a"]


def test_a_directory_that_became_a_link_shows_nothing_of_what_it_leads_to(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    planted(outside / "in", file=b"secret")
    planted(root / "d" / "in", file=b"mine")

    def replacing() -> Iterator[Found]:
        for each in walk(root):
            if each.path == b"d/in/file":
                (root / "d").rename(tmp_path / "away")
                (root / "d").symlink_to(outside)
            yield each

    before = len(os.listdir("/proc/self/fd"))
    (group,) = groups(root, replacing())
    assert Trouble(os.fsencode(root / "d/in/file"), "Not a directory") in group.others
    assert group.files == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_are_found_in_whatever_directory_they_lie(tmp_path: Path) -> None:
    deep = "/".join(["deep"] * 100)
    places = ["", "a", "a/b", "a/b/c", "a/d", "a-b", "ab", deep, f"{deep}/a", f"{deep}/b"]
    for place in places:
        planted(tmp_path / place, **{f"{place.count('/')}1": b"1" + place.encode(), "z": b"z"})
        (tmp_path / place / "empty").touch()
    before = len(os.listdir("/proc/self/fd"))
    (group,) = groups(tmp_path, walk(tmp_path))
    assert [found.source for found in (file.found for file in group.files)] == [
        each.source for each in walk(tmp_path) if isinstance(each, FoundFile)
    ]
    for file in group.files:
        data = Path(os.fsdecode(file.found.source)).read_bytes()
        assert (file.data, file.digest, file.size) == (data, digest_of(data), len(data))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_was_written_to_since_it_was_found_is_read_as_it_is_now(tmp_path: Path) -> None:
    planted(tmp_path, grown=b"old", shrunk=b"older", same=b"old", emptied=b"old", filled=b"")
    now = {"grown": b"newer", "shrunk": b"new", "same": b"new", "emptied": b"", "filled": b"new"}

    def changing() -> Iterator[Found]:
        for each in walk(tmp_path):
            path = Path(os.fsdecode(each.source))
            path.write_bytes(now[path.name])
            os.utime(path, ns=(1, 1))
            yield each

    (group,) = groups(tmp_path, changing())
    assert {file.found.path.decode(): file.data for file in group.files} == now
    assert all(file.digest == digest_of(file.data or b"") for file in group.files)


def test_what_lies_between_the_files_of_a_tree_costs_no_request(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}").mkdir()
        planted(tmp_path / f"{number}", file=b"%d" % number)
        (tmp_path / f"link {number}").symlink_to("nowhere")
    (group,) = groups(tmp_path, walk(tmp_path))
    assert isinstance(group, Group)
    assert len(group.files) == 300


def test_a_file_of_the_kernel_that_has_no_size_is_read_to_its_end(
    run: Run, node: NodeProcess
) -> None:
    data = Path("/proc/version").read_bytes()
    assert run("put", "/proc/version").stdout.split()[0].decode() == name_of(data)


# --- standard input --------------------------------------------------------------------------


def test_a_producer_may_pause_and_be_told_meanwhile(node: NodeProcess, tmp_path: Path) -> None:
    """The upload is under way, then the node stops: the command does not wait for its producer."""
    with nodes() as start:
        other = start(tmp_path / "data")
        other.ready()
        with subprocess.Popen(
            [sys.executable, "-m", "mesh", "put", "-", "--node", other.url],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        ) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            process.stdin.write(bytes(MIB))
            process.stdin.flush()
            other.kill()
            assert process.wait(30) == 1
            assert process.stderr.read().count(b"\n") == 1
