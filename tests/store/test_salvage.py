"""What only an index knows is in the log before that index is thrown away, whatever happens."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mesh.core.digest import Digest, digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.errors import Full, StoreError
from mesh.store.base import Blob, Damage
from mesh.store.care import rebuild as rebuilding
from mesh.store.care.rebuild import rebuild
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles
from mesh.store.layout import large_name
from mesh.store.log.index import Index, State
from mesh.store.log.segments import RECORD_HEADER, SEGMENT_HEADER
from mesh.store.writing import Writer
from tests.store.faulty import Killed
from tests.store.test_repair import (
    BLOBS,
    LARGE,
    NAMES,
    RECORD,
    expect,
    fill,
    flip,
    opened,
    wanted_of,
    without_index,
)

pytestmark = pytest.mark.anyio

ONE_SEGMENT = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    """Inline work never leaves the event loop: which one it is makes no difference here."""
    return "asyncio"


def spoil(path: Path, number: int, *, body: bool) -> None:
    """No header of this record can be read, so that the log alone does not name its blob."""
    start = SEGMENT_HEADER + number * RECORD
    flip(path, start + 20, 0xFF)
    if body:
        flip(path, start + RECORD_HEADER + 5)


def wrong_row(root: Path) -> None:
    """Another program changes a row: the index is not what was written."""
    with sqlite3.connect(root / "index.sqlite") as index:
        index.execute("UPDATE blobs SET size = size + 1 WHERE digest = ?", (NAMES[3],))
    index.close()


async def put_large(store: DiskStore, data: bytes = LARGE) -> Digest:
    async with store.incoming() as arriving:
        await arriving.write(data)
        await store.commit([await arriving.finish()])
    return digest_of(data)


async def start(root: Path) -> None:
    async with opened(root):
        pass


def full(_writer: Writer) -> str:
    raise Full("there is no room for an index")


def killed(*_args: object) -> None:
    raise Killed


def and_then_killed(act: Callable[..., None], *args: object) -> None:
    act(*args)
    raise Killed


# --- a rebuild by hand --------------------------------------------------------------------------


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("body", [True, False])
async def test_a_rebuild_cuts_and_forgets_nothing_that_a_good_index_knows(
    tmp_path: Path, *, last: bool, body: bool
) -> None:
    root = tmp_path / "data"
    (path,) = await fill(root, ONE_SEGMENT)
    number = 19 if last else 7
    spoil(path, number, body=body)
    rotten = path.read_bytes()
    for _ in range(2):  # what the first one wants, the second one does not forget
        rebuild(DiskFiles(root), root / "index.sqlite", lambda *_: None)
    assert path.read_bytes() == rotten
    assert not list(root.glob("index.new*"))
    assert len(list((root / "segments").iterdir())) == 2  # the second rebuild wrote nothing
    for _ in range(2):  # the log alone tells it now
        async with opened(root) as (store, _said):
            await expect(store, {NAMES[number]} if body else set())
        without_index(root)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_rebuild_that_is_killed_as_it_ends_forgets_nothing(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    (path,) = await fill(root, ONE_SEGMENT)
    spoil(path, 7, body=True)
    real = rebuilding._replace
    kill = killed if moment == "before" else partial(and_then_killed, real)
    monkeypatch.setattr(rebuilding, "_replace", kill)
    with pytest.raises(Killed):
        rebuild(DiskFiles(root), root / "index.sqlite", lambda *_: None)
    without_index(root)  # even when the disk forgets which of the two it was
    async with opened(root) as (store, _):
        await expect(store, {NAMES[7]})


@pytest.mark.parametrize("what", ["a file", "a link", "a directory"])
async def test_a_new_index_that_is_left_over_is_never_written_through(
    tmp_path: Path, what: str
) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside"
    await fill(root)
    fresh = root / "index.new"
    if what == "a file":
        fresh.write_bytes(b"half an index")
        (root / "index.new-wal").write_bytes(b"and its log")
        rebuild(DiskFiles(root), root / "index.sqlite", lambda *_: None)
        assert not list(root.glob("index.new*"))
    else:
        fresh.mkdir() if what == "a directory" else fresh.symlink_to(outside)
        with pytest.raises(StoreError, match=r"index\.new"):
            rebuild(DiskFiles(root), root / "index.sqlite", lambda *_: None)
        assert not outside.exists()
    async with opened(root) as (store, said):
        assert said == "20 blobs"
        await expect(store, set())


def no_room(_index: Index) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_rebuild_without_room_for_two_indexes_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    (path,) = await fill(root, ONE_SEGMENT)
    flip(path, SEGMENT_HEADER + 20 * RECORD - 5)
    before = (root / "index.sqlite").read_bytes()
    monkeypatch.setattr(Index, "settle", no_room)
    with pytest.raises(Full, match="cannot rebuild the index"):
        rebuild(DiskFiles(root), root / "index.sqlite", lambda *_: None)
    assert (root / "index.sqlite").read_bytes() == before
    assert not list(root.glob("index.new*"))


async def test_a_start_removes_what_a_killed_rebuild_left(tmp_path: Path) -> None:
    root = tmp_path / "data"
    await fill(root)
    for name in ("index.new", "index.new-wal", "index.new-shm"):
        (root / name).write_bytes(b"half of it")
    async with opened(root) as (store, said):
        assert said == "20 blobs"
        await expect(store, set())
    assert not list(root.glob("index.new*"))


# --- a start --------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_start_that_is_killed_as_it_throws_an_index_away_forgets_nothing(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    (path,) = await fill(root, ONE_SEGMENT)
    path.write_bytes(path.read_bytes()[: SEGMENT_HEADER + 15 * RECORD + 10])
    spoil(path, 3, body=True)
    spoil(path, 4, body=False)
    real = rebuilding.remove_index
    kill = killed if moment == "before" else partial(and_then_killed, real)
    with monkeypatch.context() as patched:
        patched.setattr("mesh.store.writing.remove_index", kill)
        with pytest.raises(Killed):
            await start(root)
    async with opened(root) as (store, _):
        await expect(store, {NAMES[3], *NAMES[15:]})


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("table", ["blobs", "places", "state", "wanted", "notes"])
async def test_a_start_with_a_page_of_the_index_gone_serves_and_wants_all_the_same(
    tmp_path: Path, table: str, *, read_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    path, *_ = await fill(root, ONE_SEGMENT)
    flip(path, SEGMENT_HEADER + 7 * RECORD + RECORD_HEADER)
    async with opened(root, ONE_SEGMENT) as (store, _):
        await store.discard([Damage(NAMES[7], "rotten")])
    index = sqlite3.connect(root / "index.sqlite")
    (page,) = index.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,))
    (size,) = index.execute("PRAGMA page_size").fetchone()
    index.close()
    data = bytearray((root / "index.sqlite").read_bytes())
    data[(page[0] - 1) * size : page[0] * size] = bytes(size)
    (root / "index.sqlite").write_bytes(data)
    if read_only:
        monkeypatch.setattr(Writer, "_open_on_disk", full)
    async with opened(root, ONE_SEGMENT) as (store, said):
        assert said.startswith("the disk takes no writes") == read_only
        await store.tree()
        await expect(store, {NAMES[7]})


@pytest.mark.parametrize("name", ["reason", "since", "value", "offset", "salt", "wanted", "notes"])
async def test_a_start_with_another_name_in_the_schema_makes_the_index_anew(
    tmp_path: Path, name: str
) -> None:
    root = tmp_path / "data"
    await fill(root)
    data = (root / "index.sqlite").read_bytes()
    other = name[:-1] + chr(ord(name[-1]) ^ 1)
    (root / "index.sqlite").write_bytes(data.replace(name.encode(), other.encode()))
    async with opened(root) as (store, said):
        assert said.startswith("index was damaged")
        await expect(store, set())


@pytest.mark.parametrize("left", [0, 2])
async def test_the_blobs_of_a_newest_segment_that_is_gone_are_wanted(
    tmp_path: Path, left: int
) -> None:
    root = tmp_path / "data"
    paths = await fill(root)
    for path in paths[left:]:
        path.unlink()
    kept = sum((path.stat().st_size - SEGMENT_HEADER) // RECORD for path in paths[:left])
    for _ in range(2):
        async with opened(root) as (store, _said):
            await expect(store, set(NAMES[kept:]))


async def test_when_the_whole_log_is_gone_all_is_wanted_until_it_is_put_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "data"
    await fill(root)
    (root / "segments").rename(tmp_path / "away")
    async with opened(root) as (store, _said):
        await expect(store, set(NAMES))
    assert f"only the index knew of {len(NAMES)} blobs: 0 written anew" in caplog.text
    assert "ERROR" in caplog.text
    shutil.rmtree(root / "segments")
    (tmp_path / "away").rename(root / "segments")
    async with opened(root) as (store, _said):
        await expect(store, set())


@pytest.mark.parametrize("exchanged", [False, True])
async def test_a_newest_segment_is_missed_beside_segments_that_were_exchanged(
    tmp_path: Path, *, exchanged: bool
) -> None:
    root = tmp_path / "data"
    *paths, newest = await fill(root)
    kept = sum((path.stat().st_size - SEGMENT_HEADER) // RECORD for path in paths)
    newest.unlink()
    if exchanged:
        second, third = paths[-2].read_bytes(), paths[-1].read_bytes()
        paths[-2].write_bytes(third)
        paths[-1].write_bytes(second)
    async with opened(root) as (store, _):
        await expect(store, set(NAMES[kept:]))


@pytest.mark.parametrize("also", ["", "cut", "spoiled"])
async def test_blobs_of_segments_that_were_exchanged_are_served_or_wanted(
    tmp_path: Path, also: str
) -> None:
    """The newest one is at another place, so that the index looks like that of another log."""
    root = tmp_path / "data"
    one, *_, newest = await fill(root)
    first, last = one.read_bytes(), newest.read_bytes()
    one.write_bytes(last)
    newest.write_bytes(first)
    lost: set[Digest] = set()
    if also == "cut":
        newest.write_bytes(first[: SEGMENT_HEADER + 2 * RECORD])
        lost = set(NAMES[2 : (len(first) - SEGMENT_HEADER) // RECORD])
    elif also == "spoiled":
        spoil(one, 0, body=True)
        lost = {NAMES[-((len(last) - SEGMENT_HEADER) // RECORD)]}
    for _ in range(2):
        async with opened(root) as (store, _said):
            await expect(store, lost)
        without_index(root)


async def test_nothing_of_another_logs_index_is_wanted(tmp_path: Path) -> None:
    root, other = tmp_path / "data", tmp_path / "other"
    await fill(root)
    async with opened(other) as (store, _):
        for data in BLOBS * 2:
            turned = data[::-1] + b"x"
            await store.commit([Blob(digest_of(turned), turned)])
        for number in range(60):
            data = b"%d" % number * 300
            await store.commit([Blob(digest_of(data), data)])
    without_index(root)
    shutil.copy(other / "index.sqlite", root / "index.sqlite")
    async with opened(root) as (store, said):
        assert said.startswith("index was newer than the log, rebuilt; 20 blobs")
        await expect(store, set())


# --- a running store ------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [True, False])
@pytest.mark.parametrize("number", [7, 19])
async def test_a_rebuild_under_a_running_node_keeps_or_wants_what_the_log_does_not_name(
    tmp_path: Path, number: int, *, body: bool
) -> None:
    root = tmp_path / "data"
    async with opened(root, ONE_SEGMENT) as (store, _):
        await store.commit([Blob(*each) for each in zip(NAMES, BLOBS, strict=True)])
        (path,) = (root / "segments").iterdir()
        spoil(path, number, body=body)
        rotten = path.read_bytes()
        wrong_row(root)
        await store.tree()  # meets the wrong row
        await expect(store, {NAMES[number]} if body else set())
        assert path.read_bytes() == rotten


@pytest.mark.parametrize(
    "wrong",
    [
        "digest = zeroblob(32)",
        "size = size + 1",
        "size = 1 << 62",
        "offset = offset + 1",
        "offset = 9223372036854775000",
        "segment = segment + 1000000",
    ],
)
@pytest.mark.parametrize("how", ["start", "rebuild"])
async def test_a_wrong_row_of_an_index_makes_no_want(tmp_path: Path, wrong: str, how: str) -> None:
    root = tmp_path / "data"
    await fill(root)
    with sqlite3.connect(root / "index.sqlite") as index:
        index.execute(f"UPDATE blobs SET {wrong} WHERE digest = ?", (NAMES[3],))
        index.execute("UPDATE state SET own = own + 1")
    index.close()
    if how == "rebuild":
        rebuild(DiskFiles(root), root / "index.sqlite", lambda *_: None)
    async with opened(root) as (store, _):
        await expect(store, set())


async def test_a_large_blob_of_which_only_the_index_knows_gets_a_new_record(tmp_path: Path) -> None:
    root = tmp_path / "data"
    async with opened(root) as (store, _):
        name = await put_large(store)
    (path,) = (root / "segments").iterdir()
    flip(path, SEGMENT_HEADER + 20, 0xFF)
    rebuild(DiskFiles(root), root / "index.sqlite", lambda *_: None)
    without_index(root)
    async with opened(root) as (store, _):
        assert await store.size(name) == len(LARGE)
        assert store.wants.total == 0


# --- a loss and its mark --------------------------------------------------------------------------


class Dies:
    """The process ends at the `nth` change of an index from now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
        self.left = nth
        real = Index.change

        def change(index: Index, *args: Any, **kwargs: Any) -> State:
            self.left -= 1
            if not self.left:
                raise Killed
            return real(index, *args, **kwargs)

        monkeypatch.setattr(Index, "change", change)


@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_kill_between_a_loss_and_its_mark_forgets_neither(
    tmp_path: Path, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is in the log, and the index was not changed; then a start is killed as well."""
    root = tmp_path / "data"
    path, *_ = await fill(root, ONE_SEGMENT)
    async with opened(root, ONE_SEGMENT) as (store, _):
        name = await put_large(store)
        flip(path, SEGMENT_HEADER + 7 * RECORD + RECORD_HEADER)
        (root / large_name(name)).unlink()
        lost = [Damage(NAMES[7], "rotten"), Damage(name, "rotten")]
        with monkeypatch.context() as patched:
            Dies(patched, 1)
            with pytest.raises(Killed):
                await store.discard(lost)
    with monkeypatch.context() as patched, suppress(Killed):
        Dies(patched, nth)
        async with opened(root, ONE_SEGMENT):
            pass
    async with opened(root, ONE_SEGMENT) as (store, _):
        assert await wanted_of(store) == {NAMES[7], name}
        assert await store.size(NAMES[7]) is None
        assert await store.size(name) is None


# --- the bytes of a stranger ----------------------------------------------------------------------


async def test_a_forged_record_of_a_large_blob_makes_no_want(tmp_path: Path) -> None:
    """A client put a blob that holds records of large blobs; then the segment's salt is lost."""
    root = tmp_path / "data"
    false = Digest(b"f" * 32)
    async with opened(root, ONE_SEGMENT) as (store, _):
        name = await put_large(store)
        header = (root / "segments" / "00000001.seg").read_bytes()[SEGMENT_HEADER:]
        forged = header.replace(name, false)
        data = b"in front " + forged * 3
        await store.commit([Blob(digest_of(data), data)])
        true = await put_large(store, LARGE + b"2")
    path = root / "segments" / "00000001.seg"
    flip(path, 20, 0xFF)  # the salt
    flip(path, SEGMENT_HEADER + 2 * RECORD_HEADER + 2)  # and the blob that holds them
    without_index(root)
    async with opened(root) as (store, _):
        assert store.wants.total == 0
        assert await store.size(name) == len(LARGE)
        assert await store.size(true) == len(LARGE) + 1


# --- what cannot be set aside ---------------------------------------------------------------------


@pytest.mark.parametrize("how", ["damaged/ is gone", "damaged/ is a file"])
async def test_a_large_blob_that_cannot_be_set_aside_is_not_destroyed(
    tmp_path: Path, how: str
) -> None:
    root = tmp_path / "data"
    data = Random(3).randbytes(LARGE_BLOB + 9)
    async with opened(root) as (store, _):
        name = await put_large(store, data)
        path = root / large_name(name)
        flip(path, 100)
        rotten = path.read_bytes()
        (root / "damaged").rmdir()
        if how == "damaged/ is a file":
            (root / "damaged").touch()
        assert await store.discard([Damage(name, "rotten", 0)]) == [name]
        assert path.with_name(f"{path.name}.damaged").read_bytes() == rotten
        assert await wanted_of(store) == {name}
    (root / "damaged").unlink(missing_ok=True)
    without_index(root)
    async with opened(root) as (store, _):
        assert await wanted_of(store) == {name}
        assert await put_large(store, data) == name
        assert b"".join([p async for p in store.stream(name, 0, len(data))]) == data
