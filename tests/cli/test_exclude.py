"""Patterns of what is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesh.cli.exclude import exclusion
from mesh.cli.walk import walk
from mesh.errors import InputError


@pytest.mark.parametrize(
    ("glob", "out", "kept"),
    [
        ("*.o", [b"a.o", b"d/e/a.o", b".o"], [b"a.oo", b"a", b"a.o/b"]),
        (".git", [b".git", b"sub/.git"], [b".gitignore", b"x.git"]),
        ("/build", [b"build"], [b"d/build", b"builds"]),
        ("build/", [b"build", b"d/build"], [b"builds"]),
        ("docs/*.pdf", [b"docs/a.pdf"], [b"docs/d/a.pdf", b"x/docs/a.pdf", b"a.pdf"]),
        ("docs/**/*.pdf", [b"docs/a.pdf", b"docs/d/e/a.pdf"], [b"docs/a.txt"]),
        ("**/x", [b"x", b"a/b/x"], [b"ax", b"x/a"]),
        ("a?c", [b"abc", b"d/a\nc"], [b"ac", b"abbc", b"a/c"]),
        ("[a-c]x", [b"ax", b"d/cx"], [b"dx", b"x"]),
        ("[!a-c]x", [b"dx"], [b"ax", b"/x"]),
        ("[]]x", [b"]x"], [b"x"]),
        ("[^]x", [b"^x"], [b"x"]),
        ("a.b", [b"a.b"], [b"acb"]),
        ("a[", [b"a["], [b"a"]),
        ("\udcff*", [b"\xff", b"\xffa"], [b"a"]),
    ],
)
def test_a_pattern(glob: str, out: list[bytes], kept: list[bytes]) -> None:
    excluded = exclusion([glob], [])
    assert [path for path in out if not excluded(path)] == []
    assert [path for path in kept if excluded(path)] == []


def test_patterns_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "patterns"
    file.write_bytes(b"# objects\n*.o\n\n/build\r\n")
    excluded = exclusion(["*.tmp"], [str(file)])
    assert [excluded(path) for path in (b"a.o", b"build", b"d/a.tmp", b"# objects", b"a")] == [
        True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("glob", ["/", "//", "[z-a]"])
def test_what_is_no_pattern_is_refused(glob: str) -> None:
    with pytest.raises(InputError, match="pattern"):
        exclusion([glob], [])


def test_a_file_of_patterns_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"cannot read {tmp_path}: Is a directory"):
        exclusion([], [str(tmp_path)])


def test_what_is_no_file_of_patterns_is_not_read_to_its_end() -> None:
    with pytest.raises(InputError, match="/dev/zero has more than 1048576 bytes; expected"):
        exclusion([], ["/dev/zero"])


def test_what_is_left_out_is_not_even_looked_at(tmp_path: Path) -> None:
    for name in ("keep/a.o", "keep/b", "leave/deep/c", "d.o"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    asked: list[bytes] = []
    pattern = exclusion(["leave", "*.o"], [])

    def excluded(path: bytes) -> bool:
        asked.append(path)
        return pattern(path)

    assert [found.path for found in walk(tmp_path, excluded)] == [b"keep", b"keep/b"]
    assert b"leave/deep" not in asked


@pytest.mark.skipif(not os.path.ismount("/proc"), reason="/proc is not mounted")
def test_another_file_system_is_not_gone_into() -> None:
    looked = walk("/", lambda path: path != b"proc" and path.count(b"/") == 0, one_file_system=True)
    assert [found.path for found in looked] == [b"proc"]
