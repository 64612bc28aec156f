"""The snapshots in the index of a store on disk: derived, and made again whatever becomes of it."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from mesh.core.digest import digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.core.snapshot import encode
from mesh.offload import Inline
from mesh.store.base import Blob, Cursor, ListedSnapshot, Place, SnapshotFilter
from mesh.store.care.readonly import index_in_memory
from mesh.store.care.rebuild import rebuild
from mesh.store.care.upgrade import upgrade
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles
from tests.contracts.store_contract import told

pytestmark = pytest.mark.anyio

TOLD = [told(second, host=f"h{second % 3}") for second in range(20)]
OTHERS = [b"other %d" % number * 30 for number in range(20)]


@pytest.fixture
def anyio_backend() -> str:
    """Inline work never leaves the event loop: which one it is makes no difference here."""
    return "asyncio"


class Clock:
    """The wall clock of a store."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(root: Path, clock: Clock | None = None) -> AsyncIterator[DiskStore]:
    files, clock = DiskFiles(root), clock or Clock()
    store = DiskStore(files, root / "index.sqlite", lambda _: Inline(), Inline(), clock)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def commit(store: DiskStore, *contents: bytes) -> None:
    await store.commit([Blob(digest_of(data), data) for data in contents])


async def listed(root: Path) -> list[ListedSnapshot]:
    async with opened(root) as store:
        return await store.snapshots(SnapshotFilter(), None, 100)


@pytest.fixture
async def root(tmp_path: Path) -> Path:
    """A data directory with snapshots among other blobs."""
    place = tmp_path / "data"
    place.mkdir()
    async with opened(place) as store:
        for one, other in zip(TOLD, OTHERS, strict=True):
            await commit(store, encode(one.snapshot), other)
    return place


def without_index(root: Path) -> None:
    for path in root.glob("index.sqlite*"):
        path.unlink()


def make_old(root: Path) -> None:
    """The index as the version before wrote it."""
    with closing(sqlite3.connect(root / "index.sqlite")) as db:
        db.executescript("DROP TABLE snapshots; DROP TABLE times; PRAGMA user_version = 3")


async def test_an_index_of_the_version_before_gets_its_snapshots_without_the_log_being_read(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_old(root)
    with caplog.at_level(logging.INFO):
        assert await listed(root) == TOLD[::-1]
    assert "adopted" not in caplog.text
    assert await listed(root) == TOLD[::-1]


async def test_an_upgrade_adds_no_snapshot_that_is_damaged(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_old(root)
    segment = root / "segments" / "00000001.seg"
    data = segment.read_bytes()
    at = data.index(encode(TOLD[7].snapshot))
    assert data[at:].startswith(b'{"bytes":2,')
    segment.write_bytes(data[: at + 9] + b"3" + data[at + 10 :])
    assert await listed(root) == [each for each in TOLD[::-1] if each != TOLD[7]]
    assert "rebuilding" not in caplog.text


async def test_a_disk_that_takes_no_writes_has_its_snapshots_in_memory(root: Path) -> None:
    make_old(root)
    before = (root / "index.sqlite").read_bytes()
    with closing(index_in_memory(root / "index.sqlite")) as index:
        assert index.outdated
        upgrade(DiskFiles(root), index)
        assert index.snapshots.newest(SnapshotFilter(), None, 100) == TOLD[::-1]
    assert (root / "index.sqlite").read_bytes() == before


async def test_an_old_index_is_salvaged_before_it_is_thrown_away(root: Path) -> None:
    """Its segment is gone: only the index knows what was acknowledged."""
    make_old(root)
    (root / "segments" / "00000001.seg").unlink()
    async with opened(root) as store:
        assert store.wants.total == len(TOLD) + len(OTHERS)
        assert await store.snapshots(SnapshotFilter(), None, 100) == []


@pytest.mark.parametrize("how", ["no index", "rebuilt", "old and rebuilt"])
async def test_the_snapshots_are_made_again_from_the_log(root: Path, how: str) -> None:
    if how == "old and rebuilt":
        make_old(root)
    if how == "no index":
        without_index(root)
    else:
        rebuild(DiskFiles(root), root / "index.sqlite", lambda _done, _total: None)
    assert await listed(root) == TOLD[::-1]


@pytest.mark.parametrize("column", ["time", "host", "path", "data"])
async def test_a_row_that_is_not_what_was_written_is_made_again(root: Path, column: str) -> None:
    with closing(sqlite3.connect(root / "index.sqlite")) as db, db:
        db.execute(f"UPDATE snapshots SET {column} = '2026' WHERE digest = ?", (TOLD[3].digest,))
    assert await listed(root) == TOLD[::-1]


async def test_what_the_log_brings_after_a_crash_is_listed(root: Path, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(root, before)
    later = told(40)
    async with opened(root) as store:
        await commit(store, encode(later.snapshot))
    for path in before.glob("index.sqlite*"):
        shutil.copy(path, root / path.name)
    assert await listed(root) == [later, *TOLD[::-1]]


# --- where a blob is, and when it came -----------------------------------------------------------


async def test_when_a_blob_came_is_known_to_the_minute_until_the_index_is_lost(
    tmp_path: Path,
) -> None:
    clock, start = Clock(), 1_000_000.0
    large = bytes(LARGE_BLOB)

    async def came(store: DiskStore, data: bytes) -> float | None:
        place = await store.place(digest_of(data))
        assert place is not None
        return place.came

    async with opened(tmp_path, clock) as store:
        await commit(store, b"one")
        clock.now += 50
        await commit(store, b"two", b"three")
        clock.now += 50
        async with store.incoming() as arriving:
            await arriving.write(large)
            await store.commit([await arriving.finish()])
        assert await store.place(digest_of(b"one")) == Place(
            3, "segments/00000001.seg", 40, None, start
        )
        place = await store.place(digest_of(large))
        name = digest_of(large).hex()
        assert place == Place(LARGE_BLOB, f"large/{name[:2]}/{name}", None, 8, start + 100)
        for data, then in ((b"two", start), (b"three", start), (large, start + 100)):
            assert await came(store, data) == then
    rebuild(DiskFiles(tmp_path), tmp_path / "index.sqlite", lambda _done, _total: None)
    async with opened(tmp_path, clock) as store:
        assert [await came(store, data) for data in (b"one", large)] == [start, start + 100]
    without_index(tmp_path)
    async with opened(tmp_path, clock) as store:
        await commit(store, b"four")
        assert [await came(store, data) for data in (b"one", large)] == [None, None]
        assert await came(store, b"four") == start + 100


@pytest.mark.parametrize("value", ["'x'", "1e300", "-5.0", "x'00'"])
async def test_a_time_that_is_none_keeps_nobody_from_reading_or_writing(
    root: Path, value: str
) -> None:
    with closing(sqlite3.connect(root / "index.sqlite")) as db, db:
        assert db.execute(f"UPDATE times SET at = {value}").rowcount == 1
    async with opened(root) as store:
        place = await store.place(TOLD[0].digest)
        assert place is not None
        assert place.came is None
        await commit(store, b"later")
        place = await store.place(digest_of(b"later"))
        assert place is not None
        assert place.came == Clock().now


async def test_a_scrub_finds_a_snapshot_that_would_not_be_found(root: Path) -> None:
    with closing(sqlite3.connect(root / "index.sqlite")) as db, db:
        db.execute("UPDATE snapshots SET host = 'i1' WHERE host = 'h1'")
    async with opened(root) as store:
        assert await store.snapshots(SnapshotFilter(host="h1"), None, 100) == []
        await store.scrub(Cursor(), 1)
        found = await store.snapshots(SnapshotFilter(host="h1"), None, 100)
        assert found == [each for each in TOLD[::-1] if each.snapshot.host == "h1"]
