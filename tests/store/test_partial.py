"""Large blobs that arrive in several goes, on a disk that fails or loses power at any one call."""

from __future__ import annotations

import base64
import errno
import json
import os
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import anyio
import pytest

from mesh.core.digest import digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.core.partial import Kept
from mesh.errors import Full, StoreError
from mesh.offload import Inline
from mesh.store.direct import DirectAppender
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles, Files
from mesh.store.layout import large_name
from tests.store.faulty import FaultyFiles, Killed, MemoryFiles

pytestmark = pytest.mark.anyio

DATA = Random(3).randbytes(LARGE_BLOB + 700)
NAME = digest_of(DATA)
FILE, RECORD = f"partial/{NAME.hex()}", f"partial/{NAME.hex()}.log"
STEPS = [0, 1_500_000, 3_000_000, len(DATA)]
ENDLESS = 100


@pytest.fixture
def anyio_backend() -> str:
    """Inline work never leaves the event loop: which one it is makes no difference here."""
    return "asyncio"


@asynccontextmanager
async def opened(files: Files) -> AsyncIterator[DiskStore]:
    store = DiskStore(files, None, lambda _: Inline(), Inline())
    try:
        await store.open()
        yield store
    finally:
        if isinstance(files, FaultyFiles):
            files.heal()
        with anyio.CancelScope(shield=True):
            await store.close()


class Receiver:
    """Brings the blob in steps, one connection each, and knows what it was told to be safe."""

    def __init__(self) -> None:
        self.saved = 0

    async def run(self, store: DiskStore) -> None:
        for number in range(1, len(STEPS)):
            async with store.resume(NAME, b"%d" % (number % 2)) as arriving:
                assert arriving is not None
                await arriving.write(DATA[arriving.progress.size : STEPS[number]])
                await arriving.save()
                self.saved = STEPS[number]
        await commit(store)


async def commit(store: DiskStore) -> None:
    async with store.resume(NAME, b"0") as arriving:
        assert arriving is not None
        await store.commit([await arriving.finish()])
        await arriving.done()


async def goes_on(files: Files, saved: int) -> None:
    """A start finds the blob, or a right beginning of it with all that was saved."""
    async with opened(files) as store:
        if await store.size(NAME) is None:
            async with store.resume(NAME, b"0") as arriving:
                assert arriving is not None
                assert arriving.progress.size >= saved
                await arriving.write(DATA[arriving.progress.size :])
            await commit(store)
        assert await content(store) == DATA
        assert await store.partials() == []
    async with opened(files) as store:
        assert await content(store) == DATA


async def content(store: DiskStore) -> bytes:
    return b"".join([piece async for piece in store.stream(NAME, 0, len(DATA))])


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power lost"])
async def test_wherever_it_ends_what_was_saved_is_there(power: bool) -> None:
    for nth in range(1, ENDLESS):
        files, receiver = FaultyFiles(MemoryFiles(), seed=nth), Receiver()
        ended = False
        async with opened(files) as store:
            files.fail(nth, None)
            with suppress(Killed):
                await receiver.run(store)
                ended = True
        await goes_on(files.disk.crash(nth) if power else files.disk, receiver.saved)
        if ended:
            break
    assert nth > 25


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_whichever_call_fails_what_was_saved_is_there(code: int) -> None:
    for nth in range(1, ENDLESS):
        files, receiver = FaultyFiles(MemoryFiles(), seed=nth), Receiver()
        async with opened(files) as store:
            files.fail(nth, code)
            failure: StoreError | None = None
            try:
                await receiver.run(store)
            except StoreError as error:
                failure = error
            if not files.heal():
                break
            assert failure is None or isinstance(failure, Full) == (code == errno.ENOSPC)
            if await store.size(NAME) is None:
                async with store.resume(NAME, b"0") as arriving:
                    assert arriving is not None
                    assert arriving.progress.size >= receiver.saved
                await receiver.run(store)
        await goes_on(files.disk.crash(nth), receiver.saved)
    assert nth > 25


async def test_a_commit_that_fails_keeps_what_came() -> None:
    files = FaultyFiles(MemoryFiles())
    async with opened(files) as store:
        files.fail(1, errno.ENOSPC, only=("append segments/",))
        with pytest.raises(Full):
            await Receiver().run(store)
        files.heal()
        assert await store.size(NAME) is None
        assert await store.partials() == [Kept(NAME, len(DATA), False, True)]
        await commit(store)
        assert await content(store) == DATA


async def test_a_commit_that_fails_leaves_a_file_that_stood_there_before() -> None:
    """It may be of a blob that was acknowledged, and that the index has lost."""
    disk = MemoryFiles()
    async with opened(disk) as store:
        await Receiver().run(store)
    for name in [f"segments/{each.name}" for each in disk.list("segments")]:
        disk.remove(name)
    files = FaultyFiles(disk)
    async with opened(files) as store:
        assert await store.size(NAME) is None
        files.fail(1, errno.ENOSPC, only=("append segments/",))
        with pytest.raises(Full):
            await Receiver().run(store)
        files.heal()
        assert bytes(disk.content(large_name(NAME))) == DATA


@pytest.mark.parametrize("refused", ["told", "cancelled"])
async def test_a_blob_whose_commit_was_never_asked_for_can_be_gone_on_with(refused: str) -> None:
    """The disk is full, say: it was refused before the store heard of it."""
    disk = MemoryFiles()
    async with opened(disk) as store:
        with anyio.CancelScope() as scope, suppress(Full):
            async with store.resume(NAME, b"0") as arriving:
                assert arriving is not None
                await arriving.write(DATA)
                await arriving.finish()  # what it gives is held by nobody
                if refused == "told":
                    raise Full("no room")
                scope.cancel()
                await anyio.sleep_forever()
        assert await store.partials() == [Kept(NAME, len(DATA), False, True)]
        async with store.resume(NAME, b"1") as again:
            assert again is not None
            assert again.progress.size == len(DATA)
            await store.commit([await again.finish()])
            await again.done()
        assert await content(store) == DATA
        assert await store.partials() == []


async def test_the_record_of_another_blob_is_none() -> None:
    disk = MemoryFiles()
    async with opened(disk) as store, store.resume(NAME, b"0") as arriving:
        assert arriving is not None
        await arriving.write(DATA[:1_000_000])
    other = digest_of(b"another one")
    for suffix in ("", ".log"):
        disk.rename(f"{FILE}{suffix}", f"partial/{other.hex()}{suffix}")
    async with opened(disk) as store, store.resume(other, b"1") as arriving:
        assert arriving is not None
        assert arriving.progress.size == 0


async def test_a_blob_that_is_being_committed_is_not_touched() -> None:
    disk = MemoryFiles()
    async with opened(disk) as store:
        async with store.resume(NAME, b"0") as arriving:
            assert arriving is not None
            await arriving.write(DATA)
            item = await arriving.finish()
            async with store.resume(NAME, b"1") as again:
                assert again is None
            await store.drop_partial(NAME)
            await store.commit([item])
        # Whoever brought it was cancelled, and did not say that it is done.
        assert await content(store) == DATA
        assert await store.partials() == []
        assert not disk.list("partial")


@pytest.mark.parametrize("saves", [False, True])
async def test_a_blob_that_nobody_would_commit_goes_on_from_its_end(saves: bool) -> None:
    """Its last step was refused, because the disk had become full: no byte comes again."""
    disk = MemoryFiles()
    async with opened(disk) as store:
        async with store.resume(NAME, b"0") as arriving:
            assert arriving is not None
            await arriving.write(DATA)
            if saves:
                await arriving.save()
            await arriving.finish()
        assert await store.partials() == [Kept(NAME, len(DATA), False, True)]
        async with store.resume(NAME, b"1") as arriving:
            assert arriving is not None
            assert arriving.progress.size == len(DATA)
            await store.commit([await arriving.finish()])
            await arriving.done()
        assert await content(store) == DATA
        assert await store.partials() == []


async def test_a_blob_that_nobody_would_commit_can_be_dropped() -> None:
    async with opened(MemoryFiles()) as store:
        async with store.resume(NAME, b"0") as arriving:
            assert arriving is not None
            await arriving.write(DATA)
            await arriving.finish()
        await store.drop_partial(NAME)
        assert await store.partials() == []


@pytest.mark.parametrize("left", ["record", "data", "nothing whole", "data cut", "garbage"])
async def test_what_is_half_there_is_begun_anew(left: str) -> None:
    disk = MemoryFiles()
    async with opened(disk) as store, store.resume(NAME, b"0") as arriving:
        assert arriving is not None
        await arriving.write(DATA[:1_000_000])
    if left == "record":
        disk.remove(FILE)
    elif left == "data":
        disk.remove(RECORD)
    elif left == "nothing whole":
        disk.truncate(RECORD, 10)
    elif left == "data cut":
        disk.truncate(FILE, 999_999)
    else:
        disk.content(RECORD)[:] = b"\xff" * 300
    await goes_on(disk, 0)


async def test_a_torn_line_of_the_record_costs_its_piece() -> None:
    disk = MemoryFiles()
    async with opened(disk) as store:
        for stop in (1_000_000, 2_000_000):
            async with store.resume(NAME, b"0") as arriving:
                assert arriving is not None
                await arriving.write(DATA[arriving.progress.size : stop])
    disk.truncate(RECORD, len(disk.content(RECORD)) - 1)
    async with opened(disk) as store, store.resume(NAME, b"0") as arriving:
        assert arriving is not None
        assert arriving.progress.size == 1_000_000
    await goes_on(disk, 1_000_000)


async def test_a_record_of_the_first_version_is_begun_anew() -> None:
    """Its checksums do not tell whose blob it is of: it may be another one's."""
    lines = [
        {"type": "head", "alone": False, "evidence": []},
        {"type": "saved", "source": base64.b64encode(bytes(range(16))).decode(), "stop": 1_000_000},
    ]
    disk = MemoryFiles()
    async with opened(disk) as store, store.resume(NAME, b"0") as arriving:
        assert arriving is not None
        await arriving.write(DATA[:1_000_000])
    record = b""
    for line in lines:
        text = json.dumps(line, separators=(",", ":")).encode()
        record += b"%08x %s\n" % (zlib.crc32(text), text)
    disk.content(RECORD)[:] = record
    async with opened(disk) as store:
        assert await store.partials() == [Kept(NAME, 0, False, False)]
    await goes_on(disk, 0)


async def test_what_was_renamed_and_not_recorded_is_taken_back() -> None:
    disk = MemoryFiles()
    async with opened(disk) as store, store.resume(NAME, b"0") as arriving:
        assert arriving is not None
        await arriving.write(DATA)
    disk.make_directory(large_name(NAME).rpartition("/")[0])
    disk.rename(FILE, large_name(NAME))
    await goes_on(disk, len(DATA))


async def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    names = ["notes.txt", "A" * 64, "0" * 63, f"{'0' * 64}.bak"]
    async with opened(DiskFiles(tmp_path)):
        pass
    for name in names:
        (tmp_path / "partial" / name).write_bytes(b"theirs")
    os.mkfifo(tmp_path / FILE)
    (tmp_path / RECORD).symlink_to(tmp_path / "partial" / "notes.txt")
    async with opened(DiskFiles(tmp_path)) as store:
        assert await store.partials() == []
        with suppress(StoreError):
            async with store.resume(NAME, b"0") as arriving:
                assert arriving is not None
                await arriving.write(DATA)
    for name in names:
        assert (tmp_path / "partial" / name).read_bytes() == b"theirs"


async def test_a_blob_for_which_there_is_no_room_keeps_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: DirectAppender) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with opened(DiskFiles(tmp_path)) as store:
        before = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(DirectAppender, "_write", full)
        async with store.resume(NAME, b"0") as partial:
            assert partial is not None
            with pytest.raises(Full):
                await partial.write(DATA)
        assert len(os.listdir("/proc/self/fd")) == before
