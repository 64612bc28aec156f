"""What a start makes of a data directory that a crash, a disk or a person has changed.

Records are damaged in the files themselves, from the outside, as the format says they lie there.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import anyio
import pytest

from mesh.core.digest import Digest, digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.core.tree import Tree
from mesh.errors import Corrupt, StoreError
from mesh.offload import Inline, Lane, Threads
from mesh.store.base import Blob, Totals
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles, Listed

pytestmark = pytest.mark.anyio

# The format, written down once more: docstring of mesh/store/log/segments.py.
HEADER = 56
SEGMENT_HEADER = 40
FIELDS = {"magic": 0, "type": 4, "version": 5, "flags": 7, "digest": 20, "length": 47, "sum": 50}
SEGMENT_FIELDS = {"magic": 0, "number": 15, "salt": 20, "sum": 39}

ONE, TWO, THREE = b"one", b"two" * 10, b"three" * 100
LARGE = bytes(LARGE_BLOB + 7)


@pytest.fixture
def anyio_backend() -> str:
    """Inline work never leaves the event loop: which one it is makes no difference here."""
    return "asyncio"


class Place:
    """A data directory, between two runs of a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = root / "index.sqlite"
        self.note = ""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[DiskStore]:
        """The store over it; `note` is what its start had to say."""
        store = DiskStore(DiskFiles(self.root), self.index, lambda _: Inline(), Inline())
        try:
            self.note = await store.open()
            yield store
        finally:
            await store.close()

    async def keep(self, *batches: Iterable[bytes]) -> None:
        """A run that commits `batches`, one after the other, into a segment of its own."""
        async with self.opened() as store:
            for batch in batches:
                await commit(store, *batch)

    async def holds(self, *contents: bytes) -> None:
        """After a start exactly `contents` are here, and new ones can be kept."""
        async with self.opened() as store:
            await expect(store, contents)
            await commit(store, b"new")
            await expect(store, {*contents, b"new"})
        await self.stays(*contents, b"new")

    async def stays(self, *contents: bytes) -> None:
        """A start finds `contents`, and nothing to do."""
        async with self.opened() as store:
            assert self.note == f"{len(set(contents))} blobs"
            await expect(store, contents)

    def segment(self, number: int) -> Path:
        return self.root / "segments" / f"{number:08d}.seg"

    def large(self, data: bytes) -> Path:
        name = digest_of(data).hex()
        return self.root / "large" / name[:2] / name

    def without_index(self) -> None:
        for path in self.root.glob("index.sqlite*"):
            path.unlink()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    root = tmp_path / "data"
    root.mkdir()
    return Place(root)


async def commit(store: DiskStore, *contents: bytes) -> None:
    for data in contents:
        if len(data) < LARGE_BLOB:
            continue
        async with store.incoming() as arriving:
            await arriving.write(data)
            await store.commit([await arriving.finish()])
    await store.commit([Blob(digest_of(d), d) for d in contents if len(d) < LARGE_BLOB])


async def streamed(store: DiskStore, digest: Digest, size: int) -> bytes:
    return b"".join([piece async for piece in store.stream(digest, 0, size)])


async def expect(store: DiskStore, contents: Iterable[bytes]) -> None:
    wanted = {digest_of(data): data for data in contents}
    found: dict[Digest, bytes] = {}
    for digest, size in await store.listing("", b"", len(wanted) + 10):
        found[digest] = await streamed(store, digest, size)
    assert found == wanted
    assert store.totals == Totals(len(wanted), sum(map(len, wanted.values())))
    assert (await store.tree()).root == Tree(wanted).root


def flip(path: Path, at: int) -> None:
    """One bit of one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])


def smash(path: Path, at: int) -> None:
    """All bits of one byte: more than can be mended."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def grow(path: Path, rest: bytes) -> None:
    path.write_bytes(path.read_bytes() + rest)


# --- the end of the log ----------------------------------------------------------------------


# Every byte where the index is as a crash leaves it; where it has to be rebuilt, now and then.
@pytest.mark.parametrize(("index", "step"), [("older", 1), ("lost", 11), ("newer", 11)])
async def test_an_unfinished_record_is_cut_wherever_it_ends(
    place: Place, index: str, step: int
) -> None:
    await place.keep([ONE], [TWO])
    older = place.index.read_bytes()
    whole = place.segment(1).stat().st_size
    await place.keep([THREE[:20]])
    newer, last = place.index.read_bytes(), place.segment(2).read_bytes()
    for end in range(SEGMENT_HEADER, len(last), step):
        place.without_index()
        if index != "lost":
            place.index.write_bytes(older if index == "older" else newer)
        place.segment(2).write_bytes(last[:end])
        async with place.opened() as store:
            await expect(store, [ONE, TWO])
        torn = end - SEGMENT_HEADER
        # The newer index knows that this one was acknowledged: of that nothing is ever cut.
        cut = torn if index != "newer" else 0
        assert place.segment(2).stat().st_size == end - cut
        assert (f"{torn} bytes of an unfinished write cut" in place.note) == (cut > 0)
        assert ("newer than the log" in place.note) == (index == "newer")
        lost = [digest_of(THREE[:20])] if index == "newer" else []
        assert [each.digest for each in store.wants.first] == lost
    assert place.segment(1).stat().st_size == whole
    await place.holds(ONE, TWO)


async def test_the_last_record_of_several_is_cut_alone(place: Place) -> None:
    await place.keep([ONE], [TWO], [b"last"])
    data = place.segment(1).read_bytes()
    before = len(data) - HEADER - len(b"last")
    for end in range(before, len(data)):
        place.without_index()
        place.segment(1).write_bytes(data[:end])
        async with place.opened() as store:
            await expect(store, [ONE, TWO])
        assert place.segment(1).read_bytes() == data[:before]
    await place.holds(ONE, TWO)


@pytest.mark.parametrize("size", [0, 1, SEGMENT_HEADER - 1])
async def test_a_segment_without_a_whole_header_is_removed(place: Place, size: int) -> None:
    await place.keep([ONE])
    header = place.segment(1).read_bytes()[:size]
    place.segment(2).write_bytes(header)
    async with place.opened() as store:
        assert not place.segment(2).exists()
        await expect(store, [ONE])
    await place.holds(ONE)


async def test_a_removed_segment_does_not_cost_the_index(place: Place) -> None:
    await place.keep([ONE])
    place.segment(2).write_bytes(b"MESHSEG1")
    async with place.opened():
        pass
    await place.stays(ONE)


RANDOM = Random(1)
GARBAGE = {
    "a byte": b"\0",
    "zeros": bytes(5000),
    "noise": RANDOM.randbytes(3000),
    "the mark of a record": b"mREC",
    "many marks": b"mREC" * 500,
    "a mark at the very end": RANDOM.randbytes(100) + b"mRE",
    "a header with a wrong sum": b"mREC\x01\x01\0\0" + bytes(48),
    "a header of a large blob": b"mREC\x02\x01\0\0" + bytes(48),
    "a header of a huge blob": b"mREC\x01\x01\0\0" + bytes(32) + b"\xff" * 16,
}


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("index", ["here", "lost"])
async def test_garbage_behind_the_last_record_is_cut(
    place: Place, garbage: str, index: str
) -> None:
    await place.keep([ONE, TWO])
    data = place.segment(1).read_bytes()
    grow(place.segment(1), GARBAGE[garbage])
    if index == "lost":
        place.without_index()
    async with place.opened() as store:
        await expect(store, [ONE, TWO])
    assert place.segment(1).read_bytes() == data
    assert f"{len(GARBAGE[garbage])} bytes of an unfinished write cut" in place.note
    await place.holds(ONE, TWO)


async def test_a_record_twice_is_one_blob(place: Place) -> None:
    await place.keep([ONE, TWO])
    grow(place.segment(1), place.segment(1).read_bytes()[SEGMENT_HEADER:])
    async with place.opened() as store:
        await expect(store, [ONE, TWO])
    place.without_index()
    await place.holds(ONE, TWO)


# --- damage with good records behind it ------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS)
async def test_a_record_with_one_wrong_bit_in_its_header_is_adopted(
    place: Place, field: str
) -> None:
    """Also the last one of the newest segment, which is not taken for a write that was cut."""
    await place.keep([ONE], [TWO])
    flip(place.segment(1), SEGMENT_HEADER + HEADER + len(ONE) + FIELDS[field])
    data = place.segment(1).read_bytes()
    place.without_index()
    async with place.opened() as store:
        await expect(store, [ONE, TWO])
        assert place.segment(1).read_bytes() == data
    await place.stays(ONE, TWO)


@pytest.mark.parametrize("field", [*FIELDS, "bytes"])
async def test_a_damaged_record_is_set_aside_and_those_behind_it_adopted(
    place: Place, field: str
) -> None:
    await place.keep([ONE], [TWO], [THREE])
    at = SEGMENT_HEADER + HEADER + len(ONE)
    smash(place.segment(1), at + FIELDS.get(field, HEADER + 5))
    data = place.segment(1).read_bytes()
    place.without_index()
    async with place.opened() as store:
        await expect(store, [ONE, THREE])
        assert f"{HEADER + len(TWO)} damaged bytes left where they are" in place.note
        assert place.segment(1).read_bytes() == data, "what is damaged is never cut"
        await commit(store, TWO)
        await expect(store, [ONE, TWO, THREE])
    await place.stays(ONE, TWO, THREE)


async def test_damage_in_many_places_costs_only_what_it_hits(place: Place) -> None:
    random = Random(2)
    blobs = [b"%d " % number + random.randbytes(random.randrange(300)) for number in range(60)]
    await place.keep(blobs)
    kept, at = [], SEGMENT_HEADER
    for number, data in enumerate(blobs):
        if number % 3 == 0 and number:
            smash(place.segment(1), at + random.randrange(HEADER + len(data)))
        else:
            kept.append(data)
        at += HEADER + len(data)
    place.without_index()
    await place.holds(*kept)


# What looks for the next record reads a MiB at a time: the mark may lie across two of these.
@pytest.mark.parametrize("offset", range(-5, 3))
async def test_a_record_far_behind_the_damage_is_found(place: Place, offset: int) -> None:
    far = bytes(1024 * 1024 + 1 - HEADER + offset)
    await place.keep([ONE], [far], [TWO])
    smash(place.segment(1), SEGMENT_HEADER + HEADER + len(ONE))
    place.without_index()
    async with place.opened() as store:
        await expect(store, [ONE, TWO])
        assert f"{HEADER + len(far)} damaged bytes" in place.note


@pytest.mark.parametrize("field", SEGMENT_FIELDS)
async def test_one_wrong_bit_in_the_header_of_a_segment_costs_nothing(
    place: Place, field: str
) -> None:
    await place.keep([ONE, TWO], [LARGE], [THREE])
    flip(place.segment(1), SEGMENT_FIELDS[field])
    place.without_index()
    await place.holds(ONE, TWO, THREE, LARGE)


@pytest.mark.parametrize("field", SEGMENT_FIELDS)
async def test_a_segment_whose_header_is_damaged_still_gives_its_blobs(
    place: Place, field: str
) -> None:
    await place.keep([ONE, TWO], [LARGE], [THREE])
    smash(place.segment(1), SEGMENT_FIELDS[field])
    # Its salt is lost, so that nothing tells a torn end from a damaged one: nothing is cut.
    grow(place.segment(1), b"torn")
    data = place.segment(1).read_bytes()
    place.without_index()
    async with place.opened() as store:
        await expect(store, [ONE, TWO, THREE, LARGE])
    assert place.segment(1).read_bytes() == data
    await place.holds(ONE, TWO, THREE, LARGE)


async def test_bytes_in_a_blob_never_pass_for_a_record(place: Place) -> None:
    await place.keep([THREE])
    theirs = place.segment(1).read_bytes()
    record = theirs[SEGMENT_HEADER:]
    large = b"mREC\x02" + record[5:]
    tricky = b"".join([theirs, record, large, record[: HEADER + 10], record])
    await place.keep([ONE], [tricky], [TWO])
    assert place.segment(2).read_bytes().count(record) == 3
    # Behind a damaged header every byte of the blob is looked at.
    smash(place.segment(2), SEGMENT_HEADER + HEADER + len(ONE))
    place.segment(1).unlink()
    place.without_index()
    async with place.opened() as store:
        await expect(store, [ONE, TWO])
        assert f"{HEADER + len(tricky)} damaged bytes" in place.note


async def test_a_record_of_another_segment_is_not_one_of_this(place: Place) -> None:
    await place.keep([ONE])
    await place.keep([TWO])
    grow(place.segment(2), place.segment(1).read_bytes()[SEGMENT_HEADER:])
    place.segment(1).unlink()
    place.without_index()
    await place.holds(TWO)


@pytest.mark.parametrize("damage", ["a flipped bit", "a lost end", "a lost segment"])
async def test_a_blob_that_is_damaged_is_never_read(place: Place, damage: str) -> None:
    async with place.opened() as store:
        await commit(store, ONE, TWO)
    await place.keep([THREE])
    async with place.opened() as store:
        if damage == "a flipped bit":
            flip(place.segment(1), -1)
        elif damage == "a lost end":
            cut(place.segment(1), -1)
        else:
            place.segment(1).unlink()
        # What is lost is not what is wrong, but both are the store's fault.
        kind = StoreError if damage == "a lost segment" else Corrupt
        with pytest.raises(kind, match=digest_of(TWO).hex()):
            await store.read(digest_of(TWO))
        with pytest.raises(kind):
            await streamed(store, digest_of(TWO), len(TWO))
        assert await store.read(digest_of(THREE)) == THREE


async def test_a_large_blob_that_lost_its_end_is_corrupt(place: Place) -> None:
    await place.keep([LARGE], [ONE])
    async with place.opened() as store:
        cut(place.large(LARGE), -1)
        with pytest.raises(Corrupt, match=f"ends at {len(LARGE) - 1} of {len(LARGE)} bytes"):
            await streamed(store, digest_of(LARGE), len(LARGE))
        place.large(LARGE).unlink()
        with pytest.raises(StoreError, match="No such file"):
            await streamed(store, digest_of(LARGE), len(LARGE))
        assert await store.read(digest_of(ONE)) == ONE


# --- the index -------------------------------------------------------------------------------


async def test_a_lost_index_is_rebuilt_from_all_segments(place: Place) -> None:
    runs = [[b"%d %d" % (run, number) for number in range(5)] for run in range(4)]
    for run in runs:
        await place.keep(run)
    await place.keep([LARGE])
    place.without_index()
    contents = [LARGE, *(data for run in runs for data in run)]
    async with place.opened() as store:
        assert place.note == "index was missing, rebuilt; 21 blobs, 21 adopted from the log"
        await expect(store, contents)
    await place.stays(*contents)


async def test_a_rebuild_of_more_blobs_than_one_transaction_takes(place: Place) -> None:
    blobs = [b"%d" % number for number in range(4096 + 10)]
    await place.keep(blobs)
    # Known ones behind the first transaction, and new ones behind those.
    grow(place.segment(1), place.segment(1).read_bytes()[SEGMENT_HEADER : SEGMENT_HEADER + 1000])
    await place.keep([ONE])
    place.without_index()
    async with place.opened() as store:
        assert "4107 adopted" in place.note
        assert store.totals == Totals(4107, sum(map(len, blobs)) + len(ONE))
        assert (await store.tree()).root == Tree(map(digest_of, [*blobs, ONE])).root


def broken_indexes(good: bytes) -> dict[str, bytes]:
    return {
        "noise": Random(3).randbytes(20_000),
        "text": b"not an index\n" * 100,
        "empty": b"",
        "a byte": b"S",
        "its first page": good[:4096],
        "a broken header": b"XQLite" + good[6:],
        "pages of noise": good[:4096] + Random(4).randbytes(len(good) - 4096),
        "of another version": good[:60] + b"\0\0\0\x63" + good[64:],
    }


@pytest.mark.parametrize("kind", broken_indexes(bytes(8192)))
async def test_a_broken_index_is_rebuilt(place: Place, kind: str) -> None:
    await place.keep([ONE, TWO], [LARGE])
    await place.keep([THREE])
    place.index.write_bytes(broken_indexes(place.index.read_bytes())[kind])
    async with place.opened() as store:
        assert "4 adopted from the log" in place.note
        await expect(store, [ONE, TWO, THREE, LARGE])
    await place.stays(ONE, TWO, THREE, LARGE)


async def test_an_index_that_breaks_while_it_is_used_is_rebuilt(place: Place) -> None:
    blobs = [b"blob %d" % number for number in range(600)]
    await place.keep(blobs)
    with sqlite3.connect(place.index) as index:
        (root,) = index.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'blobs'"
        ).fetchone()
    index.close()
    data = place.index.read_bytes()
    at = (root - 1) * 4096
    place.index.write_bytes(data[:at] + Random(5).randbytes(4096) + data[at + 4096 :])
    async with place.opened() as store:
        rebuilt: list[int] = []
        store.watch(lambda _: None, lambda: rebuilt.append(1))
        assert await store.read(digest_of(blobs[0])) == blobs[0]
        await commit(store, b"new")
        assert rebuilt == [1]
        await expect(store, [*blobs, b"new"])


async def test_many_at_once_meet_a_broken_index_and_none_is_told_wrong(place: Place) -> None:
    blobs = [b"blob %d" % number for number in range(3000)]
    await place.keep(blobs)
    size = place.index.stat().st_size
    store = DiskStore(DiskFiles(place.root), place.index, Lane, Threads(2))
    await store.open()
    rebuilt: list[int] = []
    store.watch(lambda _: None, lambda: rebuilt.append(1))
    with place.index.open("r+b") as file:
        file.seek(4096)  # the schema is on the first page, and known already
        file.write(Random(6).randbytes(size - 4096))

    async def read(number: int) -> None:
        data = blobs[number * 7]
        assert await store.read(digest_of(data)) == data
        some = [digest_of(data) for data in blobs[number : number + 20]]
        entries = await store.batch(some, 10**6)
        assert [entry.data for entry in entries] == blobs[number : number + 20]

    async def write(number: int) -> None:
        await store.commit([Blob(digest_of(data), data) for data in (b"new %d" % number,)])

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(read, number)
            await write(0)
            await write(1)
    assert rebuilt == [1]
    await expect(store, [*blobs, b"new 0", b"new 1"])
    await store.close()


async def test_a_rebuild_that_fails_is_tried_again_by_whoever_asks_next(place: Place) -> None:
    await place.keep([ONE, TWO])
    files = Failing(place.root)
    store = DiskStore(files, place.index, lambda _: Inline(), Inline())
    await store.open()
    data = place.index.read_bytes()
    place.index.write_bytes(data[:4096] + bytes(len(data) - 4096))
    files.failing = True
    for _ in range(3):
        with pytest.raises(StoreError):
            await store.read(digest_of(ONE))
        with pytest.raises(StoreError):
            await commit(store, THREE)
    files.failing = False
    assert await store.read(digest_of(ONE)) == ONE
    await commit(store, THREE)
    await expect(store, [ONE, TWO, THREE])
    await store.close()


class Failing(DiskFiles):
    """A directory that cannot be listed for a while."""

    failing = False

    def list(self, name: str) -> list[Listed]:
        if self.failing:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)
        return super().list(name)


def altered(index: Path, *statements: str) -> None:
    """Change an index as rot does, as far as SQLite can tell: it is a good database still."""
    db = sqlite3.connect(index)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


ONES = f"x'{digest_of(ONE).hex()}'"
ALTERED = {
    "an offset": f"UPDATE blobs SET offset = offset + 8 WHERE digest = {ONES}",
    "a segment": f"UPDATE blobs SET segment = 9 WHERE digest = {ONES}",
    "a size": f"UPDATE blobs SET size = size + 1 WHERE digest = {ONES}",
    "a size that makes it large": f"UPDATE blobs SET size = 5000000 WHERE digest = {ONES}",
    "a digest": f"UPDATE blobs SET digest = x'{bytes(32).hex()}' WHERE digest = {ONES}",
    "a short digest": f"UPDATE blobs SET digest = x'00' WHERE digest = {ONES}",
    "text for a number": f"UPDATE blobs SET offset = 'far' WHERE digest = {ONES}",
    "every offset": "UPDATE blobs SET offset = 0",
    "a lost row": f"DELETE FROM blobs WHERE digest = {ONES}",
    "all rows lost": "DELETE FROM blobs",
    "the mark": "UPDATE state SET offset = offset - 10",
    "the totals": "UPDATE state SET blobs = blobs + 1",
    "no state": "DELETE FROM state",
}


@pytest.mark.parametrize("how", ALTERED)
async def test_an_index_that_is_not_what_was_written_is_rebuilt(place: Place, how: str) -> None:
    await place.keep([ONE, TWO], [LARGE], [THREE])
    segment = place.segment(1).read_bytes()
    altered(place.index, ALTERED[how])
    async with place.opened() as store:
        # As a node does it: what is served meanwhile is checked, and the tree checks the index.
        with suppress(StoreError):
            assert await store.read(digest_of(ONE)) in (ONE, None)
        await store.tree()
        await expect(store, [ONE, TWO, THREE, LARGE])
    assert place.segment(1).read_bytes() == segment, "a wrong mark must not cut the log"
    await place.holds(ONE, TWO, THREE, LARGE)


async def test_a_good_but_empty_index_beside_segments_is_filled(place: Place) -> None:
    empty = place.root.parent / "empty"
    empty.mkdir()
    await Place(empty).keep()
    await place.keep([ONE, TWO], [LARGE])
    shutil.copy(empty / "index.sqlite", place.index)
    async with place.opened() as store:
        assert place.note == "3 blobs, 3 adopted from the log"
        await expect(store, [ONE, TWO, LARGE])
    await place.stays(ONE, TWO, LARGE)


async def test_a_byte_flipped_anywhere_in_the_index_loses_and_invents_nothing(
    place: Place,
) -> None:
    contents = [b"blob %d" % number for number in range(40)]
    await place.keep(contents)
    good, random = place.index.read_bytes(), Random(4)
    used = [at for at, byte in enumerate(good) if byte]  # zeros are mostly room between cells
    log_ = place.segment(1).read_bytes()
    for at in random.sample(used, 60) + list(range(16, 100, 4)):
        place.without_index()
        data = bytearray(good)
        data[at] ^= 1 << random.randrange(8)
        place.index.write_bytes(data)
        async with place.opened() as store:
            await store.tree()
            await expect(store, contents)
        assert place.segment(1).read_bytes() == log_


@pytest.mark.parametrize("left", ["nothing", "a header", "half"])
async def test_an_index_that_is_newer_than_the_log_is_rebuilt(place: Place, left: str) -> None:
    await place.keep([ONE, TWO])
    await place.keep([THREE])
    last = place.segment(2)
    if left == "nothing":
        last.unlink()
    else:
        cut(last, SEGMENT_HEADER if left == "a header" else last.stat().st_size // 2)
    async with place.opened() as store:
        assert place.note.startswith("index was newer than the log, rebuilt; 2 blobs")
        await expect(store, [ONE, TWO])
    await place.holds(ONE, TWO)


async def test_an_older_index_is_brought_up_to_the_log(place: Place, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    await place.keep([ONE])
    shutil.copy(place.index, copy)
    await place.keep([TWO], [LARGE])
    await place.keep([THREE])
    shutil.copy(copy, place.index)
    async with place.opened() as store:
        assert place.note == "4 blobs, 3 adopted from the log"
        await expect(store, [ONE, TWO, THREE, LARGE])
    await place.stays(ONE, TWO, THREE, LARGE)


async def test_rows_that_were_lost_from_the_index_come_back(place: Place) -> None:
    await place.keep([ONE], [TWO], [THREE])
    index = sqlite3.connect(place.index)
    index.execute("DELETE FROM blobs WHERE digest = ?", (digest_of(TWO),))
    index.execute(
        "UPDATE state SET offset = ?, blobs = 2, bytes = bytes - ?", (SEGMENT_HEADER, len(TWO))
    )
    index.commit()
    index.close()
    async with place.opened() as store:
        # Whoever changes rows does not know the sums: nothing of it is trusted.
        assert "its state is not what was written" in place.note
        assert "rebuilt; 3 blobs, 3 adopted from the log" in place.note
        await expect(store, [ONE, TWO, THREE])


# --- large blobs -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["missing", "truncated", "empty", "longer", "a directory"])
async def test_a_large_blob_without_its_bytes_is_not_adopted(place: Place, state: str) -> None:
    await place.keep([ONE], [LARGE], [TWO])
    file = place.large(LARGE)
    file.unlink()
    left = {"truncated": LARGE[:-1], "empty": b"", "longer": LARGE + b"x"}
    if state in left:
        file.write_bytes(left[state])
    if state == "a directory":
        file.mkdir()
    place.without_index()
    async with place.opened() as store:
        await expect(store, [ONE, TWO])
        if state == "a directory":
            return  # somebody has to remove it before this blob can be kept
        await commit(store, LARGE)
        await expect(store, [ONE, TWO, LARGE])
    await place.stays(ONE, TWO, LARGE)


async def test_a_link_in_place_of_a_large_blob_is_not_one(place: Place, tmp_path: Path) -> None:
    await place.keep([ONE], [LARGE])
    place.large(LARGE).rename(tmp_path / "elsewhere")
    place.large(LARGE).symlink_to(tmp_path / "elsewhere")
    place.without_index()
    async with place.opened() as store:
        await expect(store, [ONE])


async def test_a_large_file_without_a_record_is_not_a_blob(place: Place) -> None:
    await place.keep([ONE])
    file = place.large(LARGE)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(LARGE)
    place.without_index()
    async with place.opened() as store:
        await expect(store, [ONE])
        await commit(store, LARGE)
    await place.stays(ONE, LARGE)


# --- other people's files --------------------------------------------------------------------


async def test_unfinished_uploads_are_swept(place: Place) -> None:
    await place.keep([ONE])
    for name in ("1", "17", "whatever"):
        (place.root / "tmp" / name).write_bytes(b"half")
    async with place.opened() as store:
        assert place.note == "1 blobs, 3 unfinished uploads removed"
        assert list((place.root / "tmp").iterdir()) == []
        await commit(store, LARGE)
    await place.stays(ONE, LARGE)


async def test_what_is_not_ours_is_left_alone_and_said(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await place.keep([ONE], [LARGE])
    outside = tmp_path / "outside"
    outside.write_bytes(place.segment(1).read_bytes())
    names = ["notes.txt", "1.seg", "00000007.seg.bak", "0000000x.seg", ".seg", "00000000.seg"]
    names += ["-0000001.seg", "００００００１１.seg", "00000011.SEG"]
    for name in names:
        (place.root / "segments" / name).write_bytes(b"not ours")
    (place.root / "segments" / "00000020.seg").mkdir()
    (place.root / "segments" / "00000021.seg").symlink_to(outside)
    (place.root / "tmp" / "link").symlink_to(outside)
    (place.root / "tmp" / "folder").mkdir()
    (place.root / "large" / "notes.txt").write_bytes(b"not ours")
    (place.root / "notes").write_bytes(b"not ours")
    os.mkfifo(place.root / "pipe")
    before = snapshot(place.root)
    for index in ("here", "lost"):
        if index == "lost":
            place.without_index()
        caplog.clear()
        async with place.opened() as store:
            await expect(store, [ONE, LARGE])
        (said,) = [each.getMessage() for each in caplog.records if "foreign" in each.message]
        assert said.startswith("16 foreign entries ignored: notes, pipe, segments/")
        assert said.endswith(" and 11 more")
    assert snapshot(place.root) == before
    await place.holds(ONE, LARGE)
    assert snapshot(place.root).items() >= before.items()


def snapshot(root: Path) -> dict[str, object]:
    """Everything below `root` but the index."""
    found: dict[str, object] = {}
    for path in root.rglob("*"):
        if path.name.startswith("index.sqlite"):
            continue
        kind: object = "a pipe"
        if not path.is_fifo():
            kind = path.readlink() if path.is_symlink() else path.is_dir() or path.read_bytes()
        found[str(path.relative_to(root))] = kind
    return found


@pytest.mark.parametrize("kind", ["folder", "link"])
async def test_a_stranger_with_the_next_segments_name_does_not_block_writing(
    place: Place, kind: str, tmp_path: Path
) -> None:
    await place.keep([ONE])
    if kind == "folder":
        place.segment(2).mkdir()
    else:
        place.segment(2).symlink_to(tmp_path / "outside")
    await place.holds(ONE)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
async def test_a_pipe_in_place_of_a_large_blob_is_an_error_and_no_wait(
    place: Place, kind: str
) -> None:
    await place.keep([ONE], [LARGE])
    place.large(LARGE).unlink()
    if kind == "pipe":
        os.mkfifo(place.large(LARGE))
    else:
        place.large(LARGE).mkdir()
    async with place.opened() as store:
        with pytest.raises(StoreError):
            await streamed(store, digest_of(LARGE), len(LARGE))
        assert await streamed(store, digest_of(ONE), len(ONE)) == ONE


async def test_a_number_written_otherwise_is_not_a_segment(place: Place) -> None:
    await place.keep([ONE])
    (place.root / "segments" / "000000002.seg").write_bytes(b"not ours")
    await place.holds(ONE)


async def test_a_store_that_is_not_open_yet_says_so_and_makes_no_index(place: Place) -> None:
    # A request may come while the log is being read; it must not take that for a broken index.
    await place.keep([ONE])
    place.index.unlink()
    store = DiskStore(DiskFiles(place.root), place.index, lambda _: Inline(), Inline())
    for asked in (
        store.size(digest_of(ONE)),
        store.tree(),
        store.commit([Blob(digest_of(TWO), TWO)]),
    ):
        with pytest.raises(StoreError, match="not open"):
            await asked
    assert not place.index.exists()
    await store.close()
    await place.holds(ONE)
