"""`mesh store` on data directories, and `mesh scrub` and what `mesh status` says of rot."""

from __future__ import annotations

import json
import re
import sqlite3
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from mesh.core.digest import digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.store.care.rebuild import rebuild
from mesh.store.care.verify import Looked, Step, check
from mesh.store.files import DiskFiles
from tests.processes import fill, mesh, nodes, until

HEADER, SEGMENT_HEADER = 56, 40  # docstring of mesh/store/log/segments.py
BLOBS = [b"blob %d " % number + Random(number).randbytes(200) for number in range(50)]
LARGE = Random(50).randbytes(LARGE_BLOB + 1000)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory as a node leaves it: small blobs in their order, then a large one."""
    base = tmp_path_factory.mktemp("filled")
    with nodes() as start:
        node = start(base / "data")
        for data in (*BLOBS, LARGE):
            assert node.request("POST", "/v1/blobs", data)[0] == 201
        assert node.stop() == 0
    return base / "data"


@pytest.fixture
def data(filled: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    copy = tmp_path / "data"
    for path in sorted(filled.rglob("*")):
        target = copy / path.relative_to(filled)
        if path.is_dir():
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return copy


def store(command: str, data: Path, *options: str) -> tuple[int, str, str]:
    done = mesh("store", command, "--data", data, *options)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def segment(data: Path) -> Path:
    return data / "segments" / "00000001.seg"


def large(data: Path) -> Path:
    name = digest_of(LARGE).hex()
    return data / "large" / name[:2] / name


def place(number: int) -> int:
    """Where the record of a blob begins."""
    return SEGMENT_HEADER + sum(HEADER + len(data) for data in BLOBS[:number])


def snapshot(data: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in data.rglob("*") if path.is_file()}


# --- check -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--read-data",)])
def test_a_good_store_is_found_good_and_not_changed(data: Path, options: tuple[str, ...]) -> None:
    before = snapshot(data)
    code, out, _ = store("check", data, *options)
    assert code == 0, out
    assert re.fullmatch(r"51 blobs, 4\.0 MiB .*checked.*; 0 problems\n", out)
    after = snapshot(data)
    assert {k: v for k, v in after.items() if not k.endswith(("-shm", "-wal"))} == before


def test_damaged_bytes_are_found_by_reading_them(data: Path) -> None:
    flip(segment(data), place(7) + HEADER + 3)
    flip(large(data), 12345)
    assert store("check", data)[0] == 0, "without reading, bytes are not looked at"
    before = snapshot(data)
    code, out, err = store("check", data, "--read-data")
    assert code == 1
    lines = out.splitlines()
    assert len(lines) == 3
    assert lines[-1].endswith("2 problems")
    assert f"blob {digest_of(BLOBS[7]).hex()}: segments/00000001.seg at {place(7)}" in lines[0]
    assert "not what they were" in lines[0]
    assert f"blob {digest_of(LARGE).hex()}" in lines[1]
    assert "damaged from" in err
    assert snapshot(data).keys() >= before.keys()


def lose_row(data: Path) -> None:
    """A row that is gone, with an index that was made to fit."""
    index = sqlite3.connect(data / "index.sqlite")
    digest = digest_of(BLOBS[3])
    index.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
    index.commit()
    index.close()


DAMAGES = {
    "a record": (lambda data: flip(segment(data), place(9) + 20), "its record is damaged"),
    "a short segment": (lambda data: cut(segment(data), place(40)), "knows more than the log"),
    "a segment": (lambda data: segment(data).unlink(), "knows more than the log"),
    "a large file": (lambda data: large(data).unlink(), "No such file"),
    "a short large file": (lambda data: cut(large(data), 4_000_000), "ends at 4000000 of"),
    "no index": (lambda data: (data / "index.sqlite").unlink(), "the index is missing"),
    "garbage": (lambda data: (data / "index.sqlite").write_bytes(b"x" * 9999), "index is damaged"),
    "a lost row": (lose_row, "the index is damaged: its rows are not what was written"),
}


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("how", DAMAGES)
def test_what_is_not_where_it_should_be_is_found_without_reading_everything(
    data: Path, how: str
) -> None:
    damage, said = DAMAGES[how]
    damage(data)
    code, out, _ = store("check", data)
    assert code == 1
    assert said in out


# --- how far it is, and how it ended -----------------------------------------------------------


@pytest.mark.parametrize(("sums", "looks"), [(True, 3), (False, 1)])
def test_a_check_tells_how_far_it_is_also_inside_a_large_blob(
    data: Path, sums: bool, looks: int
) -> None:
    if not sums:  # its bytes are hashed then, from end to end
        large(data).with_name(large(data).name + ".sums").unlink()
    size = sum(map(len, BLOBS)) + len(LARGE)
    for read_data, step in ((False, Step.RECORDS), (True, Step.READ)):
        told: list[Looked] = []
        found = check(DiskFiles(data), data / "index.sqlite", told.append, read_data=read_data)
        assert list(found) == []
        of_step = [looked for looked in told if looked.step is step]
        assert of_step[-1] == Looked(step, 51, 51, size, size)
        assert all(a.bytes <= b.bytes for a, b in pairwise(of_step))
        inside = [looked for looked in of_step if looked.blobs == 50 and looked.bytes < size]
        assert len(inside) >= (looks if read_data else 0)
        assert read_data or not inside
    log = segment(data).stat().st_size
    assert told[0] == Looked(Step.INDEX, 51, 51)
    assert told[-1] == Looked(Step.LOG, bytes=log, total_bytes=log)


def test_a_rebuild_tells_how_far_it_is_after_each_mebibyte(tmp_path: Path) -> None:
    data = tmp_path / "data"
    fill(data, [Random(number).randbytes(300_000) for number in range(40)])
    read: list[tuple[int, int]] = []
    compared: list[tuple[int, int]] = []
    rebuild(
        DiskFiles(data),
        data / "index.sqlite",
        lambda *told: read.append(told),
        lambda *told: compared.append(told),
    )
    size = segment(data).stat().st_size
    assert read[-1] == (size, size)
    assert {total for _, total in read} == {size}
    assert all(0 <= b - a <= 2 * 1024 * 1024 for (a, _), (b, _) in pairwise(read))
    assert compared == [(0, 40)]


def test_a_check_and_a_rebuild_end_with_an_object(data: Path) -> None:
    assert store("check", data, "-q") == (0, "", "")
    flip(segment(data), place(7) + HEADER + 3)
    code, out, err = store("check", data, "--read-data", "--json-lines")
    assert code == 1
    assert "damaged from" in err
    problem, last = map(json.loads, out.splitlines())
    text = problem["text"]
    assert (problem["event"], problem["command"]) == ("problem", "store check")
    assert text.startswith(f"blob {digest_of(BLOBS[7]).hex()}: ")
    counts = {"ok": False, "blobs": 51, "read": True, "problems": 1, "texts": [text]}
    assert counts.items() <= last.items()
    code, out, err = store("check", data, "--read-data", "-q")
    assert (code, out, err) == (1, text + "\n", "")
    last = json.loads(store("rebuild", data, "--json")[1])
    assert last["ok"]
    assert last["note"].startswith("index rebuilt; 50 blobs")
    assert store("rebuild", data, "-q")[:2] == (0, "")
    code, out, _ = store("check", data / "large", "--json")
    assert code == 2
    assert json.loads(out)["ok"] is False


# --- rebuild -----------------------------------------------------------------------------------


@pytest.mark.parametrize("index", ["here", "missing", "garbage"])
def test_a_rebuild_keeps_what_is_good(data: Path, index: str) -> None:
    path = data / "index.sqlite"
    if index != "here":
        path.unlink()
    if index == "garbage":
        path.write_bytes(Random(1).randbytes(50_000))
    flip(segment(data), place(7) + HEADER + 3)
    code, out, err = store("rebuild", data)
    assert code == 0, err
    bad = HEADER + len(BLOBS[7])
    assert out == (
        f"index rebuilt; 50 blobs, 50 adopted from the log, {bad} damaged bytes left where they "
        "are, 1 wanted\n"
    )
    code, out, _ = store("check", data, "--read-data")
    assert code == 1, "a wanted blob is a problem until it is back"
    assert f"blob {digest_of(BLOBS[7]).hex()} is wanted" in out
    assert out.endswith("; 1 problem\n")


# --- stats -------------------------------------------------------------------------------------


def test_stats_count_what_is_there(data: Path) -> None:
    code, out, _ = store("stats", data, "--json")
    assert code == 0
    counted = json.loads(out)
    small = sum(map(len, BLOBS))
    assert counted["blobs"] == 51
    assert counted["bytes"] == small + len(LARGE)
    assert counted["large"] == 1
    assert counted["large_bytes"] == len(LARGE)
    assert counted["segments"] == 1
    assert counted["segment_bytes"] == segment(data).stat().st_size
    assert counted["dead"] == counted["wanted"] == counted["aside"] == 0
    flip(segment(data), place(7) + HEADER + 3)
    store("rebuild", data)
    counted = json.loads(store("stats", data, "--json")[1])
    assert counted["dead"] == HEADER + len(BLOBS[7])
    assert counted["wanted"] == 1
    text = store("stats", data)[1]
    assert "blobs     50, " in text
    assert "wanted    1" in text


@pytest.mark.parametrize("command", ["check", "rebuild", "stats"])
def test_a_directory_that_is_none_or_in_use_is_refused(tmp_path: Path, command: str) -> None:
    code, _, err = store(command, tmp_path / "nothing")
    assert code == 2
    assert "is not the data directory of a node" in err
    assert not (tmp_path / "nothing").exists()
    with nodes() as start:
        start(tmp_path / "data")
        code, _, err = store(command, tmp_path / "data")
    assert code == 2
    assert "belongs to a running node" in err
    assert err.count("\n") == 1


# --- a running node ----------------------------------------------------------------------------


def test_a_scrub_is_told_what_to_do_and_finds_rot(data: Path) -> None:
    flip(segment(data), place(7) + HEADER + 3)
    flip(large(data), 777)
    with nodes() as start:
        node = start(data)
        node.ready()

        def scrub(order: str, *options: str) -> str:
            done = mesh("scrub", order, "--node", node.url, *options)
            assert done.returncode == 0, done.stderr
            return done.stdout.decode()

        until(lambda: scrub("status").startswith("scrub: waiting; 0 of 51 blobs"))
        assert scrub("pause").startswith("scrub: paused")
        assert scrub("resume").startswith("scrub: waiting")
        assert "the next pass begins in" in scrub("status")
        assert scrub("start").startswith("scrub: running")
        until(lambda: json.loads(scrub("status", "--json"))["passes"] == 1)
        assert json.loads(scrub("status", "--json"))["before"]["damaged"] == 2
        until(lambda: node.status()["wanted_blobs"] == 2)
        assert node.status()["blobs"] == 49
        shown = mesh("status", "--node", node.url).stdout.decode()
        for each in (BLOBS[7], LARGE):
            assert re.search(f"wanted since 20.*Z:\n  {digest_of(each).hex()}\n", shown)
            assert node.request("GET", f"/v1/blobs/{digest_of(each).hex()}")[0] == 404
        failing = mesh("errors", "--node", node.url).stdout.decode()
        for each in (BLOBS[7], LARGE):
            row = f"{digest_of(each).hex()}\n  for [0-9]+ s: it was found damaged and has not"
            assert re.search(row, failing)
        code, _, _ = node.request("POST", "/v1/scrub/stop")
        assert code == 404
    assert sorted(path.stat().st_size for path in (data / "damaged").iterdir()) == [
        HEADER + len(BLOBS[7]),
        len(LARGE),
    ]
