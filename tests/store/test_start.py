"""What a start reads: nothing of the log after a clean stop, and after a crash only its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.core.digest import digest_of
from mesh.offload import Inline
from mesh.store.base import Blob
from mesh.store.disk import DiskStore
from tests.store.faulty import FaultyFiles, Killed, MemoryFiles

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Inline work never leaves the event loop: which one it is makes no difference here."""
    return "asyncio"


def blobs(count: int, first: int = 0) -> list[Blob]:
    contents = [b"blob %d" % number for number in range(first, first + count)]
    return [Blob(digest_of(data), data) for data in contents]


def over(files: FaultyFiles, index: Path) -> DiskStore:
    return DiskStore(files, index, lambda _: Inline(), Inline())


async def started(disk: MemoryFiles, index: Path) -> tuple[str, list[str]]:
    """A start: what it says, and the calls that touch the log."""
    files = FaultyFiles(disk)
    store = over(files, index)
    note = await store.open()
    calls = [call for call in files.calls if "segments/" in call]
    await store.close()
    return note, calls


@pytest.mark.parametrize("count", [10, 5000])
async def test_after_a_clean_stop_nothing_of_the_log_is_read(tmp_path: Path, count: int) -> None:
    disk, index = MemoryFiles(), tmp_path / "index.sqlite"
    for first in (0, count):
        store = over(FaultyFiles(disk), index)
        await store.open()
        await store.commit(blobs(count, first))
        await store.close()
    # But for the salt of the segment that has the mark: it tells whether the index is of this log.
    marked = ["open segments/00000002.seg", "read segments/00000002.seg"]
    assert await started(disk, index) == (f"{2 * count} blobs", marked)


@pytest.mark.parametrize("count", [10, 5000])
async def test_after_a_crash_only_what_is_behind_the_mark_is_read(
    tmp_path: Path, count: int
) -> None:
    files, index = FaultyFiles(MemoryFiles(), seed=1), tmp_path / "index.sqlite"
    store = over(files, index)
    await store.open()
    await store.commit(blobs(count))
    files.fail(1, None, only=("sync segments/",))
    with pytest.raises(Killed):
        await store.commit(blobs(3, count))
    files.heal()
    await store.close()
    note, calls = await started(files.disk, index)
    assert note == f"{count + 3} blobs, 3 adopted from the log"
    # Two for each record, and some for the segment itself.
    assert len([call for call in calls if call.startswith("read ")]) <= 2 * 3 + 4
    files.disk.content("segments/00000001.seg").extend(b"torn")
    store = over(files, index)
    await store.open()
    await store.close()
    note, _ = await started(files.disk, index)
    assert note.startswith(f"{count + 3} blobs")
