"""What the disk store does about rot: found where it is, set aside, wanted, and never served.

Bytes are flipped in the files themselves, from the outside, while the store is open.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import anyio
import pytest
from xxhash import xxh3_128

from mesh.core.digest import Digest, digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.core.tree import Tree
from mesh.errors import Corrupt, StoreError
from mesh.offload import Inline, Offload
from mesh.store.base import Blob, Cursor, Damage, Totals, Verifying
from mesh.store.care.discard import ASIDE_BYTES
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles
from mesh.store.large.pieces import PIECE, PieceSums, Sums, decode_sums, encode_sums, sums_bytes
from mesh.store.layout import large_name
from tests.store.faulty import FaultyFiles, MemoryFiles

pytestmark = pytest.mark.anyio

T = TypeVar("T")

HEADER, SEGMENT_HEADER = 56, 40  # docstring of mesh/store/log/segments.py
ONE, TWO, THREE = b"one", b"two" * 10, b"three" * 100
LARGE = Random(1).randbytes(LARGE_BLOB + 3 * PIECE + 7)
NAME = digest_of(LARGE)
NOW = 1_700_000_000.0


@pytest.fixture
def anyio_backend() -> str:
    """Inline work never leaves the event loop: which one it is makes no difference here."""
    return "asyncio"


class Place:
    """A data directory with damage in it; `damages` is what its store has told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.damages: list[Damage] = []
        self.segment = root / "segments" / "00000001.seg"
        self.large = root / "large" / NAME.hex()[:2] / NAME.hex()
        self.sums = self.large.with_name(self.large.name + ".sums")

    @asynccontextmanager
    async def opened(self, work: Offload | None = None) -> AsyncIterator[DiskStore]:
        index, work = self.root / "index.sqlite", work or Inline()
        store = DiskStore(DiskFiles(self.root), index, lambda _: Inline(), work, lambda: NOW)
        try:
            await store.open()
            store.watch(self.damages.append, lambda: None)
            yield store
        finally:
            await store.close()

    def aside(self) -> list[bytes]:
        there = sorted((self.root / "damaged").iterdir())
        return [path.read_bytes() for path in there if path.is_file()]

    def without_index(self) -> None:
        for path in self.root.glob("index.sqlite*"):
            path.unlink()


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    """With three small blobs and a large one, in this order."""
    place = Place(tmp_path)
    async with place.opened() as store:
        for data in (ONE, TWO, THREE):
            await store.commit([Blob(digest_of(data), data)])
        await keep_large(store)
    return place


async def keep_large(store: DiskStore) -> None:
    async with store.incoming() as arriving:
        await arriving.write(LARGE)
        await store.commit([await arriving.finish()])


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 4]))


async def streamed(store: DiskStore, digest: Digest, start: int, stop: int) -> bytes:
    return b"".join([piece async for piece in store.stream(digest, start, stop)])


async def stream_into(got: list[bytes], store: DiskStore, start: int, stop: int) -> None:
    """The large blob; `got` has what came before an error."""
    async for piece in store.stream(NAME, start, stop):
        got.append(piece)  # noqa: PERF401 - a comprehension would keep nothing of it


async def holds(store: DiskStore, *contents: bytes) -> None:
    wanted = {digest_of(data): data for data in contents}
    assert store.totals == Totals(len(wanted), sum(map(len, contents)))
    assert (await store.tree()).root == Tree(wanted).root
    for digest, data in wanted.items():
        assert await streamed(store, digest, 0, len(data)) == data


async def scrub(store: DiskStore) -> None:
    cursor: Cursor | None = Cursor()
    while cursor is not None:
        cursor = (await store.scrub(cursor, 2**20)).cursor


# --- the sums of pieces ----------------------------------------------------------------------


def first_kind(data: bytes) -> PieceSums:
    """The sums that mesh wrote at first: SHA-256, cut."""
    pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
    return PieceSums(b"".join(sha256(piece).digest()[:16] for piece in pieces), first=True)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_sums_are_those_of_the_pieces_however_they_arrive(size: int) -> None:
    data = Random(size).randbytes(size)
    pieces = {at: data[at : at + PIECE] for at in range(0, size, PIECE)}
    wanted = b"".join(xxh3_128(piece).digest() for piece in pieces.values())
    for step in (size + 1, 70_001, PIECE):
        sums = Sums()
        for at in range(0, size, step):
            sums.update(data[at : at + step])
        assert sums.finish() == PieceSums(wanted)
    for known in (PieceSums(wanted), first_kind(data)):
        for at, piece in pieces.items():
            assert known.fits(at, piece)
            assert not known.fits(at, piece[:-1] + bytes([piece[-1] ^ 1]))
            assert not known.fits(at + PIECE, piece)


@pytest.mark.parametrize("first", [False, True])
def test_a_file_of_sums_is_taken_only_whole_and_for_its_own_blob(first: bool) -> None:
    size = 2 * PIECE + 5
    sums = PieceSums(os.urandom(48), first)
    content = encode_sums(NAME, size, sums)
    assert len(content) == sums_bytes(size)
    assert decode_sums(NAME, size, content) == sums
    assert decode_sums(digest_of(b""), size, content) is None
    assert decode_sums(NAME, size + PIECE, content) is None
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1
        assert decode_sums(NAME, size, bytes(changed)) is None
        assert decode_sums(NAME, size, content[:at]) is None


async def test_a_range_is_served_only_from_good_pieces(place: Place) -> None:
    bad = 3 * PIECE + 100
    flip(place.large, bad)
    async with place.opened() as store:
        for start, stop in [(0, 3 * PIECE), (10, 20), (4 * PIECE, len(LARGE)), (7, 2 * PIECE + 1)]:
            assert await streamed(store, NAME, start, stop) == LARGE[start:stop]
        assert place.damages == []
        for start, stop in [(bad, bad + 1), (0, len(LARGE)), (bad + 5, len(LARGE))]:
            got: list[bytes] = []
            with pytest.raises(Corrupt, match=f"between {3 * PIECE} and {4 * PIECE}"):
                await stream_into(got, store, start, stop)
            assert b"".join(got) == LARGE[start : 3 * PIECE]
        assert {damage.piece for damage in place.damages} == {3 * PIECE}


@pytest.mark.parametrize(
    "state", ["missing", "flipped", "cut", "empty", "another blob's", "a pipe"]
)
async def test_sums_that_are_lost_are_made_anew_from_a_good_blob(place: Place, state: str) -> None:
    good = place.sums.read_bytes()
    break_sums(place.sums, state)
    async with place.opened() as store:
        assert await streamed(store, NAME, 5, 9) == LARGE[5:9]
        if state != "a pipe":
            assert place.sums.read_bytes() == good
        await scrub(store)
        await holds(store, ONE, TWO, THREE, LARGE)
    assert place.damages == []


async def test_a_verification_is_shared_and_outlives_who_asked_for_it() -> None:
    data = bytes(5 * LARGE_BLOB)
    files = FaultyFiles(MemoryFiles())
    name = large_name(digest_of(data))
    store = DiskStore(files, None, lambda _: Inline(), Inline())
    await store.open()
    async with store.incoming() as arriving:
        await arriving.write(data)
        await store.commit([await arriving.finish()])
    files.remove(f"{name}.sums")
    files.calls.clear()
    assert not await store.verified(digest_of(data), 0.0)  # and whoever asked is gone
    assert store.verifying == [Verifying(digest_of(data), 0, len(data))]
    got: list[bytes] = []

    async def read() -> None:
        pieces = store.stream(digest_of(data), 0, 10)
        got.append(b"".join([piece async for piece in pieces]))

    async with anyio.create_task_group() as group:
        group.start_soon(store.run)
        async with anyio.create_task_group() as readers:
            for _ in range(3):
                readers.start_soon(read)
        group.cancel_scope.cancel()
    assert got == [data[:10]] * 3
    assert store.verifying == []
    # Once in steps of 4 MiB, and a piece for each reader.
    assert files.calls.count(f"read {name}") == 5 + 3
    await store.close()


class Gate(Inline):
    """Runs what it is given, but reads no more than the beginning until it is let through."""

    def __init__(self) -> None:
        self.open = anyio.Event()

    async def __call__(self, func: Callable[..., T], *args: Any) -> T:
        if getattr(func, "__name__", "") == "step":
            await self.open.wait()
        return await super().__call__(func, *args)


@pytest.mark.parametrize("driven", [True, False])
async def test_a_stream_says_that_its_blob_is_being_verified(place: Place, driven: bool) -> None:
    place.sums.unlink()
    gate = Gate()
    async with place.opened(gate) as store, anyio.create_task_group() as group:
        if driven:
            group.start_soon(store.run)
        async with aclosing(store.stream(NAME, 0, 10)) as pieces:
            assert await anext(pieces) == b""
            assert await anext(pieces) == b""
            assert [each.digest for each in store.verifying] == [NAME]
            gate.open.set()
            assert b"".join([piece async for piece in pieces]) == LARGE[:10]
        group.cancel_scope.cancel()


@pytest.mark.parametrize("state", ["missing", "flipped"])
async def test_without_sums_no_byte_leaves_before_the_whole_was_hashed(
    place: Place, state: str
) -> None:
    break_sums(place.sums, state)
    flip(place.large, len(LARGE) - 1)
    async with place.opened() as store:
        got: list[bytes] = []
        with pytest.raises(Corrupt, match="is not the blob of that name"):
            await stream_into(got, store, 0, 10)
        assert got == []
        assert await store.discard(place.damages) == [NAME]
        await holds(store, ONE, TWO, THREE)


async def test_sums_of_the_first_kind_are_read_and_find_what_is_rotten(place: Place) -> None:
    place.sums.write_bytes(encode_sums(NAME, len(LARGE), first_kind(LARGE)))
    flip(place.large, 3 * PIECE + 100)
    async with place.opened() as store:
        got: list[bytes] = []
        # Without sums the whole would have to be read before these bytes, and is not good.
        await stream_into(got, store, 0, PIECE)
        assert b"".join(got) == LARGE[:PIECE]
        with pytest.raises(Corrupt, match="is not what it was between"):
            await stream_into(got, store, 3 * PIECE, 4 * PIECE)


def break_sums(path: Path, state: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if state == "flipped":
        path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    elif state == "cut":
        path.write_bytes(content[:-1])
    elif state == "empty":
        path.touch()
    elif state == "another blob's":
        path.write_bytes(encode_sums(digest_of(ONE), len(LARGE), PieceSums(content[20:-16])))
    elif state == "a pipe":
        path.mkdir()  # a pipe itself would be waited for; a directory is as little a file


# --- letting go ------------------------------------------------------------------------------


async def test_a_rotten_small_blob_is_set_aside_and_does_not_come_back(place: Place) -> None:
    at = SEGMENT_HEADER + HEADER + len(ONE) + HEADER
    flip(place.segment, at + 3)
    rotten = place.segment.read_bytes()[at - HEADER : at + len(TWO)]
    async with place.opened() as store:
        with pytest.raises(Corrupt):
            await store.read(digest_of(TWO))
        assert await store.discard(place.damages) == [digest_of(TWO)]
        await holds(store, ONE, THREE, LARGE)
        assert place.aside() == [rotten]
    for index in ("here", "lost", "here"):
        if index == "lost":
            place.without_index()
        async with place.opened() as store:
            await holds(store, ONE, THREE, LARGE)
            (wanted,) = store.wants.first
            assert wanted.digest == digest_of(TWO)
            assert wanted.reason == place.damages[0].reason
            assert wanted.since == NOW
            if index == "here":
                assert await store.commit([Blob(digest_of(TWO), TWO)]) == [True]
                await holds(store, ONE, TWO, THREE, LARGE)
                assert store.wants.total == 0
                return_to_rot = place.segment.read_bytes()
                assert rotten in return_to_rot, "the log itself is never changed"
                break
    place.without_index()
    async with place.opened() as store:
        await holds(store, ONE, TWO, THREE, LARGE)
        assert store.wants.total == 0


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "gone", "a directory"])
async def test_a_rotten_large_blob_is_set_aside_and_does_not_come_back(
    place: Place, how: str
) -> None:
    damage_large(place.large, how)
    left = place.large.read_bytes() if place.large.is_file() else None
    async with place.opened() as store:
        with pytest.raises(Corrupt):
            await streamed(store, NAME, 0, len(LARGE))
        assert await store.discard(place.damages) == [NAME]
        await holds(store, ONE, TWO, THREE)
        assert place.aside() == ([left] if left is not None else [])
    for index in ("here", "lost"):
        if index == "lost":
            place.without_index()
        async with place.opened() as store:
            await holds(store, ONE, TWO, THREE)
            assert [wanted.digest for wanted in store.wants.first] == [NAME]
    async with place.opened() as store:
        await keep_large(store)  # whatever stood in its place has been moved away
        await holds(store, ONE, TWO, THREE, LARGE)
    place.without_index()
    async with place.opened() as store:
        await holds(store, ONE, TWO, THREE, LARGE)
        assert store.wants.total == 0


def damage_large(path: Path, how: str) -> None:
    if how == "flipped":
        flip(path, 12345)
    elif how == "cut":
        os.truncate(path, len(LARGE) - 1)
    elif how == "empty":
        os.truncate(path, 0)
    else:
        path.unlink()
        if how == "a directory":
            path.mkdir()


async def test_a_lost_segment_is_lost_blob_by_blob_and_written_again(place: Place) -> None:
    async with place.opened() as store:
        await store.commit([Blob(digest_of(b"four"), b"four")])
        place.segment.unlink()
        entries = await store.batch([digest_of(data) for data in (ONE, TWO, THREE, b"four")], 9999)
        assert [entry.data for entry in entries] == [None, None, None, b"four"]
        assert len(await store.discard(place.damages)) == 3
        # The large blob's own bytes are good: only its record has to be written again.
        await scrub(store)
        assert place.damages[-1].digest == NAME
        assert await store.discard(place.damages[-1:]) == []
        await holds(store, b"four", LARGE)
        assert store.wants.total == 3
    place.without_index()
    async with place.opened() as store:
        await holds(store, b"four", LARGE)
        assert store.wants.total == 3


@pytest.mark.parametrize("field", [0, 4, 20, 47, 50])
async def test_a_record_with_a_damaged_header_is_written_anew(place: Place, field: int) -> None:
    """The bytes are good, and served; but without an index nobody would find them."""
    flip(place.segment, SEGMENT_HEADER + field)
    last = SEGMENT_HEADER + 3 * HEADER + len(ONE + TWO + THREE)
    flip(place.segment, last + field)
    async with place.opened() as store:
        await holds(store, ONE, TWO, THREE, LARGE)
        await scrub(store)
        assert {damage.digest for damage in place.damages} == {digest_of(ONE), NAME}
        assert await store.discard(place.damages) == []
        await holds(store, ONE, TWO, THREE, LARGE)
        place.damages.clear()
        await scrub(store)
        assert place.damages == []
        assert store.wants.total == 0
    place.without_index()
    async with place.opened() as store:
        await holds(store, ONE, TWO, THREE, LARGE)


async def test_a_damaged_segment_header_harms_no_blob(place: Place) -> None:
    flip(place.segment, 20)
    async with place.opened() as store:
        await scrub(store)
        assert place.damages == []
        await holds(store, ONE, TWO, THREE, LARGE)


async def test_what_is_set_aside_is_bounded_and_the_oldest_goes_first(place: Place) -> None:
    for number, size in enumerate([100, ASIDE_BYTES - len(LARGE) - 100, 50], 1):
        path = place.root / "damaged" / f"{number:08d}-{'0' * 64}"
        path.touch()
        os.truncate(path, size)  # a hole, which takes no room
    flip(place.large, 5)
    async with place.opened() as store:
        with pytest.raises(Corrupt):
            await streamed(store, NAME, 0, 10)
        await store.discard(place.damages)
    left = {path.name: path.stat().st_size for path in (place.root / "damaged").iterdir()}
    assert left.pop(f"00000004-{NAME.hex()}") == len(LARGE)
    assert sorted(left) == [f"{number:08d}-{'0' * 64}" for number in (2, 3)]


async def test_a_blob_can_be_lost_and_come_back_again_and_again(place: Place) -> None:
    for turn in range(1, 4):
        async with place.opened() as store:
            segments = sorted((place.root / "segments").iterdir())
            for path in segments:
                with suppress(ValueError):
                    flip(path, path.read_bytes().rindex(TWO))
            with pytest.raises(StoreError):
                await store.read(digest_of(TWO))
            assert await store.discard(place.damages) == [digest_of(TWO)]
            place.damages.clear()
            await store.commit([Blob(digest_of(TWO), TWO)])
            await holds(store, ONE, TWO, THREE, LARGE)
        assert len(place.aside()) == turn
    place.without_index()
    async with place.opened() as store:
        await holds(store, ONE, TWO, THREE, LARGE)
        assert store.wants.total == 0
