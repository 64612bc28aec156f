"""The store on a disk that fails, or loses power, at any one call: what it promises then.

All of it runs inline and in memory, with the index rebuilt from the log at every start, so that
nothing but the log can keep a promise.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from mesh.core.digest import Digest, digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.core.tree import Tree
from mesh.errors import Corrupt, Full, StoreError
from mesh.offload import Inline
from mesh.store.base import Damage, Totals
from mesh.store.disk import DiskStore
from mesh.store.files import Appender, Files
from mesh.store.layout import large_name
from mesh.store.log.segments import RECORD_HEADER, SEGMENT_HEADER, segment_name
from tests.store.faulty import FaultyFiles, Killed, MemoryFiles

pytestmark = pytest.mark.anyio

# More calls than anything here makes: a sweep that gets there would never end.
ENDLESS = 100

BEFORE = [b"before", b"", b"x" * 700]
SMALL = [b"one", b"two" * 50, b"three" * 300]
LARGE = bytes(LARGE_BLOB + 3)
LATER = [b"later", b"y" * 900]
AFTER = [b"after the restart", b"z" * 900]


class Put(NamedTuple):
    """What is there already, and what is put while the disk fails.

    `calls`: how many calls it cannot do without; a sweep that met fewer proves nothing.
    """

    before: list[bytes]
    batch: list[bytes]
    calls: int


PUTS = {
    "the first batch": Put([], SMALL, 5),
    "another batch": Put(BEFORE, SMALL, 2),
    "a large blob": Put(BEFORE, [LARGE], 8),
    "small and large blobs at once": Put([], [SMALL[0], LARGE, SMALL[1]], 11),
}


class Fault(NamedTuple):
    code: int
    lasting: bool = False
    only: tuple[str, ...] = ("",)


FAULTS = {
    "no room, once": Fault(errno.ENOSPC),
    "an error, once": Fault(errno.EIO),
    # A full disk still lets files be read, renamed, closed and removed.
    "a full disk": Fault(errno.ENOSPC, True, ("append", "create", "make_directory", "sync ")),
    "a dead disk": Fault(errno.EIO, True),
}


@pytest.fixture
def anyio_backend() -> str:
    """Inline work never leaves the event loop: which one it is makes no difference here."""
    return "asyncio"


class Ledger:
    """What a store was asked to keep, and what of it was acknowledged."""

    def __init__(self, other: Ledger | None = None) -> None:
        self.offered: dict[Digest, bytes] = dict(other.offered) if other else {}
        self.acknowledged: set[Digest] = set(other.acknowledged) if other else set()

    async def put(self, store: DiskStore, contents: Sequence[bytes]) -> None:
        """One batch, taken in as a node does it."""
        self.offered.update((digest_of(data), data) for data in contents)
        async with AsyncExitStack() as stack:
            items = []
            for data in contents:
                arriving = await stack.enter_async_context(store.incoming())
                await arriving.write(data[:1000])
                await arriving.write(data[1000:])
                items.append(await arriving.finish())
            await store.commit(items)
            self.acknowledged.update(item.digest for item in items)

    async def check(self, store: DiskStore) -> None:
        """What was acknowledged is here, nothing is that was not offered, and all is right."""
        names = sorted(self.offered)
        here = [digest for digest in names if await store.size(digest) is not None]
        assert self.acknowledged <= set(here)
        for digest in here:
            assert await content(store, digest) == self.offered[digest]
        sizes = [(digest, len(self.offered[digest])) for digest in here]
        assert await store.listing("", b"", len(names) + 1) == sizes
        assert store.totals == Totals(len(sizes), sum(size for _, size in sizes))
        assert (await store.tree()).root == Tree(here).root


async def content(store: DiskStore, digest: Digest) -> bytes:
    size = await store.size(digest)
    assert size is not None
    return b"".join([piece async for piece in store.stream(digest, 0, size)])


@asynccontextmanager
async def opened(files: Files, index: Path | None = None) -> AsyncIterator[DiskStore]:
    store = DiskStore(files, index, lambda _: Inline(), Inline())
    try:
        await store.open()
        yield store
    finally:
        if isinstance(files, FaultyFiles):
            files.heal()  # whatever the disk does, a process lets go of its files in the end
        with anyio.CancelScope(shield=True):
            await store.close()


async def survives(disk: MemoryFiles, ledger: Ledger) -> None:
    """A store over `disk` has what was acknowledged, takes more, and keeps that as well."""
    now = Ledger(ledger)
    async with opened(disk) as store:
        await now.check(store)
        assert disk.list("tmp") == []
        await now.put(store, AFTER)
        await now.check(store)
    async with opened(disk.crash(0)) as store:
        await now.check(store)


# --- the simulated disk itself: a test on a disk that forgets nothing would prove nothing ---------


def written(disk: MemoryFiles, name: str, data: bytes) -> Appender:
    file = disk.append_to(name, create=True)
    file.append([data])
    return file


def after_crashes(disk: MemoryFiles, name: str) -> set[bytes | None]:
    """All that a file can be after a power failure; None where it is gone."""
    folder, _, base = name.rpartition("/")
    found: set[bytes | None] = set()
    for seed in range(200):
        left = disk.crash(seed)
        there = any(entry.name == base for entry in left.list(folder))
        found.add(bytes(left.content(name)) if there else None)
    return found


def test_a_power_failure_leaves_what_was_synced_and_a_part_of_the_rest() -> None:
    disk = MemoryFiles()
    disk.make_directory("d")
    file = written(disk, "d/f", b"kept")
    file.sync()
    disk.sync_directory("d")
    assert after_crashes(disk, "d/f") == {b"kept"}
    file.append([b"xy"])
    assert after_crashes(disk, "d/f") == {b"kept", b"keptx", b"keptxy", b"keptx\0", b"kept\0\0"}
    disk.fail_sync("d/f")
    file.sync()
    assert b"kept" in after_crashes(disk, "d/f")
    disk.truncate("d/f", 2)
    assert after_crashes(disk, "d/f") == {b"ke"}


def test_a_power_failure_loses_names_that_were_not_synced() -> None:
    disk = MemoryFiles()
    for name in ("a", "b"):
        disk.make_directory(name)
    written(disk, "a/f", b"data").sync()
    assert after_crashes(disk, "a/f") == {b"data", None}
    disk.sync_directory("a")
    disk.rename("a/f", "b/g")
    assert after_crashes(disk, "b/g") == {b"data", None}
    assert after_crashes(disk, "a/f") == {b"data", None}
    disk.sync_directory("b")
    assert after_crashes(disk, "b/g") == {b"data"}
    disk.sync_directory("a")
    assert after_crashes(disk, "a/f") == {None}


def test_the_wrapper_fails_the_call_that_it_was_told_to() -> None:
    files = FaultyFiles(MemoryFiles())
    files.fail(2, errno.EIO)
    files.make_directory("a")
    with pytest.raises(OSError, match="b"):
        files.make_directory("b")
    files.make_directory("c")
    assert files.calls == ["make_directory a", "!make_directory b", "make_directory c"]
    assert files.heal()
    files.fail(1, None, only=("list",))
    files.make_directory("b")
    for _ in range(2):
        with pytest.raises(Killed):
            files.list("a")
    assert files.heal()
    assert not files.heal()
    assert files.list("a") == []


# --- a call fails ----------------------------------------------------------------------------


@pytest.mark.parametrize("put", PUTS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_whichever_call_fails_nothing_acknowledged_is_lost(put: str, fault: str) -> None:
    calls = await sweep(PUTS[put], FAULTS[fault])
    assert calls >= (PUTS[put].calls if fault != "a full disk" else 2)


async def sweep(put: Put, fault: Fault) -> int:
    """Fail the first call of a put, the second, and so on; how many calls it has."""
    for nth in range(1, ENDLESS):
        files, ledger = FaultyFiles(MemoryFiles(), seed=nth), Ledger()
        async with opened(files) as store:
            if put.before:
                await ledger.put(store, put.before)
            files.fail(nth, fault.code, lasting=fault.lasting, only=fault.only)
            try:
                await ledger.put(store, put.batch)
            except StoreError as error:
                failures = [isinstance(error, Full)]
            else:
                failures = []
            if not files.heal():
                assert failures == []
                return nth - 1
            # What went wrong after the commit need not be said; what is said has to be right.
            assert failures in ([], [fault.code == errno.ENOSPC])
            await ledger.check(store)
            if LARGE not in put.batch:  # 4 MiB take their time, and are lost to power below
                await survives(files.disk.crash(nth), ledger)
            await ledger.put(store, LATER)
            await ledger.put(store, put.batch)
            await ledger.check(store)
        check_no_second_try(files)
        await survives(files.disk.crash(nth), ledger)
    raise AssertionError("the put does not end")


def check_no_second_try(files: FaultyFiles) -> None:
    """After a failed append or sync a file is closed or removed, and nothing else."""
    for at, call in enumerate(files.calls):
        if call.startswith(("!append ", "!sync ")):
            _, name = call.split()
            later = [each for each in files.calls[at + 1 :] if each.lstrip("!").endswith(name)]
            verbs = {each.lstrip("!").partition(" ")[0] for each in later}
            made_anew = f"create {name}" in later
            assert made_anew or verbs <= {"close", "remove", "truncate", "open", "read"}, later


async def test_a_sync_that_failed_is_never_tried_again_on_that_segment() -> None:
    files, ledger = FaultyFiles(MemoryFiles()), Ledger()
    async with opened(files) as store:
        await ledger.put(store, BEFORE)
        files.fail(1, errno.EIO, only=("sync segments/",))
        with pytest.raises(StoreError, match="cannot store"):
            await ledger.put(store, SMALL)
        files.heal()
        first, second = segment_name(1), segment_name(2)
        at = files.calls.index(f"!sync {first}")
        assert f"close {first}" in files.calls[at:]
        await ledger.put(store, SMALL)
        written = [call for call in files.calls[at + 1 :] if call.startswith(("append", "sync"))]
        assert {call.split()[1] for call in written} == {second, "segments"}
        await ledger.check(store)
    for seed in range(10):
        await survives(files.disk.crash(seed), ledger)


async def test_a_full_disk_goes_on_serving_and_takes_blobs_again_when_there_is_room() -> None:
    files, ledger = FaultyFiles(MemoryFiles()), Ledger()
    async with opened(files) as store:
        await ledger.put(store, [*BEFORE, LARGE])
        fault = FAULTS["a full disk"]
        files.fail(1, fault.code, lasting=True, only=fault.only)
        for _ in range(5):
            with pytest.raises(Full):
                await ledger.put(store, SMALL)
            await ledger.check(store)
        # What is known needs no room.
        await ledger.put(store, BEFORE)
        files.heal()
        await ledger.put(store, SMALL)
        await ledger.check(store)
    await survives(files.disk.crash(0), ledger)


async def test_a_read_that_fails_is_damage_and_works_later() -> None:
    disk, ledger = MemoryFiles(), Ledger()
    async with opened(disk) as store:
        await ledger.put(store, SMALL)
    names = [digest_of(data) for data in SMALL]
    for nth in range(1, ENDLESS):
        files = FaultyFiles(disk)
        async with opened(files) as store:
            damages: list[Damage] = []
            store.watch(damages.append, lambda: None)
            files.fail(nth, errno.EIO)
            failures: list[type] = []
            for _ in range(2):
                try:
                    assert await store.read(names[0]) == SMALL[0]
                except Corrupt:
                    failures.append(Corrupt)
                entries = await store.batch(names, 10_000)
                assert all(e.data in (None, SMALL[at]) for at, e in enumerate(entries))
                failures += [Corrupt for entry in entries if entry.data is None]
            if not files.heal():
                break
            assert failures == [Corrupt]
            (damage,) = damages
            assert damage.reason.endswith("Input/output error")
            # Looked at again the blob is good: nothing is lost for one read that failed.
            assert await store.discard(damages) == []
            assert store.wants.total == 0
            await ledger.check(store)
    assert nth > 4


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
async def test_a_start_that_fails_harms_nothing(code: int) -> None:
    torn, ledger = await torn_disk(1)
    for nth in range(1, ENDLESS):
        files = FaultyFiles(torn.crash(0))
        files.fail(nth, code)
        failures: list[type] = []
        try:
            async with opened(files) as store:
                if not files.heal():
                    break
                # Without room it starts all the same, and serves what there is.
                assert code == errno.ENOSPC
                await ledger.check(store)
        except StoreError as error:
            failures.append(type(error))
        assert failures == ([] if code == errno.ENOSPC else [StoreError])
        await survives(files.disk, ledger)
    assert nth > 8


# --- the power fails -------------------------------------------------------------------------


@pytest.mark.parametrize("put", PUTS)
async def test_wherever_the_power_fails_nothing_acknowledged_is_lost(put: str) -> None:
    for nth in range(1, ENDLESS):
        disk, ledger, ended = await killed_at(nth, PUTS[put])
        for seed in range(2 if LARGE in PUTS[put].batch else 10):
            await survives(disk.crash(seed), ledger)
        if ended:
            break
    assert nth > PUTS[put].calls


async def test_wherever_the_power_fails_again_in_a_recovery_nothing_is_lost() -> None:
    for seed in range(4):
        torn, ledger = await torn_disk(seed)
        for nth in range(1, ENDLESS):
            files = FaultyFiles(torn.crash(0), seed=nth)
            files.fail(nth, None)
            try:
                async with opened(files):
                    if not files.heal():
                        break
            except Killed:
                pass
            await survives(files.disk.crash(nth), ledger)
        assert nth > 8


@pytest.mark.parametrize("put", PUTS)
async def test_wherever_the_process_is_killed_nothing_acknowledged_is_lost(put: str) -> None:
    for nth in range(1, ENDLESS):
        disk, ledger, ended = await killed_at(nth, PUTS[put])
        # The system goes on, with what it has in memory; what is acknowledged from there counts.
        async with opened(disk) as store:
            await ledger.check(store)
            await ledger.put(store, PUTS[put].batch)
        await survives(disk.crash(nth), ledger)
        if ended:
            break
    assert nth > PUTS[put].calls


async def killed_at(nth: int, put: Put) -> tuple[MemoryFiles, Ledger, bool]:
    """The disk after the process ended at the `nth` call of a put; whether it got to its end."""
    files, ledger = FaultyFiles(MemoryFiles(), seed=nth), Ledger()
    async with opened(files) as store:
        if put.before:
            await ledger.put(store, put.before)
        files.fail(nth, None)
        try:
            await ledger.put(store, put.batch)
        except Killed:
            return files.disk, ledger, False
        return files.disk, ledger, True


async def torn_disk(seed: int) -> tuple[MemoryFiles, Ledger]:
    """Two segments, the second one torn by a power failure, and an upload that was under way."""
    files, ledger = FaultyFiles(MemoryFiles(), seed=2), Ledger()
    async with opened(files) as store:
        await ledger.put(store, BEFORE)
    async with opened(files) as store:
        await ledger.put(store, LATER)
        files.fail(1, None, only=("sync segments/",))
        with pytest.raises(Killed):
            await ledger.put(store, SMALL)
    synced = SEGMENT_HEADER + sum(RECORD_HEADER + len(data) for data in LATER)
    disk = files.disk.crash(seed)
    disk.append_to("tmp/1", create=True).append([b"half an upload"])
    end = disk.append_to(segment_name(2), create=False)
    end.append([b"torn"])
    assert end.size > synced
    return disk.crash(0), ledger


# --- single cases ---------------------------------------------------------------------------


@pytest.mark.parametrize("put", ["the first batch", "another batch"])
async def test_what_a_restart_adopts_is_durable_before_it_is_acknowledged(put: str) -> None:
    files, ledger = FaultyFiles(MemoryFiles()), Ledger()
    async with opened(files) as store:
        if PUTS[put].before:
            await ledger.put(store, PUTS[put].before)
        files.fail(1, None, only=("sync segments/",))
        with pytest.raises(Killed):
            await ledger.put(store, PUTS[put].batch)
    # The process was killed, the disk was not: the records are in its cache, and adopted.
    async with opened(files.disk) as store:
        await ledger.put(store, PUTS[put].batch)
    for seed in range(10):
        await survives(files.disk.crash(seed), ledger)


async def test_what_a_failed_sync_lost_is_not_acknowledged_after_a_restart() -> None:
    files, ledger = FaultyFiles(MemoryFiles()), Ledger()
    async with opened(files) as store:
        await ledger.put(store, BEFORE)
        files.fail(1, errno.EIO, only=("sync segments/",))
        with pytest.raises(StoreError):
            await ledger.put(store, SMALL)
    async with opened(files.disk) as store:
        await ledger.put(store, SMALL)
    for seed in range(10):
        await survives(files.disk.crash(seed), ledger)


@pytest.mark.parametrize("call", ["append segments/", "sync_directory segments"])
async def test_a_new_segment_that_cannot_be_removed_does_not_block_writing(call: str) -> None:
    files, ledger = FaultyFiles(MemoryFiles()), Ledger()
    async with opened(files) as store:
        files.fail(1, errno.EIO, lasting=True, only=(call, "close", "remove"))
        with pytest.raises(StoreError):
            await ledger.put(store, SMALL)
        files.heal()
        await ledger.put(store, SMALL)
        await ledger.check(store)


@pytest.mark.parametrize("call", ["list tmp", "close tmp/"])
async def test_a_large_blob_fails_with_a_store_error_only(call: str) -> None:
    files, ledger = FaultyFiles(MemoryFiles()), Ledger()
    async with opened(files) as store:
        files.fail(1, errno.EIO, only=(call,))
        with suppress(StoreError):
            await ledger.put(store, [LARGE])


async def test_a_large_blob_that_cannot_be_read_is_corrupt() -> None:
    files, ledger = FaultyFiles(MemoryFiles()), Ledger()
    async with opened(files) as store:
        await ledger.put(store, [LARGE])
        # The first read is of its sums: without them the whole is hashed.
        files.fail(1, errno.EIO, only=("read large/",))
        assert await content(store, digest_of(LARGE)) == LARGE
        assert files.heal()
        files.fail(2, errno.EIO, only=("read large/",))
        with pytest.raises(Corrupt, match="Input/output error"):
            await content(store, digest_of(LARGE))


async def test_a_place_that_cannot_be_read_any_more_is_lost_and_written_elsewhere() -> None:
    files, ledger = FaultyFiles(MemoryFiles()), Ledger()
    damages: list[Damage] = []
    async with opened(files) as store:
        store.watch(damages.append, lambda: None)
        await ledger.put(store, [*SMALL, LARGE])
        lost = [digest_of(SMALL[1]), digest_of(LARGE)]
        files.fail(1, errno.EIO, lasting=True, only=(f"read {segment_name(1)}", "read large/"))
        for digest in lost:
            with pytest.raises(Corrupt, match="Input/output error"):
                await content(store, digest)
        assert sorted(await store.discard(damages)) == sorted(lost)
        assert store.wants.total == 2
        assert {await store.size(digest) for digest in lost} == {None}
        files.heal()
        await ledger.put(store, [SMALL[1], LARGE])
        await ledger.check(store)
        assert store.wants.total == 0
    await survives(files.disk.crash(0), ledger)


async def test_damage_that_cannot_be_noted_is_told_again() -> None:
    files, ledger = FaultyFiles(MemoryFiles()), Ledger()
    damages: list[Damage] = []
    async with opened(files) as store:
        store.watch(damages.append, lambda: None)
        await ledger.put(store, SMALL)
        files.disk.content(segment_name(1))[-1] ^= 1
        digest = digest_of(SMALL[-1])
        with pytest.raises(Corrupt):
            await store.read(digest)
        files.fail(1, errno.ENOSPC, lasting=True, only=("append", "create"))
        with pytest.raises(Full):
            await store.discard(damages)
        with pytest.raises(Corrupt):
            await store.read(digest)
        files.heal()
        assert await store.discard(damages[1:]) == [digest]
        assert await store.size(digest) is None


@pytest.mark.parametrize("large", [False, True])
async def test_wherever_the_power_fails_while_rot_is_set_aside_it_is_gone_or_still_found(
    large: bool,
) -> None:
    data = LARGE if large else SMALL[1]
    for nth in range(1, ENDLESS):
        files, ledger = FaultyFiles(MemoryFiles(), seed=nth), Ledger()
        damages: list[Damage] = []
        async with opened(files) as store:
            store.watch(damages.append, lambda: None)
            await ledger.put(store, [*SMALL, LARGE] if large else SMALL)
            name = large_name(digest_of(LARGE)) if large else segment_name(1)
            rotten = files.disk.content(name)
            rotten[rotten.index(data) + 3] ^= 1
            with pytest.raises(Corrupt):
                await content(store, digest_of(data))
            files.fail(nth, None)
            ended = True
            try:
                await store.discard(damages)
            except Killed:
                ended = False
        ledger.acknowledged.discard(digest_of(data))
        for seed in range(2 if large else 5):
            disk = files.disk.crash(seed)
            async with opened(disk) as store:
                here = await store.size(digest_of(data)) is not None
                assert not (here and ended)
                if here:
                    with pytest.raises(Corrupt):
                        await content(store, digest_of(data))
                else:
                    assert ended <= (store.wants.total == 1)
                for each in (each for each in SMALL if each != data):
                    assert await content(store, digest_of(each)) == each
        if ended:
            break
    assert nth > 4


async def test_a_read_without_a_descriptor_is_not_damage() -> None:
    files, ledger = FaultyFiles(MemoryFiles()), Ledger()
    damages: list[Damage] = []
    async with opened(files) as store:
        store.watch(damages.append, lambda: None)
        await ledger.put(store, [*SMALL, LARGE])
        files.fail(1, errno.EMFILE, lasting=True, only=("open",))
        for data in (SMALL[0], LARGE):
            with pytest.raises(StoreError) as caught:
                await content(store, digest_of(data))
            assert type(caught.value) is StoreError
        with pytest.raises(StoreError):
            await store.batch([digest_of(SMALL[0])], 1000)
        files.heal()
        assert damages == []
        await ledger.check(store)


@pytest.mark.parametrize("damage", ["a flipped bit", "a lost end"])
async def test_a_batch_never_holds_bytes_that_are_not_the_blob(damage: str) -> None:
    disk, ledger = MemoryFiles(), Ledger()
    async with opened(disk) as store:
        await ledger.put(store, SMALL)
        data = disk.content(segment_name(1))
        if damage == "a flipped bit":
            data[-1] ^= 1
        else:
            del data[-1:]
        digest = digest_of(SMALL[-1])
        with pytest.raises(Corrupt):
            await store.read(digest)
        with suppress(Corrupt):
            entries = await store.batch([digest], 10_000)
            assert [each.data for each in entries if each.data is not None] in ([], [SMALL[-1]])


async def test_a_commit_that_fails_leaves_no_large_file_behind() -> None:
    files, ledger = FaultyFiles(MemoryFiles()), Ledger()
    async with opened(files) as store:
        await ledger.put(store, BEFORE)
        files.fail(1, errno.ENOSPC, only=("append segments/",))
        with pytest.raises(Full):
            await ledger.put(store, [LARGE])
        assert await store.size(digest_of(LARGE)) is None
        name = large_name(digest_of(LARGE))
    async with opened(files):
        assert files.disk.list(name.rpartition("/")[0]) == []


async def test_what_failed_writes_left_on_a_full_disk_is_given_back(tmp_path: Path) -> None:
    files, ledger = FaultyFiles(MemoryFiles(), seed=2), Ledger()
    index = tmp_path / "index.sqlite"
    async with opened(files, index) as store:
        await ledger.put(store, BEFORE)
        used = len(files.disk.content(segment_name(1)))
        files.fail(1, errno.ENOSPC, only=("append segments/",))
        with pytest.raises(Full):
            await ledger.put(store, [b"much" * 100_000])
        await ledger.put(store, SMALL)
    async with opened(files, index) as store:
        await ledger.check(store)
        assert len(files.disk.content(segment_name(1))) == used
