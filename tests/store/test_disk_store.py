from __future__ import annotations

from pathlib import Path

import pytest

from mesh.core.digest import digest_of
from mesh.store.base import BlobStore
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles
from mesh.store.offload import Inline, Lane, Threads
from tests.contracts.partial_contract import PartialContract
from tests.contracts.store_contract import StoreContract


class DiskHome:
    """A data directory; with `threads` as a node runs it, without as a simulation does."""

    def __init__(self, root: Path, *, threads: bool) -> None:
        self._root = root
        self._threads = self.remembers = threads

    def store(self) -> BlobStore:
        files = DiskFiles(self._root)
        if self._threads:
            return DiskStore(files, self._root / "index.sqlite", Lane, Threads(2))
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


class TestDiskStoreInline(StoreContract, PartialContract):
    @pytest.fixture
    def home(self, tmp_path: Path) -> DiskHome:
        return DiskHome(tmp_path, threads=False)
