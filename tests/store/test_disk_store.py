from __future__ import annotations

from pathlib import Path

import pytest

from mesh.core.digest import digest_of
from mesh.offload import Inline, Lane, Threads
from mesh.store.base import Blob, BlobStore
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles
from mesh.store.log.segments import SEGMENT_MAX
from tests.contracts.partial_contract import PartialContract
from tests.contracts.store_contract import StoreContract


class DiskHome:
    """A data directory; with `threads` as a node runs it, without as a simulation does."""

    def __init__(self, root: Path, *, threads: bool, segment_bytes: int = SEGMENT_MAX) -> None:
        self._root = root
        self._segment_bytes = segment_bytes
        self._threads = self.remembers = threads

    def store(self) -> BlobStore:
        files = DiskFiles(self._root)
        if self._threads:
            index, lane, work = self._root / "index.sqlite", Lane, Threads(2)
            return DiskStore(files, index, lane, work, segment_bytes=self._segment_bytes)
        return DiskStore(files, None, lambda _: Inline(), Inline())

    def damage(self, data: bytes) -> None:
        name = digest_of(data).hex()
        large = self._root / "large" / name[:2] / name
        files = [large] if large.exists() else list((self._root / "segments").iterdir())
        for path in files:
            content = path.read_bytes()
            if (at := content.find(data)) >= 0:
                at += len(data) // 2
                path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])

    def leftovers(self) -> int:
        return len(list((self._root / "tmp").iterdir()))


class TestDiskStoreOnThreads(StoreContract, PartialContract):
    @pytest.fixture
    def home(self, tmp_path: Path) -> DiskHome:
        return DiskHome(tmp_path, threads=True)


class TestDiskStoreOfSmallSegments(StoreContract, PartialContract):
    """Each commit fills a segment, so that every next one begins another."""

    @pytest.fixture
    def home(self, tmp_path: Path) -> DiskHome:
        return DiskHome(tmp_path, threads=True, segment_bytes=1)


@pytest.mark.anyio
@pytest.mark.parametrize("segment_bytes", [1, 3000, 10_000])
async def test_what_fills_a_segment_is_found_in_it(tmp_path: Path, segment_bytes: int) -> None:
    files, index = DiskFiles(tmp_path), tmp_path / "index.sqlite"
    store = DiskStore(files, index, Lane, Threads(2), segment_bytes=segment_bytes)
    await store.open()
    blobs = {digest_of(data): data for data in (bytes([number]) * 700 for number in range(60))}
    items = [Blob(digest, data) for digest, data in blobs.items()]
    for at in range(0, len(items), 3):
        await store.commit(items[at : at + 3])
        for digest, data, *_ in items[: at + 3]:
            assert await store.read(digest) == data
    assert len(list((tmp_path / "segments").iterdir())) > 60 * 700 // (segment_bytes + 3 * 800)
    await store.close()
    store = DiskStore(files, index, Lane, Threads(2), segment_bytes=segment_bytes)
    assert await store.open() == "60 blobs"
    for digest, data in blobs.items():
        assert await store.read(digest) == data
    await store.close()


class TestDiskStoreInline(StoreContract, PartialContract):
    @pytest.fixture
    def home(self, tmp_path: Path) -> DiskHome:
        return DiskHome(tmp_path, threads=False)
