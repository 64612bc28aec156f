"""What every BlobStore has to do with large blobs that arrive in several goes."""

from __future__ import annotations

from random import Random

import anyio
import pytest

from mesh.core.digest import digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.core.partial import STRANGERS, Kept, Piece
from mesh.errors import StoreError
from mesh.store.base import BlobStore
from tests.contracts.store_contract import Home, expect, opened

DATA = Random(5).randbytes(LARGE_BLOB + 1_500_000)
NAME = digest_of(DATA)
ONE, TWO = b"one", b"two"
FIRST, SECOND = 1_700_001, 3_000_000


async def bring(
    store: BlobStore, start: int, stop: int, bringer: bytes = ONE, data: bytes = DATA
) -> None:
    """`bringer` brings the bytes [start, stop), which have to be the next ones."""
    async with store.resume(NAME, bringer) as arriving:
        assert arriving is not None
        assert arriving.progress.size == start
        for at in range(start, stop, 300_000):
            await arriving.write(data[at : min(at + 300_000, stop)])


async def complete(store: BlobStore, bringer: bytes = ONE) -> None:
    async with store.resume(NAME, bringer) as arriving:
        assert arriving is not None
        item = await arriving.finish()
        assert (item.digest, item.size) == (NAME, len(DATA))
        assert await store.size(NAME) is None, "finished is not committed"
        assert await store.commit([item]) == [True]
        await arriving.done()


@pytest.mark.anyio
class PartialContract:
    @pytest.fixture
    def home(self) -> Home:
        raise NotImplementedError("a test of a store says where it is")

    async def test_what_has_come_is_there_in_the_next_go(self, home: Home) -> None:
        async with opened(home) as store:
            await bring(store, 0, FIRST)
            await bring(store, FIRST, SECOND, TWO)
            assert await store.partials() == [Kept(NAME, SECOND, False, True)]
            await expect(store, [])
            await bring(store, SECOND, len(DATA))
            await complete(store)
            await expect(store, [DATA])
            assert await store.partials() == []

    async def test_what_has_come_can_be_read_while_more_comes(self, home: Home) -> None:
        """All but the last bytes, which may not be on the disk; wrong bytes never."""
        async with opened(home) as store, store.resume(NAME, ONE) as arriving:
            assert arriving is not None
            with pytest.raises(StoreError):
                await arriving.read(0, 100)
            await arriving.write(DATA[:FIRST])
            await arriving.write(DATA[FIRST : len(DATA) - 10], TWO)
            assert arriving.progress.bringers == [ONE, TWO]
            await arriving.save()
            assert await arriving.read(0, FIRST) == DATA[:FIRST]
            assert await arriving.read(777, 1_234_567) == DATA[777:1_234_567]
            with pytest.raises(StoreError):
                await arriving.read(FIRST, len(DATA))
            await arriving.write(DATA[len(DATA) - 10 :])
            item = await arriving.finish()
            assert await arriving.read(FIRST, len(DATA)) == DATA[FIRST:]
            await store.commit([item])
            # Whoever began to read goes on, under whatever name the file stands now.
            assert await arriving.read(1, SECOND) == DATA[1:SECOND]
            await arriving.done()

    async def test_what_has_come_outlives_a_restart(self, home: Home) -> None:
        async with opened(home) as store:
            await bring(store, 0, FIRST)
        async with opened(home) as store:
            assert await store.partials() == [Kept(NAME, FIRST, False, True)]
            await bring(store, FIRST, len(DATA), TWO)
        async with opened(home) as store:
            async with store.resume(NAME, ONE) as arriving:
                assert arriving is not None
                pieces = [Piece(ONE, 0, FIRST), Piece(TWO, FIRST, len(DATA))]
                assert arriving.progress.pieces == pieces
                while await arriving.recall():
                    pass
            await complete(store)
        async with opened(home) as store:
            assert await store.partials() == []
            await expect(store, [DATA])

    async def test_a_go_that_is_cancelled_or_fails_keeps_what_came(self, home: Home) -> None:
        async with opened(home) as store:
            with anyio.CancelScope() as scope:
                async with store.resume(NAME, ONE) as arriving:
                    assert arriving is not None
                    await arriving.write(DATA[:FIRST])
                    scope.cancel()
                    await anyio.sleep_forever()
            with pytest.raises(LookupError):
                await broken(store)
            await bring(store, SECOND, len(DATA))
            await complete(store)
            await expect(store, [DATA])

    async def test_one_at_a_time_brings_a_blob(self, home: Home) -> None:
        async with opened(home) as store, store.resume(NAME, ONE) as first:
            assert first is not None
            async with store.resume(NAME, TWO) as second:
                assert second is None
            await first.write(DATA)
            await store.drop_partial(NAME)
            assert await store.partials() == [Kept(NAME, len(DATA), True, True)]
            assert (await first.finish()).digest == NAME

    async def test_strangers_touch_nothing_that_a_configured_peer_has_a_part_in(
        self, home: Home
    ) -> None:
        async with opened(home) as store:
            await bring(store, 0, FIRST, STRANGERS)
            assert await store.partials() == [Kept(NAME, FIRST, False, False)]
            await bring(store, FIRST, SECOND, ONE)
            async with store.resume(NAME, STRANGERS) as arriving:
                assert arriving is None
                # Nor do they keep the peer away while they push the blob as a whole.
                await bring(store, SECOND, len(DATA), ONE)
            assert await store.partials() == [Kept(NAME, len(DATA), False, True)]
            await complete(store)
            await expect(store, [DATA])

    async def test_what_is_fetched_alone_is_not_begun_anew_by_strangers(self, home: Home) -> None:
        async with opened(home) as store:
            async with store.resume(NAME, ONE) as arriving:
                assert arriving is not None
                await arriving.write(b"wrong")
                await arriving.restart(alone=True)
                await arriving.write(DATA[:FIRST])
            async with store.resume(NAME, STRANGERS) as arriving:
                assert arriving is None
            await bring(store, FIRST, len(DATA), ONE)
            await complete(store)

    async def test_a_go_that_brings_nothing_leaves_nothing(self, home: Home) -> None:
        async with opened(home) as store:
            async with store.resume(NAME, ONE):
                pass
            assert await store.partials() == []

    async def test_what_is_dropped_begins_anew(self, home: Home) -> None:
        async with opened(home) as store:
            await bring(store, 0, FIRST)
            await store.drop_partial(NAME)
            assert await store.partials() == []
            await bring(store, 0, len(DATA), TWO)
            await complete(store)

    async def test_what_came_otherwise_meanwhile_is_kept_once(self, home: Home) -> None:
        async with opened(home) as store, store.resume(NAME, ONE) as arriving:
            assert arriving is not None
            await arriving.write(DATA)
            item = await arriving.finish()
            async with store.incoming() as other:
                await other.write(DATA)
                assert await store.commit([await other.finish()]) == [True]
            assert await store.commit([item]) == [False]
            await arriving.done()
        async with opened(home) as store:
            assert await store.partials() == []
            await expect(store, [DATA])

    async def test_a_wrong_whole_is_fetched_from_one_alone_and_convicts_the_liar(
        self, home: Home
    ) -> None:
        lie = DATA[:FIRST] + bytes(SECOND - FIRST) + DATA[SECOND:]
        async with opened(home) as store:
            await bring(store, 0, FIRST)
            await bring(store, FIRST, SECOND, TWO, lie)
            await bring(store, SECOND, len(DATA))
            async with store.resume(NAME, ONE) as arriving:
                assert arriving is not None
                assert (await arriving.finish()).digest == digest_of(lie)
                assert arriving.progress.liar() is None
                await arriving.restart(alone=True)
                assert arriving.progress.size == 0
                await arriving.write(DATA[:FIRST])
        async with opened(home) as store:
            # Nobody else goes on with what is fetched from one alone.
            await bring(store, 0, FIRST, b"three")
            await bring(store, FIRST, len(DATA), b"three")
            async with store.resume(NAME, b"three") as arriving:
                assert arriving is not None
                item = await arriving.finish()
                assert item.digest == NAME
                assert await arriving.liars() == [TWO]
                assert await store.commit([item]) == [True]
                await arriving.done()
            await expect(store, [DATA])

    async def test_evidence_outlives_one_who_lied_about_all_of_it(self, home: Home) -> None:
        async with opened(home) as store:
            await bring(store, 0, FIRST)
            await bring(store, FIRST, len(DATA), TWO, bytes(len(DATA)))
            async with store.resume(NAME, b"three") as arriving:
                assert arriving is not None
                await arriving.finish()
                await arriving.restart(alone=True)
                await arriving.write(b"nonsense")
                assert (await arriving.finish()).digest != NAME
                assert arriving.progress.liar() == b"three"
                await arriving.restart(alone=False)
        async with opened(home) as store:
            await bring(store, 0, len(DATA))
            async with store.resume(NAME, ONE) as arriving:
                assert arriving is not None
                assert (await arriving.finish()).digest == NAME
                assert await arriving.liars() == [TWO]


async def broken(store: BlobStore) -> None:
    """The peer goes away."""
    async with store.resume(NAME, TWO) as arriving:
        assert arriving is not None
        await arriving.write(DATA[FIRST:SECOND])
        raise LookupError("the peer went away")
