"""A repair never destroys what may have been acknowledged, and says what it could not keep."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh.core.digest import Digest, digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.errors import StoreError
from mesh.offload import Inline
from mesh.store.base import Blob, Damage
from mesh.store.care.rebuild import rebuild
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles
from mesh.store.log.segments import RECORD_HEADER, SEGMENT_HEADER

pytestmark = pytest.mark.anyio

BLOBS = [b"%04d" % number * 200 for number in range(20)]
NAMES = [digest_of(data) for data in BLOBS]
RECORD = RECORD_HEADER + len(BLOBS[0])
LARGE = bytes(LARGE_BLOB + 3)


@pytest.fixture
def anyio_backend() -> str:
    """Inline work never leaves the event loop: which one it is makes no difference here."""
    return "asyncio"


def make(root: Path) -> None:
    root.mkdir(exist_ok=True)


@asynccontextmanager
async def opened(root: Path, segment_bytes: int = 4096) -> AsyncIterator[tuple[DiskStore, str]]:
    """A store, and what it said as it was opened."""
    make(root)
    store = DiskStore(
        DiskFiles(root),
        root / "index.sqlite",
        lambda _: Inline(),
        Inline(),
        segment_bytes=segment_bytes,
    )
    try:
        yield store, await store.open()
    finally:
        await store.close()


async def fill(root: Path, segment_bytes: int = 4096) -> list[Path]:
    """Twenty blobs, four or five to a segment; the segments."""
    async with opened(root, segment_bytes) as (store, _):
        for data in BLOBS:
            await store.commit([Blob(digest_of(data), data)])
    return sorted((root / "segments").iterdir())


def without_index(root: Path) -> None:
    for path in root.glob("index.sqlite*"):
        path.unlink()


def flip(path: Path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


async def wanted_of(store: DiskStore) -> set[Digest]:
    assert len(store.wants.first) == store.wants.total
    return {each.digest for each in store.wants.first}


async def expect(store: DiskStore, lost: set[Digest]) -> None:
    """All twenty are here or wanted, and those here are what they were."""
    here = {digest for digest, _ in await store.listing("", b"", 100)}
    assert here == set(NAMES) - lost
    assert await wanted_of(store) == lost
    for name, data in zip(NAMES, BLOBS, strict=True):
        assert await store.read(name) == (None if name in lost else data)


@pytest.mark.parametrize("which", ["first", "newest"])
@pytest.mark.parametrize("how", ["start", "rebuild"])
async def test_a_rotten_last_record_of_a_segment_stays_and_is_wanted(
    tmp_path: Path, which: str, how: str
) -> None:
    root = tmp_path / "data"
    segments = await fill(root)
    assert len(segments) > 2
    path = segments[0] if which == "first" else segments[-1]
    last = (path.stat().st_size - SEGMENT_HEADER) // RECORD
    before = [each for each in segments if each <= path]
    lost = sum((each.stat().st_size - SEGMENT_HEADER) // RECORD for each in before) - 1
    assert last
    flip(path, path.stat().st_size - 100)
    rotten = path.read_bytes()
    if how == "start":
        without_index(root)
    else:
        rebuild(DiskFiles(root), root / "index.sqlite", lambda *_: None)
    async with opened(root) as (store, _):
        await expect(store, {NAMES[lost]})
    assert path.read_bytes() == rotten
    async with opened(root) as (store, said):
        assert said == "19 blobs"  # told once
        assert await store.commit([Blob(NAMES[lost], BLOBS[lost])]) == [True]
        await expect(store, set())


@pytest.mark.parametrize("end", [10, SEGMENT_HEADER, -1, -100, -RECORD + 60])
async def test_an_old_segment_that_lost_its_end_is_never_cut_or_removed(
    tmp_path: Path, end: int
) -> None:
    root = tmp_path / "data"
    path, *_ = await fill(root)
    left = path.read_bytes()[:end]
    path.write_bytes(left)
    without_index(root)
    async with opened(root) as (store, _):
        if end < 0:  # the header of the last one still tells its name
            (lost,) = await wanted_of(store)
            await expect(store, {lost})
    assert path.read_bytes() == left


async def test_what_the_newest_segment_lost_with_its_end_is_wanted(tmp_path: Path) -> None:
    """The index knows that more was acknowledged than the log still holds."""
    root = tmp_path / "data"
    *_, path = await fill(root, 1 << 20)
    data = path.read_bytes()
    path.write_bytes(data[: SEGMENT_HEADER + 18 * RECORD - 5])
    async with opened(root) as (store, said):
        assert said.startswith("index was newer than the log, rebuilt; 17 blobs")
        await expect(store, set(NAMES[17:]))


@pytest.mark.parametrize("state", ["gone", "cut"])
async def test_a_large_blob_whose_file_is_not_whole_is_wanted_after_a_rebuild(
    tmp_path: Path, state: str
) -> None:
    root = tmp_path / "data"
    async with opened(root) as (store, _), store.incoming() as arriving:
        await arriving.write(LARGE)
        await store.commit([await arriving.finish()])
    name = digest_of(LARGE).hex()
    path = root / "large" / name[:2] / name
    if state == "gone":
        path.unlink()
    else:
        path.write_bytes(LARGE[:-1])
    without_index(root)
    async with opened(root) as (store, _):
        assert await wanted_of(store) == {digest_of(LARGE)}
        assert await store.size(digest_of(LARGE)) is None


@pytest.mark.parametrize("bit", [1, 0x80])
async def test_rot_in_the_reason_of_a_loss_harms_nothing(tmp_path: Path, bit: int) -> None:
    root = tmp_path / "data"
    reason = "its bytes are not what they were"
    path, *_ = await fill(root, 1 << 20)
    flip(path, SEGMENT_HEADER + 7 * RECORD + RECORD_HEADER)
    flip(path, SEGMENT_HEADER + 8 * RECORD + RECORD_HEADER)
    async with opened(root) as (store, _):
        lost = [Damage(name, reason) for name in NAMES[7:9]]
        assert len(await store.discard(lost)) == 2
        assert await store.commit([Blob(NAMES[7], BLOBS[7])]) == [True]
    log = root / "segments" / "00000002.seg"
    start = 0
    for _ in lost:
        start = log.read_bytes().index(reason.encode(), start) + 1
        flip(log, start + 3, bit)
    without_index(root)
    rebuild(DiskFiles(root), root / "index.sqlite", lambda *_: None)
    async with opened(root) as (store, _):
        await expect(store, {NAMES[8]})
        assert store.wants.first[0].reason == "not known any more"


async def test_an_index_of_another_log_is_made_anew(tmp_path: Path) -> None:
    """Also when the other log is as long, and the node's identity was copied with it."""
    one, other = tmp_path / "one", tmp_path / "other"
    await fill(one)
    async with opened(other) as (store, _):
        for data in BLOBS:
            await store.commit([Blob(digest_of(data[::-1]), data[::-1])])
    without_index(one)
    (one / "index.sqlite").write_bytes((other / "index.sqlite").read_bytes())
    async with opened(one) as (store, said):
        assert said.startswith("index was of another log, rebuilt; 20 blobs")
        await expect(store, set())


@pytest.mark.parametrize("version", [2, 99])
async def test_an_index_of_another_version_is_made_anew(tmp_path: Path, version: int) -> None:
    root = tmp_path / "data"
    await fill(root)
    index = sqlite3.connect(root / "index.sqlite")
    index.execute(f"PRAGMA user_version = {version}")
    index.close()
    async with opened(root) as (store, said):
        assert f"of version {version}" in said
        await expect(store, set())


# --- the directory -----------------------------------------------------------------------------


async def test_a_directory_that_was_taken_away_takes_no_blob(tmp_path: Path) -> None:
    root = tmp_path / "data"
    async with opened(root, 1 << 20) as (store, _):
        await store.commit([Blob(NAMES[0], BLOBS[0])])
        (root / "segments").rename(tmp_path / "away")
        for number in range(1, 3):
            with pytest.raises(StoreError, match="segments"):
                await store.commit([Blob(NAMES[number], BLOBS[number])])
        with pytest.raises(StoreError, match="segments"):
            # It was acknowledged before; nobody may be told so again of what is gone.
            await store.commit([Blob(NAMES[0], BLOBS[0])])
        with pytest.raises(StoreError, match="segments"):
            await store.room(trial=False)
        (root / "segments").mkdir()
        with pytest.raises(StoreError, match="another directory than at the start"):
            await store.room(trial=False)
        (root / "segments").rmdir()
        (tmp_path / "away").rename(root / "segments")
        await store.room(trial=False)
        assert await store.commit([Blob(NAMES[3], BLOBS[3])]) == [True]


async def test_a_segment_that_was_removed_is_not_written_any_more(tmp_path: Path) -> None:
    root = tmp_path / "data"
    async with opened(root, 1 << 20) as (store, _):
        await store.commit([Blob(NAMES[0], BLOBS[0])])
        (root / "segments" / "00000001.seg").unlink()
        with pytest.raises(StoreError):
            await store.commit([Blob(NAMES[1], BLOBS[1])])
        assert await store.commit([Blob(NAMES[1], BLOBS[1])]) == [True]
    async with opened(root) as (store, _):
        assert await store.read(NAMES[1]) == BLOBS[1]


@pytest.mark.parametrize(
    "name", ["segments", "large", "tmp", "damaged", "partial", "index.sqlite", "index.sqlite-wal"]
)
@pytest.mark.parametrize("what", ["a link", "something else"])
async def test_a_start_that_fails_names_path_fault_and_advice(
    tmp_path: Path, name: str, what: str
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    target = tmp_path / "outside"
    if what == "a link":
        target.mkdir() if "." not in name else target.touch()
        (root / name).symlink_to(target)
    elif "." in name:
        (root / name).mkdir()
    else:
        (root / name).touch()
    with pytest.raises(StoreError) as caught:
        async with opened(root):
            pass
    text = str(caught.value)
    assert text.startswith("cannot open the store: ")
    assert str(root / name) in text
    assert ";" in text
    assert "\n" not in text
    assert not target.exists() or target.is_dir() or not target.read_bytes()
    assert not (target.is_dir() and any(target.iterdir()))


async def test_a_vanished_blob_is_an_error_and_not_an_empty_stream(tmp_path: Path) -> None:
    root = tmp_path / "data"
    await fill(root)
    async with opened(root) as (store, _):
        pieces = store.stream(digest_of(b"never here"), 0, 10)
        with pytest.raises(StoreError, match="is not here"):
            await anext(pieces)
