"""The walk: stable, lazy, byte-exact, and never through a link."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.cli.stamp import stamp_of
from mesh.cli.walk import (
    Found,
    FoundDirectory,
    FoundFile,
    FoundLink,
    Skipped,
    Unreadable,
    walk,
)


def paths(found: Iterator[Found]) -> list[bytes]:
    return [each.path for each in found]


def test_what_is_there_and_how(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o750)
    (tmp_path / "d" / "f").write_bytes(b"hello")
    (tmp_path / "d" / "f").chmod(0o640)
    (tmp_path / "link").symlink_to("d/f")
    root = os.fsencode(tmp_path)
    assert list(walk(tmp_path)) == [
        FoundDirectory(b"d", root + b"/d", 0o750),
        FoundFile(b"d/f", root + b"/d/f", 0o640, 5, stamp_of(os.lstat(root + b"/d/f"))),
        FoundLink(b"link", root + b"/link", b"d/f"),
    ]


def test_the_data_directory_of_a_node_is_passed_by(tmp_path: Path) -> None:
    data = tmp_path / "tree" / "data"
    (data / "segments").mkdir(parents=True)
    (data / "control.key").touch()
    # What only looks like one is what it is.
    assert b"data/control.key" in paths(walk(tmp_path / "tree"))
    (data / "node.json").touch()
    root, why = os.fsencode(tmp_path / "tree"), "is the data directory of a node"
    _, passed = walk(tmp_path / "tree")
    assert passed == Skipped(b"data", root + b"/data", why)
    assert list(walk(data)) == [Unreadable(b"", root + b"/data", why)]


def test_an_empty_directory(tmp_path: Path) -> None:
    assert list(walk(tmp_path)) == []


def test_the_order_is_that_of_whole_paths_as_bytes(tmp_path: Path) -> None:
    for directory in ("a", "a/b", "a-b", "a.b", "a0", "B", "é"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "x").touch()
    (tmp_path / "a-").touch()
    found = paths(walk(tmp_path))
    assert found == sorted(found)
    assert found[2:9] == [b"a", b"a-", b"a-b", b"a-b/x", b"a.b", b"a.b/x", b"a/b"]
    assert len(found) == 15


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    os.mkdir(root + b"/\xff")
    os.close(os.open(root + b"/\xff/\xfe\n", os.O_CREAT | os.O_WRONLY))
    os.symlink(b"\xfd", root + b"/l")
    assert paths(walk(tmp_path)) == [b"l", b"\xff", b"\xff/\xfe\n"]
    assert paths(walk(Path(os.fsdecode(root + b"/\xff")))) == [b"\xfe\n"]
    link = next(walk(tmp_path))
    assert isinstance(link, FoundLink)
    assert link.target == b"\xfd"


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "up").symlink_to("..")
    (tmp_path / "root").symlink_to("/")
    (tmp_path / "nowhere").symlink_to("missing")
    assert paths(walk(tmp_path)) == [b"d", b"d/up", b"nowhere", b"root"]


def test_a_link_that_the_user_names_is_followed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"hello")
    (tmp_path / "to-directory").symlink_to("d")
    (tmp_path / "to-file").symlink_to("d/f")
    assert paths(walk(tmp_path / "to-directory")) == [b"f"]
    (found,) = walk(tmp_path / "to-file")
    assert isinstance(found, FoundFile)
    assert (found.path, found.size) == (b"", 5)
    assert found.source == os.fsencode(tmp_path / "to-file")


@pytest.mark.parametrize("name", ["missing", "dangling", "file/x"])
def test_what_is_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "dangling").symlink_to("missing")
    (tmp_path / "file").touch()
    (found,) = walk(tmp_path / name)
    assert isinstance(found, Unreadable)
    assert found.path == b""
    assert found.reason in ("No such file or directory", "Not a directory")


def test_others_are_skipped_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        found = list(walk(Path()))
    assert found == [
        Skipped(b"fifo", b"./fifo", "is a FIFO"),
        Skipped(b"socket", b"./socket", "is a socket"),
    ]
    assert list(walk(Path("/dev/null"))) == [Skipped(b"", b"/dev/null", "is a character device")]


def test_an_unreadable_directory_is_said_and_passed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0)
    if os.access(tmp_path / "a", os.R_OK):
        pytest.skip("root may read everything")
    (tmp_path / "b").touch()
    found = list(walk(tmp_path))
    assert [type(each) for each in found] == [FoundDirectory, Unreadable, FoundFile]
    assert found[1] == Unreadable(b"a", os.fsencode(tmp_path / "a"), "Permission denied")


def test_what_vanishes_is_said_and_passed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").touch()
    (tmp_path / "c").touch()
    found = walk(tmp_path)
    assert isinstance(next(found), FoundDirectory)
    (tmp_path / "a").rmdir()
    (tmp_path / "b").unlink()
    gone = "No such file or directory"
    assert list(found) == [
        Unreadable(b"a", os.fsencode(tmp_path / "a"), gone),
        Unreadable(b"b", os.fsencode(tmp_path / "b"), gone),
        FoundFile(b"c", os.fsencode(tmp_path / "c"), *_seen(tmp_path / "c")),
    ]


def test_a_directory_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch()
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    found = walk(root)
    assert isinstance(next(found), FoundDirectory)
    (root / "a").rmdir()
    (root / "a").symlink_to(outside)
    (after,) = found
    assert isinstance(after, Unreadable)
    assert after.path == b"a"


def test_a_directory_is_read_only_when_it_is_reached(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    found = walk(tmp_path)
    assert next(found).path == b"a"
    (tmp_path / "c" / "late").touch()
    assert paths(found) == [b"b", b"c", b"c/late"]


def test_a_deep_tree_needs_few_descriptors(tmp_path: Path) -> None:
    tmp_path.joinpath(*["d"] * 200).mkdir(parents=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 4, hard))
    try:
        assert len(paths(walk(tmp_path))) == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _seen(path: Path) -> tuple[int, int, bytes]:
    status = path.stat()
    return status.st_mode & 0o7777, status.st_size, stamp_of(status)


def test_what_became_another_kind_since_its_directory_was_listed(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "gone").mkdir()
    (tmp_path / "late").touch()
    walked = walk(tmp_path)
    assert next(walked).path == b"a"
    (tmp_path / "gone").rmdir()
    (tmp_path / "late").unlink()
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "f").touch()
    gone = next(walked)
    assert isinstance(gone, Unreadable)
    assert gone.path == b"gone"
    # It is back, too late: its files would have no directory in a manifest.
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "f").touch()
    assert paths(walked) == [b"late", b"late/f"]
