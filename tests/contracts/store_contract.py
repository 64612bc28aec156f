"""What every BlobStore has to do; run by each implementation's own test file.

A test file derives from StoreContract, gives it a fixture `home`, and is done. Every test runs on
both backends, through anyio's pytest plugin.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from random import Random
from typing import Protocol

import anyio
import pytest

from mesh.core.digest import Digest, digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.core.snapshot import Snapshot, encode
from mesh.core.tree import Tree
from mesh.errors import Corrupt, StoreError
from mesh.store.base import (
    RECORD,
    WHOLE,
    Blob,
    BlobStore,
    Cursor,
    Damage,
    Entry,
    Incoming,
    Item,
    SnapshotFilter,
    Staged,
    Totals,
    Wants,
)
from mesh.store.base import ListedSnapshot as Listed

PLENTY = 2**40


class Home(Protocol):
    """A place whose content outlives the stores that work on it, one after the other."""

    remembers: bool
    """Whether notes outlive a store: they may be lost with an index that is in memory alone."""

    def store(self) -> BlobStore:
        """A store over what the earlier ones left."""

    def leftovers(self) -> int:
        """How many unfinished blobs take room there."""

    def damage(self, data: bytes) -> None:
        """Let the blob `data` rot: its bytes are others from now on."""


@asynccontextmanager
async def opened(home: Home) -> AsyncIterator[BlobStore]:
    """A store of `home`, open; closed again also when the test is cancelled."""
    store = home.store()
    await store.open()
    try:
        yield store
    finally:
        with anyio.CancelScope(shield=True):
            await store.close()


def blob(data: bytes) -> Blob:
    return Blob(digest_of(data), data)


def small_blobs(count: int, seed: int = 0, most: int = 400) -> list[Blob]:
    """Distinct blobs of some hundred bytes, the same ones for the same seed."""
    random = Random(seed)
    return [
        blob(b"%d %d " % (seed, number) + random.randbytes(random.randrange(most)))
        for number in range(count)
    ]


async def put(store: BlobStore, data: bytes, cuts: Sequence[int] = ()) -> bool:
    """Take `data` in, in chunks that end at `cuts`, and commit it; whether it was new."""
    async with store.incoming() as arriving:
        item = await fill(arriving, data, cuts)
        return (await store.commit([item]))[0]


async def fill(arriving: Incoming, data: bytes, cuts: Sequence[int] = ()) -> Item:
    for start, stop in pairwise([0, *cuts, len(data)]):
        await arriving.write(data[start:stop])
    return await arriving.finish()


async def lost_upload(store: BlobStore, data: bytes) -> None:
    """The client goes away after the last byte but before it says so."""
    async with store.incoming() as arriving:
        await arriving.write(data)
        raise LookupError("the client went away")


async def streamed(store: BlobStore, digest: Digest, start: int, stop: int) -> bytes:
    return b"".join([piece async for piece in store.stream(digest, start, stop)])


async def expect(store: BlobStore, contents: Iterable[bytes]) -> None:
    """`store` holds exactly `contents`, by every way of asking it."""
    wanted = {digest_of(data): data for data in contents}
    assert store.totals == Totals(len(wanted), sum(map(len, wanted.values())))
    sizes = sorted((digest, len(data)) for digest, data in wanted.items())
    assert await store.listing("", b"", len(wanted) + 1) == sizes
    assert (await store.tree()).root == Tree(wanted).root
    for digest, data in wanted.items():
        assert await store.size(digest) == len(data)
        assert await streamed(store, digest, 0, len(data)) == data
        if len(data) < LARGE_BLOB:
            assert await store.read(digest) == data


def first_entries(held: dict[Digest, bytes], asked: Sequence[Digest], room: int) -> list[Entry]:
    """What a batch has to say, written down once more: entries until the next would not fit."""
    entries: list[Entry] = []
    for digest in asked:
        data = held.get(digest)
        if data is None:
            entries.append(Entry(digest, None, None))
        elif len(data) >= LARGE_BLOB:
            entries.append(Entry(digest, len(data), None))
        elif entries and len(data) > room:
            return entries
        else:
            entries.append(Entry(digest, len(data), data))
            room -= len(data)
    return entries


@pytest.mark.anyio
class StoreContract:
    @pytest.fixture
    def home(self) -> Home:
        raise NotImplementedError("a test of a store says where it is")

    # --- commit ------------------------------------------------------------------------------

    async def test_a_new_store_is_empty(self, home: Home) -> None:
        async with opened(home) as store:
            await expect(store, [])
            assert (await store.tree()).root == Tree().root

    async def test_a_commit_tells_new_blobs_from_known_ones(self, home: Home) -> None:
        one, two, three = small_blobs(3)
        async with opened(home) as store:
            assert await store.commit([one]) == [True]
            assert await store.commit([one]) == [False]
            assert await store.commit([two, one, three]) == [True, False, True]
            await expect(store, [one.data, two.data, three.data])

    async def test_a_blob_that_is_twice_in_a_batch_is_new_once(self, home: Home) -> None:
        one, two = small_blobs(2)
        async with opened(home) as store:
            assert await store.commit([one, two, one, one]) == [True, True, False, False]
            await expect(store, [one.data, two.data])

    async def test_a_commit_of_nothing_changes_nothing(self, home: Home) -> None:
        async with opened(home) as store:
            assert await store.commit([]) == []
            await expect(store, [])

    async def test_a_batch_of_more_blobs_than_a_system_call_takes(self, home: Home) -> None:
        # Linux takes 1,024 buffers at a time, SQLite 32,766 parameters.
        batch = small_blobs(1500, most=20)
        async with opened(home) as store:
            assert await store.commit(batch) == [True] * len(batch)
            assert await store.commit(batch) == [False] * len(batch)
            assert store.totals == Totals(len(batch), sum(item.size for item in batch))
            assert (await store.tree()).root == Tree(item.digest for item in batch).root
            for item in batch[::100]:
                assert await store.read(item.digest) == item.data

    async def test_the_empty_blob_is_a_blob(self, home: Home) -> None:
        empty = blob(b"")
        async with opened(home) as store:
            assert await store.commit([empty]) == [True]
            assert await store.commit([empty]) == [False]
            assert await store.batch([empty.digest], 0) == [Entry(empty.digest, 0, b"")]
            await expect(store, [b""])

    async def test_a_blob_that_is_not_here(self, home: Home) -> None:
        nowhere = digest_of(b"nowhere")
        async with opened(home) as store:
            await store.commit(small_blobs(3))
            assert await store.size(nowhere) is None
            assert await store.read(nowhere) is None
            assert await store.batch([nowhere], PLENTY) == [Entry(nowhere, None, None)]
            with pytest.raises(StoreError):
                await streamed(store, nowhere, 0, 1)

    # --- sizes, and blobs that arrive ----------------------------------------------------------

    @pytest.mark.parametrize("size", [LARGE_BLOB - 1, LARGE_BLOB, LARGE_BLOB + 1])
    async def test_blobs_around_the_size_where_they_become_large(
        self, home: Home, size: int
    ) -> None:
        data = Random(size).randbytes(size)
        digest, large = digest_of(data), size >= LARGE_BLOB
        async with opened(home) as store:
            async with store.incoming() as arriving:
                item = await fill(arriving, data, cuts=[1, 65_536, 3_000_001])
                assert (item.digest, item.size, arriving.size) == (digest, size, size)
                assert isinstance(item, Staged)
                assert isinstance(item, Blob) != large
                assert await store.size(digest) is None, "finished is not committed"
                assert await store.commit([item]) == [True]
            assert not await put(store, data)
            entry = Entry(digest, size, None if large else data)
            assert await store.batch([digest], PLENTY) == [entry]
            await expect(store, [data])
        async with opened(home) as store:
            await expect(store, [data])
            assert home.leftovers() == 0

    @pytest.mark.parametrize("step", [1, 7, 1000, 65_537])
    async def test_chunks_of_any_size_make_the_same_blob(self, home: Home, step: int) -> None:
        data = Random(step).randbytes(min(200_000, step * 700))
        async with opened(home) as store:
            assert await put(store, data, range(step, len(data), step))
            assert not await put(store, data)
            await expect(store, [data])

    async def test_chunks_may_be_empty(self, home: Home) -> None:
        async with opened(home) as store:
            assert await put(store, b"", cuts=[0, 0])
            assert await put(store, b"abc", cuts=[0, 1, 1, 3, 3])
            await expect(store, [b"", b"abc"])

    async def test_a_batch_may_hold_small_and_large_blobs(self, home: Home) -> None:
        one, two = small_blobs(2)
        data = bytes(LARGE_BLOB + 5)
        async with opened(home) as store:
            async with store.incoming() as first, store.incoming() as second:
                large, again = await fill(first, data), await fill(second, data)
                batch = [one, large, two, again, one]
                assert await store.commit(batch) == [True, True, True, False, False]
            assert home.leftovers() == 0
            await expect(store, [one.data, two.data, data])

    @pytest.mark.parametrize("size", [10, LARGE_BLOB - 1, LARGE_BLOB + 1_500_000])
    async def test_what_is_not_committed_leaves_nothing(self, home: Home, size: int) -> None:
        data = bytes(size)
        async with opened(home) as store:
            await store.commit([blob(b"kept")])
            async with store.incoming() as arriving:
                await arriving.write(data)
            async with store.incoming() as arriving:
                await fill(arriving, data)
            with pytest.raises(LookupError):
                await lost_upload(store, data)
            with anyio.CancelScope() as scope:
                async with store.incoming() as arriving:
                    await fill(arriving, data)
                    scope.cancel()
                    await anyio.sleep_forever()
            assert home.leftovers() == 0
            await expect(store, [b"kept"])
        async with opened(home) as store:
            await expect(store, [b"kept"])

    # --- reading -------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [1000, LARGE_BLOB + 100_000])
    async def test_any_range_of_a_blob_can_be_streamed(self, home: Home, size: int) -> None:
        data = Random(size).randbytes(size)
        # Around the pieces in which the implementations read: 64 KiB and 512 KiB.
        edges = [0, 1, 65_535, 65_537, 524_287, 524_289, size - 1, size]
        marks = sorted({edge for edge in edges if edge <= size})
        async with opened(home) as store:
            digest = digest_of(data)
            await put(store, data)
            ranges = {each for mark in marks for each in ((0, mark), (mark, mark), (mark, size))}
            for start, stop in sorted(ranges | set(pairwise(marks))):
                assert await streamed(store, digest, start, stop) == data[start:stop]

    async def test_a_stream_may_be_left_half_way(self, home: Home) -> None:
        data = bytes(LARGE_BLOB + 1)
        async with opened(home) as store:
            await put(store, data)
            for _ in range(10):
                async with aclosing(store.stream(digest_of(data), 0, len(data))) as pieces:
                    async for piece in pieces:
                        assert 0 < len(piece) < len(data)
                        break
            await expect(store, [data])

    async def test_a_cancelled_read_does_not_block_later_ones(self, home: Home) -> None:
        one = small_blobs(1)[0]
        async with opened(home) as store:
            await store.commit([one])
            for _ in range(10):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await store.read(one.digest)
            with anyio.fail_after(30):
                assert await store.read(one.digest) == one.data

    async def test_a_batch_ends_where_its_room_is_full(self, home: Home) -> None:
        batch = [blob(bytes([number]) * size) for number, size in enumerate([50, 0, 50, 30, 1])]
        large, nowhere = bytes(LARGE_BLOB), digest_of(b"nowhere")
        held = {item.digest: item.data for item in batch} | {digest_of(large): large}
        names = [item.digest for item in batch]
        asks = [
            names,
            names[::-1],
            [nowhere, *names, nowhere],
            [digest_of(large), names[0], digest_of(large), names[2], nowhere],
            [names[0], names[0], names[4], names[0]],
            [names[0]],
            [],
        ]
        async with opened(home) as store:
            await store.commit(batch)
            await put(store, large)
            for asked in asks:
                for room in (0, 1, 49, 50, 51, 99, 100, 101, 130, 131, PLENTY):
                    expected = first_entries(held, asked, room)
                    assert await store.batch(asked, room) == expected

    async def test_many_blobs_come_by_asking_for_the_rest_again(self, home: Home) -> None:
        batch = small_blobs(700, most=50)
        left = [item.digest for item in batch]
        got: list[Entry] = []
        async with opened(home) as store:
            await store.commit(batch)
            while left:
                entries = await store.batch(left, 8000)
                assert entries, "every answer has to bring the asker further"
                got += entries
                left = left[len(entries) :]
        assert got == [Entry(item.digest, item.size, item.data) for item in batch]

    async def test_listings_are_pages_of_the_sorted_digests(self, home: Home) -> None:
        batch = small_blobs(300, most=30)
        rows = sorted((item.digest, item.size) for item in batch)
        some = rows[150][0]
        prefixes = ["", "0", "00", "7", "7f", "f", "ff", "fff", some.hex(), some.hex()[:63]]
        cursors = [b"", b"\x00", b"\x7f", bytes(32), some, some[:5], b"\xff" * 32]
        async with opened(home) as store:
            await store.commit(batch)
            for prefix in [*prefixes, "0" * 64, "f" * 64, f"{int(some[0]):02x}"]:
                for after in cursors:
                    below = [row for row in rows if row[0].hex().startswith(prefix)]
                    behind = [row for row in below if row[0] > after]
                    for limit in (1, 7, len(rows) + 1):
                        assert await store.listing(prefix, after, limit) == behind[:limit]

    async def test_pages_of_a_listing_fit_together(self, home: Home) -> None:
        batch = small_blobs(120, most=30)
        pages: list[tuple[Digest, int]] = []
        async with opened(home) as store:
            await store.commit(batch)
            while page := await store.listing("", pages[-1][0] if pages else b"", 50):
                assert len(page) <= 50
                pages += page
        assert pages == sorted((item.digest, item.size) for item in batch)

    async def test_the_tree_is_that_of_all_digests(self, home: Home) -> None:
        held: list[Blob] = []
        async with opened(home) as store:
            for seed, count in enumerate([1, 16, 300]):
                batch = small_blobs(count, seed, most=10)
                await store.commit(batch)
                held += batch
                tree = await store.tree()
                assert list(tree) == sorted(item.digest for item in held)
                assert tree.root == Tree(item.digest for item in held).root

    # --- over time -----------------------------------------------------------------------------

    async def test_everything_is_there_after_a_restart(self, home: Home) -> None:
        contents = [b"", bytes(LARGE_BLOB), *(item.data for item in small_blobs(40))]
        for round_ in range(1, 4):
            async with opened(home) as store:
                await expect(store, contents[: (round_ - 1) * 14])
                for data in contents[: round_ * 14]:
                    await put(store, data)
                await expect(store, contents[: round_ * 14])

    async def test_readers_see_every_commit_and_do_not_disturb_it(self, home: Home) -> None:
        batches = [small_blobs(20, seed) for seed in range(20)]
        large = bytes(LARGE_BLOB + 1)
        done: list[Blob] = []
        writing = True

        async def write() -> None:
            nonlocal writing
            for batch in batches:
                assert all(await store.commit(batch))
                done.extend(batch)
            await put(store, large)
            writing = False

        async def read(seed: int) -> None:
            random = Random(seed)
            while writing:
                there = len(done)
                if not there:
                    await anyio.lowlevel.checkpoint()
                    continue
                some = random.choices(done[:there], k=10)
                entries = await store.batch([item.digest for item in some], PLENTY)
                assert entries == [Entry(item.digest, item.size, item.data) for item in some]
                assert await store.read(some[0].digest) == some[0].data
                page = await store.listing("", b"", len(batches) * 20 + 2)
                assert page == sorted(page)
                assert {item.digest for item in done[:there]} <= {digest for digest, _ in page}
                assert store.totals.blobs >= there
                assert len(await store.tree()) >= there

        async with opened(home) as store:
            async with anyio.create_task_group() as group:
                group.start_soon(write)
                for seed in range(4):
                    group.start_soon(read, seed)
            await expect(store, [large, *(item.data for batch in batches for item in batch)])

    # --- damage --------------------------------------------------------------------------------

    async def test_what_can_be_sent_at_once_is_not_being_verified(self, home: Home) -> None:
        small, large = b"small", bytes(LARGE_BLOB + 5)
        async with opened(home) as store:
            await store.commit([blob(small)])
            async with store.incoming() as arriving:
                await arriving.write(large)
                await store.commit([await arriving.finish()])
            for data in (small, large, b"not here"):
                assert await store.verified(digest_of(data), 0.0)
            assert list(store.verifying) == []
            pieces = store.stream(digest_of(large), 0, 10)
            assert [piece async for piece in pieces] == [large[:10]]

    @pytest.mark.parametrize("size", [1000, LARGE_BLOB + 100_000])
    async def test_a_damaged_blob_is_told_and_never_given(self, home: Home, size: int) -> None:
        good, bad = Random(1).randbytes(size), Random(2).randbytes(size)
        async with opened(home) as store:
            damages = watched(store)
            await put(store, good)
            await put(store, bad)
            home.damage(bad)
            digest = digest_of(bad)
            with pytest.raises(Corrupt, match=digest.hex()):
                await streamed(store, digest, 0, size)
            assert [damage.digest for damage in damages] == [digest]
            assert damages[0].reason
            if size < LARGE_BLOB:
                with pytest.raises(Corrupt):
                    await store.read(digest)
                entries = await store.batch([digest, digest_of(good)], PLENTY)
                assert entries == [Entry(digest, None, None), Entry(digest_of(good), size, good)]
                assert len(damages) == 3
            assert await streamed(store, digest_of(good), 0, size) == good

    @pytest.mark.parametrize("size", [1000, LARGE_BLOB + 100_000])
    async def test_what_is_discarded_is_wanted_until_it_is_back(
        self, home: Home, size: int
    ) -> None:
        good, bad = Random(3).randbytes(size), Random(4).randbytes(size)
        digest = digest_of(bad)
        async with opened(home) as store:
            damages = watched(store)
            await put(store, good)
            await put(store, bad)
            home.damage(bad)
            with pytest.raises(Corrupt):
                await streamed(store, digest, 0, size)
            assert await store.discard([*damages, *damages]) == [digest, digest]
            await expect(store, [good])
            assert await store.size(digest) is None
        for _ in range(2):
            async with opened(home) as store:
                await expect(store, [good])
                assert store.wants.total == 1
                (wanted,) = store.wants.first
                assert (wanted.digest, wanted.reason) == (digest, damages[0].reason)
        async with opened(home) as store:
            assert await put(store, bad)
            assert store.wants.total == 0
            await expect(store, [good, bad])
        async with opened(home) as store:
            await expect(store, [good, bad])
            assert store.wants == Wants(0, [])

    async def test_a_report_about_a_good_blob_changes_nothing(self, home: Home) -> None:
        large = bytes(LARGE_BLOB)
        async with opened(home) as store:
            await put(store, b"one")
            await put(store, large)
            reports = [
                Damage(digest_of(data), "a mistake", piece)
                for data in (b"one", large)
                for piece in (WHOLE, RECORD, 0)
            ]
            assert await store.discard(reports) == []
            assert store.wants.total == 0
            await expect(store, [b"one", large])

    async def test_a_blob_that_is_said_to_be_gone_and_is_not_here_is_wanted(
        self, home: Home
    ) -> None:
        async with opened(home) as store:
            lost = Damage(digest_of(b"lost"), "nobody has seen it")
            assert await store.discard([lost]) == [lost.digest]
            assert await store.discard([lost]) == [lost.digest]
            assert store.wants.total == 1
            await expect(store, [])

    @pytest.mark.parametrize("room", [1, 1000, 600_000, PLENTY])
    async def test_a_scrub_reads_everything_once_and_finds_what_is_damaged(
        self, home: Home, room: int
    ) -> None:
        contents = [item.data for item in small_blobs(30)] + [bytes(LARGE_BLOB + 5), b"last"]
        async with opened(home) as store:
            damages = watched(store)
            for data in contents:
                await put(store, data)
            reads = store.reads
            assert await scrubbed(store, room) == (len(contents), 0)
            assert store.reads == reads, "a scrub is not what it yields to"
            assert damages == []
            for data in (contents[0], contents[17], contents[30]):
                home.damage(data)
            blobs, damaged = await scrubbed(store, room)
            assert (blobs, damaged) == (len(contents), 3)
            found = {damage.digest for damage in damages}
            assert found == {digest_of(contents[at]) for at in (0, 17, 30)}
            await store.discard(damages)
            assert await scrubbed(store, room) == (len(contents) - 3, 0)

    async def test_snapshots_are_listed_the_newest_first(self, home: Home) -> None:
        one, two, tagged = told(1), told(2, host="b"), told(3, path=b"/\xff", tag="t")
        twin = told(3, host="b")
        nonsense = encode(one.snapshot)[:-1] + b" "
        newest = sorted([tagged, twin], key=lambda each: each.digest, reverse=True)
        everything = [*newest, two, one]
        async with opened(home) as store:
            await put(store, b"no snapshot")
            await put(store, nonsense)
            for each in (two, tagged, one):
                await put(store, encode(each.snapshot))
            await put(store, encode(twin.snapshot))
            await put(store, encode(two.snapshot))
        async with opened(home) as store:
            assert await store.snapshots(SnapshotFilter(), None, 10) == everything
            assert await store.snapshots(SnapshotFilter(), None, 1) == everything[:1]
            for at, last in enumerate(everything):
                before = (last.snapshot.time, last.digest)
                rest = everything[at + 1 :]
                assert await store.snapshots(SnapshotFilter(), before, 10) == rest
            for asked, found in (
                (SnapshotFilter(host="b"), [twin, two]),
                (SnapshotFilter(host="b", path=b"/p"), [twin, two]),
                (SnapshotFilter(path=b"/\xff"), [tagged]),
                (SnapshotFilter(tag="t"), [tagged]),
                (SnapshotFilter(host="a", tag="u"), []),
            ):
                assert await store.snapshots(asked, None, 10) == found

    async def test_a_snapshot_that_is_lost_is_not_listed_until_it_is_back(self, home: Home) -> None:
        one, two = told(1), told(2)
        async with opened(home) as store:
            damages = watched(store)
            for each in (one, two):
                await put(store, encode(each.snapshot))
            home.damage(encode(two.snapshot))
            with pytest.raises(Corrupt):
                await store.read(two.digest)
            await store.discard(damages)
            assert await store.snapshots(SnapshotFilter(), None, 10) == [one]
            await put(store, encode(two.snapshot))
            assert await store.snapshots(SnapshotFilter(), None, 10) == [two, one]

    async def test_what_is_here_has_a_place(self, home: Home) -> None:
        small, large = b"small", bytes(LARGE_BLOB)
        async with opened(home) as store:
            for data in (small, large):
                assert await store.place(digest_of(data)) is None
                await put(store, data)
                place = await store.place(digest_of(data))
                assert place is not None
                assert (place.size, bool(place.file)) == (len(data), True)

    async def test_notes_outlive_a_restart(self, home: Home) -> None:
        async with opened(home) as store:
            assert await store.noted("scrub") is None
            await store.note("scrub", b"one")
            await store.note("scrub", b"two")
        async with opened(home) as store:
            assert await store.noted("scrub") == (b"two" if home.remembers else None)
            assert await store.noted("other") is None


def told(second: int, *, host: str = "a", path: bytes = b"/p", tag: str | None = None) -> Listed:
    """A snapshot of that second."""
    time = f"2026-11-30T00:00:{second:02}.000Z"
    said = Snapshot(
        manifest=digest_of(b"m"), host=host, path=path, time=time, files=1, bytes=2, tag=tag
    )
    return Listed(digest_of(encode(said)), said)


def watched(store: BlobStore) -> list[Damage]:
    """What the store tells of damage from now on."""
    damages: list[Damage] = []
    store.watch(damages.append, lambda: None)
    return damages


async def scrubbed(store: BlobStore, room: int) -> tuple[int, int]:
    """A whole scrub in steps of `room` bytes: blobs checked, and found damaged."""
    cursor: Cursor | None = Cursor()
    blobs = damaged = 0
    while cursor is not None:
        step = await store.scrub(cursor, room)
        assert step.cursor != cursor, "every step has to come further"
        cursor = step.cursor
        blobs += step.blobs
        damaged += step.damaged
        assert step.bytes <= max(room, LARGE_BLOB) + LARGE_BLOB
    return blobs, damaged
