"""The record of what was put: what it gives back is right or nothing, whatever happens to it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.cli.record import Note, Record, digest_in, record_file
from mesh.cli.stamp import STAMP_SIZE, is_settled, stamp_of
from mesh.core.digest import Digest, digest_of

SECOND = 10**9
NOW = 1_800_000_000 * SECOND


class Said(list[str]):
    """What the user was told."""

    def __call__(self, line: str) -> None:
        self.append(line)


def note(path: bytes, version: int = 0) -> Note:
    content = b"%s %d" % (path, version)
    return Note(path, digest_of(b"stamp " + content) + b"8 bytes.", digest_of(content))


def found(record: Record, note: Note) -> Digest | None:
    """The digest of the file of a note; by itself and with its directory, which do not differ.

    In a damaged record one of the two may find nothing.
    """
    directory, _, name = note.path.rpartition(b"/")
    alone = digest_in(record.file(directory, name), name, note.stamp)
    entries = record.directories([directory]).get(directory, {})
    listed = digest_in(entries.get(name), name, note.stamp)
    assert alone == listed or None in (alone, listed)
    return alone or listed


PATHS = st.builds(
    lambda parts: b"/" + b"/".join(parts),
    st.lists(st.sampled_from([b"a", b"b", b"\xff", b"a b", b"%", b"'"]), min_size=1, max_size=3),
)


@given(batches=st.lists(st.lists(st.tuples(PATHS, st.integers(0, 2)), max_size=5), max_size=5))
def test_it_remembers_the_last_of_each_file(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[bytes, int]]]
) -> None:
    file = str(tmp_path_factory.mktemp("record") / "record")
    said = Said()
    oracle: dict[bytes, int] = {}
    for batch in batches:
        record = Record(file, said)
        record.note(note(*each) for each in batch)
        oracle.update(batch)
        record.close()
    record = Record(file, said)
    for path, version in oracle.items():
        for tried in range(3):
            expected = note(path, version).digest if tried == version else None
            assert found(record, note(path, tried)) == expected
    record.close()
    assert said == []


def changed_status(**fields: int) -> os.stat_result:
    """A file of ten bytes that was last written to an hour before NOW, but for `fields`."""
    plain = {"mode": 0o100644, "ino": 7, "dev": 8, "nlink": 1, "uid": 0, "gid": 0, "size": 10}
    plain |= {"atime": 0, "mtime": 0, "ctime": 0}
    times = {"mtime_ns": NOW - 3600 * SECOND, "ctime_ns": NOW - 3600 * SECOND}
    values = {**plain, **times, **fields}
    return os.stat_result(
        [values[name] for name in plain],
        {"st_mtime_ns": values["mtime_ns"], "st_ctime_ns": values["ctime_ns"]},
    )


def test_a_stamp_is_another_one_after_any_change() -> None:
    fields = ["ino", "dev", "size", "mtime_ns", "ctime_ns"]
    stamps = {stamp_of(changed_status(**{field: value})) for field in fields for value in (1, 2)}
    assert len(stamps | {stamp_of(changed_status())}) == 11
    assert {len(stamp) for stamp in stamps} == {STAMP_SIZE}
    stamp_of(changed_status(mtime_ns=-5, ctime_ns=2**70))  # times that no clock shows


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"ctime_ns": NOW - 2 * SECOND}, True),
        ({"ctime_ns": NOW - 2 * SECOND + 1}, False),
        ({"ctime_ns": NOW + 3600 * SECOND}, False),
        ({"mtime_ns": NOW - 2 * SECOND + 1}, False),
        ({"mtime_ns": NOW + 2 * SECOND - 1}, False),
        ({"mtime_ns": NOW + 3600 * SECOND}, True),  # a camera whose clock is wrong
        ({"size": 0}, False),  # as of the files in /proc
    ],
)
def test_a_file_that_was_just_written_to_is_not_remembered(
    fields: dict[str, int], expected: bool
) -> None:
    assert is_settled(changed_status(**fields), NOW) is expected


def test_where_it_is() -> None:
    home = os.path.expanduser("~")
    assert record_file({"XDG_CACHE_HOME": "/cache"}, "1f") == "/cache/mesh/put-1f.sqlite"
    for environ in ({}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "relative"}):
        assert record_file(environ, "1f") == f"{home}/.cache/mesh/put-1f.sqlite"


# --- what may happen to it -------------------------------------------------------------------

NOTES = [note(b"/tree/%d/%d" % (number % 7, number)) for number in range(300)]


def written(file: Path) -> Path:
    said = Said()
    record = Record(str(file), said)
    record.note(NOTES)
    record.close()
    assert said == []
    return file


def check(file: Path) -> tuple[int, Said]:
    """How many of the notes are found, rightly, and what was said. It takes new ones after it."""
    said = Said()
    record = Record(str(file), said)
    digests = [found(record, each) for each in NOTES]
    record.note([note(b"/new")])
    record.close()
    assert all(got in (None, each.digest) for got, each in zip(digests, NOTES, strict=True))
    assert len(said) <= 1
    return len(digests) - digests.count(None), said


def test_a_record_that_is_sound(tmp_path: Path) -> None:
    assert check(written(tmp_path / "record")) == (len(NOTES), [])


@pytest.mark.parametrize("seed", range(60))
def test_bytes_of_it_that_rot_cost_entries_and_make_no_wrong_one(tmp_path: Path, seed: int) -> None:
    file = written(tmp_path / "record")
    random = Random(seed)
    content = bytearray(file.read_bytes())
    for _ in range(random.choice([1, 10, 1000])):
        content[random.randrange(len(content))] = random.randrange(256)
    file.write_bytes(content)
    check(file)
    check(file)


def test_an_entry_with_another_digest_is_not_believed(tmp_path: Path) -> None:
    """The one fault that would be told to the user as the truth."""
    file = written(tmp_path / "record")
    with sqlite3.connect(file) as other:
        for name, entry in other.execute("SELECT name, entry FROM files").fetchall():
            forged = entry[:STAMP_SIZE] + NOTES[0].digest + entry[STAMP_SIZE + 32 :]
            other.execute("UPDATE files SET entry = ? WHERE name = ?", (forged, name))
    other.close()
    assert check(file)[0] == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"not a database, but long enough to be none" * 100),
        lambda file: file.write_bytes(file.read_bytes()[:5000]),
        lambda file: file.write_bytes(b""),
        lambda file: file.unlink(),
    ],
    ids=["other bytes", "cut", "empty", "gone"],
)
def test_a_damaged_record_is_begun_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    file = written(tmp_path / "record")
    damage(file)
    check(file)
    check(file)
    written(file)
    assert check(file) == (len(NOTES), [])


def test_a_record_of_another_version_is_begun_anew(tmp_path: Path) -> None:
    file = written(tmp_path / "record")
    with sqlite3.connect(file) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    assert check(file) == (0, [])


def test_a_record_that_somebody_holds_is_left_alone(tmp_path: Path) -> None:
    file = written(tmp_path / "record")
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    count, said = check(file)
    assert count == 0
    assert "locked" in said[0]
    assert "not used this time" in said[0]
    other.execute("ROLLBACK")
    other.close()
    assert check(file) == (len(NOTES), [])


def test_a_place_that_cannot_be_written_to_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file" / "record", tmp_path):
        count, said = check(place)
        assert count == 0
        assert len(said) == 1
        assert str(place) in said[0]
