"""Snapshots of trees: what `put --tree` leaves, `trees` lists on any node, and `get` takes."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from mesh.cli import get
from mesh.cli.forms import Form
from mesh.cli.progress import Progress
from mesh.cli.teller import Teller
from mesh.config import parse_peer
from mesh.core.digest import digest_of
from tests.processes import NodeProcess, free_places, mesh, nodes, until

Run = Callable[..., subprocess.CompletedProcess[bytes]]
HOST = socket.gethostname()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """Two nodes that list each other, and the second one a ghost."""
    base = tmp_path_factory.mktemp("pair")
    place, nobody = free_places(2)
    with nodes() as start:
        two = start(base / "two", "--name", "two", "--peers", f"one={place},ghost={nobody}")
        one = start(
            base / "one", "--name", "one", "--peers", f"two={two.place}", listen=place,
            backend="trio",
        )  # fmt: skip
        one.ready()
        two.ready()
        yield one, two


@pytest.fixture
def run(pair: tuple[NodeProcess, NodeProcess]) -> Run:
    def command(
        *args: str | bytes | Path, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        return mesh(*args, stdin=stdin, env={"MESH_NODE": pair[0].url})

    return command


def planted(root: Path) -> Path:
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"first")
    (root / "sub" / "12:30.txt").write_bytes(b"second")
    (root / "sub" / "deep" / "b.c").write_bytes(b"third")
    (root / "link").symlink_to("a.txt")
    (root / "a.txt").chmod(0o640)
    return root


def put(run: Run, root: Path, *flags: str) -> tuple[str, str, str]:
    """Manifest, snapshot and time of a tree that is put."""
    done = run("put", "--tree", root, *flags)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    manifest, snapshot = (line.split("  ", 1) for line in done.stdout.decode().splitlines()[-2:])
    assert manifest[1] == f"{root}/"
    match = re.fullmatch(re.escape(f"{root}/@") + r"(\S+Z)", snapshot[1])
    assert match is not None
    return manifest[0], snapshot[0], match[1]


def objects(run: Run, *words: str | Path) -> list[dict[str, Any]]:
    done = run("trees", "--json", *words)
    assert (done.returncode, done.stderr) == (0, b"")
    return json.loads(done.stdout)["snapshots"]


def error(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    """What a command that must fail with `code` said, in its one line on stderr."""
    said = done.stderr.decode()
    assert (done.returncode, said.count("\n"), said[:6]) == (code, 1, "mesh: "), said
    return said


# --- snapshots -----------------------------------------------------------------------------------


def test_a_tree_is_found_by_host_and_path_on_any_node(
    run: Run, pair: tuple[NodeProcess, NodeProcess], tmp_path: Path
) -> None:
    root = planted(tmp_path / "tree")
    manifest, first, _ = put(run, root, "--tag", "tägged")
    (root / "a.txt").write_bytes(b"changed")
    changed, second, time = put(run, root)
    assert manifest != changed
    newest, before = objects(run, "--path", root)
    assert (newest["digest"], before["digest"], before["tag"]) == (second, first, "tägged")
    assert newest == {
        "digest": second, "time": time, "host": HOST, "path": str(root), "files": 3, "bytes": 18,
        "manifest": changed,
    }  # fmt: skip
    table = run("trees", "--path", f"{root}/").stdout.decode().splitlines()
    assert [line.split()[2:] for line in table] == [
        [second[:12], "3", "18", "B", f"{HOST}{root}"],
        [first[:12], "3", "16", "B", f"{HOST}{root}", "(tägged)"],
    ]
    assert [one["digest"] for one in objects(run, "--tag", "tägged")] == [first]
    assert [one["digest"] for one in objects(run, "--path", root, "--last", "1")] == [second]
    assert objects(run, "--path", root, "--host", "elsewhere") == []
    # The other node has them too, and knows the newest.
    other = {"MESH_NODE": pair[1].url}
    until(lambda: len(mesh("trees", "--path", root, env=other).stdout.splitlines()) == 2)
    for name in (f"latest:{HOST}{root}", f"latest:{root}", second, second[:9], changed):
        target = tmp_path / f"restored {name.replace('/', ' ')[-40:]}"
        done = mesh("get", "--tree", name, target, env=other)
        assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
        assert (target / "a.txt").read_bytes() == b"changed"
    assert mesh("get", f"{first}:a.txt", env=other).stdout == b"first"
    assert mesh("get", f"latest:{root}:a.txt", env=other).stdout == b"changed"


def test_equal_trees_have_one_manifest_and_a_snapshot_each(run: Run, tmp_path: Path) -> None:
    one, two = planted(tmp_path / "one"), planted(tmp_path / "two")
    manifests, snapshots, _ = zip(put(run, one), put(run, two), put(run, one), strict=True)
    assert len(set(manifests)) == 1
    assert len(set(snapshots)) == 3


def test_a_container_may_be_given_the_name_of_its_host(run: Run, tmp_path: Path) -> None:
    root = planted(tmp_path / "tree")
    _, snapshot, _ = put(run, root, "--host", "atlas")
    assert [one["host"] for one in objects(run, "--path", root)] == ["atlas"]
    assert snapshot in run("trees", "--host", "atlas", "--json").stdout.decode()
    for host in ("a/b", "h" * 256):
        error(run("put", "--tree", root, "--host", host), 2)
    error(run("put", root, "--host", "atlas"), 2)


def test_a_dry_run_leaves_no_snapshot(run: Run, tmp_path: Path) -> None:
    root = planted(tmp_path / "tree")
    assert run("put", "--tree", "--dry-run", root).returncode == 0
    assert objects(run, "--path", root) == []


def test_a_name_that_is_no_text_is_listed_and_found(run: Run, tmp_path: Path) -> None:
    root = os.fsencode(tmp_path) + b"/caf\xe9\x1b[31m"
    os.mkdir(root)
    assert run("put", "--tree", root).returncode == 0
    (line,) = run("trees", "--path", root).stdout.splitlines()
    assert line.isascii()
    assert b"\x1b" not in line
    (found,) = json.loads(run("trees", "--json", "--path", root).stdout)["snapshots"]
    assert bytes.fromhex(found["path_hex"]) == root
    assert run("get", "--tree", b"latest:" + root, "--list").returncode == 0


def test_a_tag_or_a_path_without_room_is_refused_before_anything_is_sent(
    run: Run, pair: tuple[NodeProcess, NodeProcess], tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"never sent with such a tag")
    error(run("put", "--tree", tmp_path / "tree", "--tag", "t" * 256), 2)
    error(run("put", tmp_path / "tree", "--tag", "t"), 2)
    name = digest_of(b"never sent with such a tag").hex()
    assert pair[0].request("HEAD", f"/v1/blobs/{name}")[0] == 404


def test_what_a_liar_puts_is_listed_for_what_it_says(run: Run) -> None:
    lie = {
        "bytes": 2**63 - 1, "files": 0, "host": "liar\x1b[2J\n", "manifest": "0" * 64,
        "mesh": "snapshot", "path": "/\u202e/../etc", "tag": "\x07",
        "time": "9999-12-31T23:59:59.999Z", "version": 1,
    }  # fmt: skip
    text = json.dumps(lie, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n"
    digest = run("put", "-", stdin=text.encode()).stdout.split()[0].decode()
    first = run("trees", "--last", "1").stdout.decode()
    assert digest[:12] in first
    assert first.count("\n") == 1
    assert first.rstrip("\n").isprintable()
    shown = run("show", digest).stdout.decode()
    assert all(line.isprintable() for line in shown.splitlines())
    assert "missing" not in error(run("get", "--tree", digest, "nowhere"), 1)


def test_snapshots_come_in_pages(
    run: Run, pair: tuple[NodeProcess, NodeProcess], tmp_path: Path
) -> None:
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        put(run, tmp_path / str(number))
    everything = objects(run)
    assert len(everything) >= 5
    paged: list[dict[str, Any]] = []
    after = ""
    while True:
        _, _, body = pair[0].request("GET", f"/v1/snapshots?limit=2&after={after}")
        page = json.loads(body)
        paged += page["snapshots"]
        if page["next"] is None:
            break
        after = page["next"]
    assert paged == everything
    lines = [json.loads(line) for line in run("trees", "--json-lines").stdout.splitlines()]
    assert lines.pop() == {"event": "summary", "command": "trees", "count": len(everything)}
    assert lines == [{"event": "snapshot", **one} for one in everything]
    times = [one["time"] for one in everything]
    assert times == sorted(times, reverse=True)


BAD = (
    "limit=0", "limit=1001", "after=x", "after=2026-11-30T00:00:00.000Z", "host=", "path_hex=2",
    "after=2026-13-30T00:00:00.000Z," + "0" * 64, "path=/a&path_hex=2fff", "tag=" + "t" * 9000,
)  # fmt: skip


@pytest.mark.parametrize("query", BAD, ids=range(len(BAD)))
def test_a_bad_question_for_snapshots_is_400(
    pair: tuple[NodeProcess, NodeProcess], query: str
) -> None:
    code, _, body = pair[0].request("GET", f"/v1/snapshots?{query}")
    assert (code, bool(json.loads(body)["error"])) == (400, True)


# --- what is in a tree ---------------------------------------------------------------------------


def test_a_tree_is_listed_without_its_files(run: Run, tmp_path: Path) -> None:
    root = planted(tmp_path / "tree")
    manifest, snapshot, _ = put(run, root)
    lines = run("get", "--tree", snapshot[:10], "--list").stdout.decode().splitlines()
    assert [line.split(None, 2) for line in lines] == [
        ["-rw-r-----", "5", "a.txt"],
        ["lrwxrwxrwx", "-", "link -> a.txt"],
        ["drwxr-xr-x", "-", "sub/"],
        ["-rw-r--r--", "6", "sub/12:30.txt"],
        ["drwxr-xr-x", "-", "sub/deep/"],
        ["-rw-r--r--", "5", "sub/deep/b.c"],
    ]
    listed = json.loads(run("get", "--tree", snapshot, "--list", "--json").stdout)
    blob = json.loads(run("get", manifest).stdout)
    assert (listed["manifest"], listed["entries"]) == (manifest, blob["entries"])
    events = [
        json.loads(line)
        for line in run("get", "--tree", snapshot, "--list", "--json-lines").stdout.splitlines()
    ]
    assert events.pop()["count"] == len(events)
    assert events == [{"event": "entry", **entry} for entry in blob["entries"]]
    some = run("get", "--tree", manifest, "--list", "--include", "*.c").stdout.decode()
    assert [line.split()[-1] for line in some.splitlines()] == ["sub/", "sub/deep/", "sub/deep/b.c"]


@pytest.mark.parametrize(
    ("globs", "files"),
    [
        (["*.txt"], ["a.txt", "sub/12:30.txt"]),
        (["/sub"], ["sub/12:30.txt", "sub/deep/b.c"]),
        (["deep", "link"], ["link", "sub/deep/b.c"]),
        (["sub/*.c"], None),
    ],
)
def test_a_part_of_a_tree_is_restored(
    run: Run, tmp_path: Path, globs: list[str], files: list[str] | None
) -> None:
    _, snapshot, _ = put(run, planted(tmp_path / "tree"))
    target = tmp_path / "target"
    flags = [word for glob in globs for word in ("--include", glob)]
    done = run("get", "--tree", snapshot, target, *flags)
    if files is None:
        error(done, 1)
        assert not target.exists()
        return
    assert (done.returncode, done.stderr) == (0, b"")
    found = [path for path in target.rglob("*") if path.is_symlink() or path.is_file()]
    assert sorted(str(path.relative_to(target)) for path in found) == files


def test_one_file_of_a_tree_is_fetched(run: Run, tmp_path: Path) -> None:
    manifest, snapshot, _ = put(run, planted(tmp_path / "tree"))
    for tree in (manifest[:8], snapshot):
        assert run("get", f"{tree}:sub/12:30.txt").stdout == b"second"
    assert run("get", f"{snapshot}:/sub/deep/b.c", "-o", tmp_path / "out").returncode == 0
    assert (tmp_path / "out").read_bytes() == b"third"
    assert "directory" in error(run("get", f"{snapshot}:sub"), 2)
    assert "a.txt" in error(run("get", f"{snapshot}:link"), 2)
    assert "not in the tree" in error(run("get", f"{snapshot}:sub/none"), 1)
    error(run("get", f"{digest_of(b'first').hex()}:x"), 2)
    for nothing in (":", ":/"):
        assert "--tree" in error(run("get", f"{snapshot}{nothing}"), 2)


class Meddling(Teller):
    """Somebody else restores the same tree: all but the first file is there once that is."""

    def __init__(self, root: Path, into: Path) -> None:
        super().__init__(Form(quiet=True), "get", "files")
        self._files = root, into

    def update(self, progress: Progress) -> None:
        if progress.what == "restoring":
            root, into = self._files
            for name in ("b", "large"):
                (into / name).write_bytes((root / name).read_bytes())


def test_two_restores_of_one_tree_into_one_directory(
    run: Run, pair: tuple[NodeProcess, NodeProcess], tmp_path: Path
) -> None:
    root, into = tmp_path / "tree", tmp_path / "into"
    root.mkdir()
    for name, data in (("a", b"first"), ("b", b"second"), ("large", bytes(5 * 1024 * 1024))):
        (root / name).write_bytes(data)
    manifest, _, _ = put(run, root)
    teller = Meddling(root, into)
    restore = partial(get.get_tree, teller=teller, force=False)
    assert anyio.run(restore, parse_peer(pair[0].url), manifest, into)


def test_the_root_is_a_directory_and_not_any(run: Run, tmp_path: Path) -> None:
    put(run, planted(tmp_path / "tree"), "--host", "rooted")
    assert "mesh trees" in error(run("get", "--tree", "latest:rooted/", "--list"), 1)
    said = {"mesh": "snapshot", "version": 1, "manifest": "0" * 64, "host": "rooted", "path": "/"}
    said |= {"files": 0, "bytes": 0, "time": "2026-01-01T00:00:00.000Z"}
    snapshot = json.dumps(said, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    run("put", "-", stdin=snapshot)
    for name in ("latest:rooted/", "latest:/"):
        assert "0" * 64 in error(run("get", "--tree", name, "--list"), 1)


def test_two_slashes_at_the_beginning_are_one(run: Run, tmp_path: Path) -> None:
    root = planted(tmp_path / "tree")
    _, snapshot, _ = put(run, Path(f"/{root}"))
    assert run("put", "--tree", f"/{root}", "--json").returncode == 0
    assert [one["path"] for one in objects(run, "--path", root)] == [str(root)] * 2
    assert snapshot in [one["digest"] for one in objects(run, "--path", f"/{root}")]


def test_whatever_tag_and_host_were_given_are_found(run: Run, tmp_path: Path) -> None:
    given = {"--tag": "before\xa0noon\t", "--host": "tab\there"}
    options = [word for pair in given.items() for word in pair]
    _, snapshot, _ = put(run, planted(tmp_path / "tree"), *options)
    assert [one["digest"] for one in objects(run, *options)] == [snapshot]
    assert "UTF-8" in error(run("trees", "--tag", b"\xff"), 2)


def test_a_directory_that_was_removed_under_the_command(
    pair: tuple[NodeProcess, NodeProcess], tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    for words in ("put --tree .", "put .", "trees --path x"):
        gone.mkdir()
        script = f'cd "$1" && rmdir "$1" && exec "$2" -m mesh {words}'
        done = subprocess.run(
            ["sh", "-c", script, "sh", gone, sys.executable],
            env={**os.environ, "MESH_NODE": pair[0].url},
            capture_output=True,
            check=False,
        )
        assert "current directory has been removed" in error(done, 2)


def test_what_names_no_tree(run: Run, tmp_path: Path) -> None:
    _, snapshot, _ = put(run, planted(tmp_path / "tree"))
    assert "mesh trees" in error(run("get", "--tree", "latest:nohost/no/path", tmp_path / "t"), 1)
    error(run("get", "--tree", "latest:", tmp_path / "t"), 2)
    assert "--tree" in error(run("get", f"latest:{tmp_path}/tree"), 2)
    assert "--include" in error(run("get", "--tree", f"{snapshot}:sub", tmp_path / "t"), 2)
    error(run("get", "--tree", digest_of(b"first").hex(), tmp_path / "t"), 2)
    for words in (["--list"], ["--include", "*"], ["--json", "--list"]):
        assert run("get", snapshot, *words).returncode == 2
    error(run("get", "--tree", snapshot, "--list", tmp_path / "t"), 2)
    error(run("get", "--tree", snapshot, "-o", tmp_path / "t"), 2)
    assert not (tmp_path / "t").exists()


# --- has and show --------------------------------------------------------------------------------


def test_has_says_what_is_here_and_on_how_many_peers(
    run: Run, pair: tuple[NodeProcess, NodeProcess]
) -> None:
    name = run("put", "-", stdin=b"on both").stdout.split()[0].decode()
    until(lambda: pair[1].request("HEAD", f"/v1/blobs/{name}")[0] == 200)
    done = run("has", name, name[:7].upper())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == [f"{name}  here      1 of 1 peers"] * 2
    ghostly = mesh("has", name, env={"MESH_NODE": pair[1].url}).stdout.decode()
    assert ghostly == f"{name}  here      1 of 2 peers, ? at ghost\n"
    lacked = "0" * 64
    done = run("has", lacked, name, "0000001")
    assert done.returncode == 1
    assert done.stdout.decode().splitlines() == [
        f"{lacked}  not here  0 of 1 peers",
        f"{name}  here      1 of 1 peers",
        "0000001  not here",
    ]
    told = json.loads(mesh("has", name, "--json", env={"MESH_NODE": pair[1].url}).stdout)
    assert told["blobs"] == [{"digest": name, "here": True, "peers": 1}]
    assert (told["peers"], [each["peer"] for each in told["silent"]]) == (2, ["ghost"])
    first, last = map(json.loads, run("has", name, "--json-lines").stdout.splitlines())
    assert first == {"event": "blob", "digest": name, "here": True, "peers": 1}
    assert (last["command"], last["ok"], last["count"], last["silent"]) == ("has", True, 1, [])


def test_has_reads_thousands_of_names_as_other_programs_print_them(
    run: Run, tmp_path: Path
) -> None:
    planted(tmp_path / "tree")
    printed = run("put", tmp_path / "tree").stdout
    many = b"".join(b"%s  file %d\n" % (b"%064x" % number, number) for number in range(5000))
    assert run("has", "-", stdin=printed + b"\n" + b"\\" + printed).returncode == 0
    done = run("has", "-", stdin=printed + many)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len(lines) == 5000 + len(printed.splitlines())
    assert [b"not here" in line for line in lines] == [False] * 3 + [True] * 5000
    error(run("has", "-", stdin=b"no digest here\n"), 2)
    error(run("has"), 2)


def test_show_says_what_a_blob_is_and_where(
    run: Run, pair: tuple[NodeProcess, NodeProcess], tmp_path: Path
) -> None:
    root = planted(tmp_path / "tree")
    large = bytes(5 * 1024 * 1024 + 1)
    (root / "large").write_bytes(large)
    manifest, snapshot, time = put(run, root)
    told = {
        name: json.loads(run("show", name, "--json").stdout)
        for name in (manifest, snapshot, digest_of(b"first").hex(), digest_of(large).hex())
    }
    assert [one["kind"] for one in told.values()] == ["manifest", "snapshot", "blob", "blob"]
    assert told[manifest]["manifest"] == {
        "files": 4, "bytes": 16 + len(large), "directories": 2, "links": 1,
    }  # fmt: skip
    said = told[snapshot]["snapshot"]
    assert (said["time"], said["path"], said["manifest"]) == (time, str(root), manifest)
    for name, one in told.items():
        data = pair[0].data / one["file"]
        at = one["offset"]
        body = data.read_bytes() if at is None else data.read_bytes()[at + 56 :][: one["size"]]
        assert digest_of(body).hex() == name == one["digest"]
        assert (one["pieces"] is not None) == (one["size"] > 4_000_000)
        assert one["came"][:4] == time[:4]
    lines = dict(
        line.split(None, 1) for line in run("show", snapshot[:8]).stdout.decode().splitlines()
    )
    assert (lines["kind"], lines["host"], lines["manifest"]) == ("snapshot", HOST, manifest)
    assert "is not on" in error(run("show", "0" * 64), 1)
