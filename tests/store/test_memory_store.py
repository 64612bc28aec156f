from __future__ import annotations

import pytest

from mesh.core.digest import digest_of
from mesh.store.base import BlobStore
from mesh.store.memory import MemoryStore
from tests.contracts.partial_contract import PartialContract
from tests.contracts.store_contract import StoreContract


class MemoryHome:
    """A memory store is its own home: what it holds outlives `close`."""

    def __init__(self) -> None:
        self.remembers = True
        self._store = MemoryStore()

    def store(self) -> BlobStore:
        return self._store

    def damage(self, data: bytes) -> None:
        self._store.rot(digest_of(data), b"rot")

    def leftovers(self) -> int:
        return 0


class TestMemoryStore(StoreContract, PartialContract):
    @pytest.fixture
    def home(self) -> MemoryHome:
        return MemoryHome()
