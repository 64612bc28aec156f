"""`mesh put` of what was put before: what is read, what is sent, and that nothing is ever wrong."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import anyio
import pytest

from mesh.cli.put import Options, put
from mesh.cli.putting import reading
from mesh.cli.putting.watching import Watcher
from mesh.config import parse_peer
from mesh.core.digest import digest_of
from mesh.core.limits import LARGE_BLOB
from tests.processes import NodeProcess, environment, mesh, nodes, until
from tests.relay import Counting

HOUR = 3600 * 10**9


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with nodes() as start:
        started = start(tmp_path_factory.mktemp("node") / "data")
        started.ready()
        yield started


class Counts(Watcher):
    """What a put did, in bytes; and in files for what was found, done or failed."""

    def __init__(self) -> None:
        self.bytes = {"found": 0, "hashed": 0, "sent": 0, "done": 0}
        self.files = {"found": 0, "done": 0, "failed": 0}

    def found(self, files: int, size: int) -> None:
        self.files["found"] += files
        self.bytes["found"] += size

    def hashed(self, size: int) -> None:
        self.bytes["hashed"] += size

    def sent(self, size: int) -> None:
        self.bytes["sent"] += size

    def done(self, files: int, size: int) -> None:
        self.files["done"] += files
        self.bytes["done"] += size

    def failed(self, files: int) -> None:
        self.files["failed"] += files


class Putting:
    """Puts in this process, of files that seem to have been at rest for an hour."""

    def __init__(self, node: NodeProcess, capture: pytest.CaptureFixture[bytes]) -> None:
        self.node = node
        self.lines: list[tuple[str, str]] = []
        self.errors = b""
        self._capture = capture

    def __call__(
        self,
        *paths: Path,
        to: NodeProcess | Counting | None = None,
        watcher: Counts | None = None,
        later: int = HOUR,
        **options: bool,
    ) -> Counts:
        """Put; what it did. The lines that it printed are in `lines`."""
        watcher = watcher or Counts()
        address = parse_peer((to or self.node).place)
        names = [str(path) for path in paths]

        async def command() -> bool:
            return await put(
                address, names, Options(**options), watcher, lambda: time.time_ns() + later
            )

        good = anyio.run(command)
        output = self._capture.readouterr()
        self.errors = output.err
        assert good is (watcher.files["failed"] == 0)
        printed = [line.split("  ", 1) for line in os.fsdecode(output.out).splitlines()]
        self.lines = [(digest, path) for digest, path in printed]
        return watcher


@pytest.fixture
def putting(
    node: NodeProcess,
    capfdbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Putting:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Putting(node, capfdbinary)


def planted(root: Path, seed: int, small: int = 30) -> Path:
    """A tree of small files in two directories, and one large file."""
    random = Random(seed)
    for number in range(small):
        path = root / f"{number % 2}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.randbytes(random.randrange(1, 3000)))
    (root / "1-large").write_bytes(random.randbytes(LARGE_BLOB + 12345))
    return root


def expected(*roots: Path) -> list[tuple[str, str]]:
    """The lines that a put must print: each file's digest, in the order of the whole paths."""
    files = [
        path
        for root in roots
        for path in sorted(root.rglob("*"), key=lambda path: os.fsencode(path.relative_to(root)))
        if path.is_file()
    ]
    return [(digest_of(path.read_bytes()).hex(), str(path)) for path in files]


def size_of(*paths: Path) -> int:
    return sum(path.stat().st_size for path in paths)


def all_bytes(root: Path) -> int:
    return size_of(*(path for path in root.rglob("*") if path.is_file()))


def disk(node: NodeProcess) -> dict[Path, tuple[int, int]]:
    """What is on a node's disk: any write changes it."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in node.data.rglob("*")
        if path.is_file() and path.suffix != ".sqlite-shm"
    }


@pytest.mark.parametrize("tree", [False, True])
def test_an_unchanged_tree_is_neither_read_nor_sent_nor_written(
    putting: Putting, tmp_path: Path, tree: bool
) -> None:
    root = planted(tmp_path / "tree", 1 + tree)
    total = all_bytes(root)
    first = putting(root, tree=tree)
    lines = putting.lines
    assert lines[:31] == expected(root)
    assert first.bytes == {"found": total, "hashed": total, "sent": total, "done": total}
    before = disk(putting.node)
    again = putting(root, tree=tree)
    assert putting.lines[: 31 + tree] == lines[: 31 + tree], "the manifest is the same as well"
    assert again.bytes == {"found": total, "hashed": 0, "sent": 0, "done": total}
    assert again.files == {"found": 31, "done": 31, "failed": 0}
    if not tree:  # a tree has one small blob that says when it was put
        assert disk(putting.node) == before


def test_what_ten_thousand_small_files_cost(putting: Putting, tmp_path: Path) -> None:
    """Requests and bytes, the first time and unchanged. One that grows needs a reason."""
    files, size = 10_000, 512
    root = tmp_path / "tree"
    for number in range(files):
        path = root / f"{number % 100}" / f"{number}"
        if number < 100:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"%d" % number * (size // 4))
    total = all_bytes(root)
    with Counting(putting.node.place) as link:
        first = putting(root, to=link)
        assert first.bytes == {"found": total, "hashed": total, "sent": total, "done": total}
        # A batch for each thousand files. One question may be about several batches.
        assert link.requests["v1/batch"] == 12
        assert 1 <= link.requests["v1/lacking"] <= 12
        assert link.requests["v1/status"] == 1
        assert set(link.requests) == {"v1/status", "v1/lacking", "v1/batch"}
        # A frame has 41 bytes beside its blob, a digest in a question 67; and the heads.
        assert link.sent - total < files * (41 + 67) + 25 * 400
        before = link.requests.copy(), link.sent
        putting(root, to=link)
        again = link.requests - before[0]
        assert again == {"v1/status": 1, "v1/lacking": 3}
        assert link.sent - before[1] < files * 67 + 4 * 400


def test_a_changed_tree_costs_its_changes(putting: Putting, tmp_path: Path) -> None:
    root = planted(tmp_path / "tree", 3)
    putting(root)
    edited, new, renamed = root / "0" / "4", root / "0" / "new", root / "2-large"
    edited.write_bytes(Random(0).randbytes(edited.stat().st_size))
    new.write_bytes(b"new")
    (root / "1-large").rename(renamed)
    (root / "copy").write_bytes((root / "1" / "5").read_bytes())
    again = putting(root)
    assert putting.lines == expected(root)
    assert again.bytes["hashed"] == size_of(edited, new, renamed, root / "copy")
    assert again.bytes["sent"] == size_of(edited, new)


def test_files_that_are_named_one_by_one_are_known_too(putting: Putting, tmp_path: Path) -> None:
    root = planted(tmp_path / "tree", 4)
    putting(root)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    (root / "link").symlink_to(files[3])
    again = putting(*files, root / "0", root / ".." / "tree" / "1", root / "link")
    assert again.files["done"] == 31 + 30 + 1
    assert again.bytes["hashed"] == size_of(files[3]), "a link is another name"
    assert again.bytes["sent"] == 0


def test_content_that_is_there_twice_is_sent_once(putting: Putting, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(50):
        (root / f"{number}").write_bytes(b"the same in each")
    assert putting(root).bytes["sent"] == len(b"the same in each")
    assert putting.lines == expected(root)


def test_a_file_that_was_just_written_is_read_again(putting: Putting, tmp_path: Path) -> None:
    root = planted(tmp_path / "tree", 5)
    total = all_bytes(root)
    putting(root, later=0)
    again = putting(root)
    assert (again.bytes["hashed"], again.bytes["sent"]) == (total, 0)
    assert putting(root).bytes["hashed"] == 0


def test_rehash_reads_everything_and_notes_it(putting: Putting, tmp_path: Path) -> None:
    root = planted(tmp_path / "tree", 6)
    total = all_bytes(root)
    assert putting(root, rehash=True).bytes["sent"] == total
    again = putting(root, rehash=True)
    assert (again.bytes["hashed"], again.bytes["sent"]) == (total, 0)
    assert putting(root).bytes["hashed"] == 0


def test_a_node_that_has_lost_blobs_gets_them_again(putting: Putting, tmp_path: Path) -> None:
    root = planted(tmp_path / "tree", 7)
    with nodes() as start:
        other = start(tmp_path / "data")
        total = all_bytes(root)
        assert putting(root, to=other).bytes["sent"] == total
        lost = root / "0" / "8"
        rot(other, lost.read_bytes())
        (digest,) = (digest for digest, path in putting.lines if path == str(lost))
        assert other.request("GET", f"/v1/blobs/{digest}")[0] == 404
        again = putting(root, to=other)
        assert again.bytes["hashed"] == again.bytes["sent"] == size_of(lost)
        assert other.request("GET", f"/v1/blobs/{digest}")[2] == lost.read_bytes()
        assert putting(root, to=putting.node).bytes["sent"] == total, "it has a record of its own"


def rot(node: NodeProcess, data: bytes) -> None:
    for path in node.data.glob("segments/*"):
        content = path.read_bytes()
        if (at := content.find(data)) >= 0:
            with path.open("r+b") as file:
                file.seek(at)
                file.write(bytes([content[at] ^ 1]))


class Meddling(Counts):
    """Does something to a file when all of it has been hashed, before it is sent."""

    def __init__(self, size: int, meddle: Callable[[], object]) -> None:
        super().__init__()
        self._size = size
        self._meddle = meddle

    def hashed(self, size: int) -> None:
        super().hashed(size)
        if self.bytes["hashed"] == self._size:
            self._meddle()


@pytest.mark.parametrize("change", ["other bytes", "at the same time", "longer", "shorter"])
def test_a_large_file_that_changes_before_it_is_sent(
    putting: Putting, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "KEPT", 0)
    large = tmp_path / "large"
    data = Random(change).randbytes(LARGE_BLOB + 1000)
    contents = {"longer": data + b"more", "shorter": data[:-1000]}
    contents |= {"other bytes": data[::-1], "at the same time": data[::-1]}
    large.write_bytes(data)
    before = large.stat()

    def meddle() -> None:
        large.write_bytes(contents[change])
        if change == "at the same time":  # only the node finds out that these are other bytes
            os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))

    putting(large, watcher=Meddling(len(data), meddle))
    assert putting.lines == [(digest_of(contents[change]).hex(), str(large))]
    path = f"/v1/blobs/{putting.lines[0][0]}"
    assert putting.node.request("GET", path)[2] == contents[change]
    putting(large)
    assert putting.lines == [(digest_of(contents[change]).hex(), str(large))]


def test_a_large_file_that_vanishes_before_it_is_sent(
    putting: Putting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "KEPT", 0)
    large, other = tmp_path / "large", tmp_path / "other"
    large.write_bytes(Random(9).randbytes(LARGE_BLOB + 1000))
    other.write_bytes(b"is put all the same")
    watcher = Meddling(LARGE_BLOB + 1000, large.unlink)
    putting(large, other, watcher=watcher)
    assert putting.lines == [(digest_of(b"is put all the same").hex(), str(other))]
    assert putting.errors.decode() == f"mesh: {large}: No such file or directory\n"


def test_a_large_file_is_read_once_and_sent_though_it_vanishes(
    putting: Putting, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    data = Random(8).randbytes(LARGE_BLOB + 1000)
    large.write_bytes(data)
    putting(large, watcher=Meddling(len(data), large.unlink))
    assert putting.lines == [(digest_of(data).hex(), str(large))]
    assert putting.node.request("GET", f"/v1/blobs/{digest_of(data).hex()}")[2] == data
    assert putting.errors == b""


def test_whatever_is_done_to_the_files_each_line_is_right(putting: Putting, tmp_path: Path) -> None:
    root = planted(tmp_path / "tree", 10, small=12)
    random = Random(10)
    for _ in range(40):
        for _ in range(random.randrange(3)):
            meddled(root, random)
        putting(root)
        assert putting.lines == expected(root)


def meddled(root: Path, random: Random) -> None:
    """One change to a tree, of the kinds that a look at size and time alone would miss."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    one, two = random.sample(files, 2)
    before = one.stat()
    kind = random.choice(["same size", "swap", "exchange", "replace", "append", "link", "mode"])
    if kind in ("same size", "exchange", "append"):
        content = random.randbytes(before.st_size) if kind != "append" else one.read_bytes() + b"x"
        # The clock of a file system moves in steps of some milliseconds.
        until(lambda: one.write_bytes(content) and one.stat().st_ctime_ns != before.st_ctime_ns)
        if kind == "exchange":
            os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif kind == "swap":
        one.rename(root / "aside")
        two.rename(one)
        (root / "aside").rename(two)
    elif kind == "replace":
        (root / "aside").write_bytes(random.randbytes(before.st_size))
        os.utime(root / "aside", ns=(before.st_atime_ns, before.st_mtime_ns))
        (root / "aside").rename(one)
    elif kind == "link":
        two.unlink()
        os.link(one, two)
    else:
        one.chmod(random.choice([0o600, 0o644]))


# --- as a process ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def at_rest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files in several groups and some large ones, which are older than two seconds."""
    root = tmp_path_factory.mktemp("rest") / "tree"
    planted(root, 11, small=2500)
    for number in range(3):
        (root / f"3-large-{number}").write_bytes(Random(number).randbytes(LARGE_BLOB + number))
    made = time.monotonic()
    until(lambda: time.monotonic() > made + 2.2)
    return root


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_put_that_is_ended_leaves_nothing_and_the_next_goes_on(
    putting: Putting, at_rest: Path, tmp_path: Path, number: signal.Signals
) -> None:
    random = Random(number)
    total = all_bytes(at_rest)
    cache = tmp_path / "cache"
    with nodes() as start:
        other = start(tmp_path / "data")
        command = [sys.executable, "-m", "mesh", "put", str(at_rest), "--node", other.url]
        for _ in range(2):
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, env=environment({"XDG_CACHE_HOME": str(cache)})
            ) as process:
                assert process.stdout is not None
                for _ in range(random.randrange(1050, 2450)):
                    assert process.stdout.readline()
                process.send_signal(number)
                process.stdout.read()
            codes = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
            assert process.returncode in (0, codes[number])
            (record,) = (cache / "mesh").glob("*.sqlite")
            assert {path.name for path in cache.rglob("*.*")} <= {
                record.name, f"{record.name}-journal"
            }  # fmt: skip
        # A second later another put reads what is left, and no more.
        rest = putting(at_rest, to=other)
        assert rest.bytes["hashed"] < total
        assert rest.bytes["sent"] <= rest.bytes["hashed"]
        assert putting.lines == expected(at_rest)
        with sqlite3.connect(record) as opened:
            assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        opened.close()


@pytest.mark.parametrize(
    "limit", ["place", "size"], ids=["a cache that cannot be", "a cache that is full"]
)
def test_without_a_record_a_put_does_the_same(
    node: NodeProcess, at_rest: Path, tmp_path: Path, limit: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = tmp_path / ("file" if limit == "place" else "cache")
    for _ in range(2):
        command = [sys.executable, "-m", "mesh", "put", str(at_rest), "--node", node.url]
        if limit == "size":
            # The largest file that this process may write; its output is a pipe.
            command = ["prlimit", "--fsize=40000", *command]
        done = subprocess.run(
            command, capture_output=True, env=environment({"XDG_CACHE_HOME": str(cache)})
        )
        assert done.returncode == 0
        lines = [line.split("  ", 1) for line in os.fsdecode(done.stdout).splitlines()]
        assert [(digest, path) for digest, path in lines] == expected(at_rest)
        assert done.stderr.count(b"\n") == 1
        assert b"the record of what was put before" in done.stderr


def test_rehash_is_a_flag(node: NodeProcess, at_rest: Path) -> None:
    one = at_rest / "0" / "0"
    for words in ([], ["--rehash"]):
        done = mesh("put", one, *words, "--node", node.url)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode().split() == [digest_of(one.read_bytes()).hex(), str(one)]
