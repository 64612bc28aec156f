"""A disk that takes no writes at a start, or from some moment on, and then takes them again."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from mesh.core.limits import LARGE_BLOB
from mesh.errors import Full, ReadOnly, StoreError
from mesh.offload import Inline
from mesh.store.care.readonly import index_in_memory
from mesh.store.disk import DiskStore
from mesh.store.log.index import Index
from tests.store.faulty import MemoryFiles
from tests.store.test_faults import AFTER, BEFORE, LATER, SMALL, Ledger, opened

pytestmark = pytest.mark.anyio

LARGE = bytes(LARGE_BLOB + 3)


@pytest.fixture
def anyio_backend() -> str:
    """Inline work never leaves the event loop: which one it is makes no difference here."""
    return "asyncio"


async def kept(disk: MemoryFiles, *batches: list[bytes], index: Path | None = None) -> Ledger:
    ledger = Ledger()
    async with opened(disk, index) as store:
        for batch in batches:
            await ledger.put(store, batch)
    return ledger


async def test_a_disk_that_becomes_read_only_serves_and_takes_blobs_again() -> None:
    disk, ledger = MemoryFiles(), Ledger()
    async with opened(disk) as store:
        await ledger.put(store, [*BEFORE, LARGE])
        disk.read_only = True
        for _ in range(3):
            with pytest.raises(ReadOnly):
                await ledger.put(store, SMALL)
            with pytest.raises(ReadOnly):
                await store.room(trial=True)
            await ledger.check(store)
        disk.read_only = False
        await store.room(trial=True)
        await ledger.put(store, SMALL)
        await ledger.check(store)
    async with opened(disk.crash(0)) as store:
        await ledger.check(store)


@pytest.mark.parametrize("why", ["read-only", "full"])
@pytest.mark.parametrize("index", ["whole", "behind the log", "gone"])
async def test_a_start_on_a_disk_that_takes_no_writes_serves_everything(
    tmp_path: Path, why: str, index: str
) -> None:
    disk, place = MemoryFiles(), tmp_path / "index.sqlite"
    ledger = await kept(disk, BEFORE, [LARGE], index=place)
    if index == "behind the log":
        shutil.copy(place, tmp_path / "older")
        async with opened(disk, place) as store:
            await ledger.put(store, LATER)
        shutil.copy(tmp_path / "older", place)
    elif index == "gone":
        place.unlink()
    # SQLite's own file is not behind the port: where it cannot be opened stands a directory.
    held = tmp_path / "held"
    if place.exists():
        place.rename(held)
    place.mkdir()
    disk.read_only = why == "read-only"
    if why == "full":
        disk.total = disk.space().total - disk.space().free
    store = DiskStore(disk, place, lambda _: Inline(), Inline())
    note = await store.open()
    assert "takes no writes" in note
    await ledger.check(store)
    with pytest.raises(ReadOnly if why == "read-only" else Full):
        await ledger.put(store, SMALL)
    await ledger.check(store)
    disk.read_only, disk.total = False, 2**40
    await ledger.put(store, SMALL)
    await ledger.check(store)
    await store.close()
    place.rmdir()
    if held.exists():
        held.rename(place)
    async with opened(disk, place) as store:
        await ledger.check(store)
        await ledger.put(store, AFTER)
        await ledger.check(store)


async def test_an_index_is_read_without_writing_beside_it(tmp_path: Path) -> None:
    disk, place = MemoryFiles(), tmp_path / "index.sqlite"
    ledger = await kept(disk, BEFORE, SMALL, index=place)
    before = contents(tmp_path)
    index = index_in_memory(place)
    assert index.state().blobs == len(ledger.offered)
    index.close()
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
async def test_an_index_that_is_none_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "index.sqlite"
    place.write_bytes(content)
    index = index_in_memory(place)
    assert index.state().blobs == 0
    index.close()


async def test_another_error_is_no_reason_to_start_without_writing(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").mkdir()
    store = DiskStore(MemoryFiles(), tmp_path / "index.sqlite", lambda _: Inline(), Inline())
    with pytest.raises(StoreError, match="cannot open"):
        await store.open()
    await store.close()


async def test_room_is_what_the_disk_has() -> None:
    disk = MemoryFiles(100_000)
    async with opened(disk) as store:
        before = await store.room(trial=True)
        assert before.total == 100_000
        await Ledger().put(store, [bytes(10_000)])
        assert (await store.room(trial=True)).free < before.free - 10_000
        disk.total = 20_000
        with pytest.raises(Full):
            await Ledger().put(store, [b"x" * 30_000])


@pytest.mark.parametrize("version", [2, 99])
async def test_an_index_of_another_version_is_an_empty_one(tmp_path: Path, version: int) -> None:
    """The log has everything, so a full disk after an upgrade keeps no node from starting."""
    path = tmp_path / "index.sqlite"
    Index(str(path), write=True).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {version}")
    db.close()
    index = index_in_memory(path)
    assert index.state().blobs == 0
    index.close()
