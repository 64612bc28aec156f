"""The keeper alone, on a store that the test holds up: group commit, the tree, the claims."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.actors.actor import supervise
from mesh.actors.door import Known
from mesh.actors.keeper import Keeper
from mesh.actors.large import take_pushed
from mesh.actors.transfer import take_large
from mesh.core.claims import LEASE, MAX_CLAIMS, PENALTY
from mesh.core.digest import Digest, digest_of
from mesh.core.holder import CLIENT, Configured, Holder
from mesh.core.tree import Tree
from mesh.errors import Corrupt, Full, Misbehaved, StoreError
from mesh.store.base import Blob, Damage, Item
from mesh.store.memory import MemoryStore
from tests.actors.world import blobs, filled, large, until

pytestmark = pytest.mark.trio

ANN, BOB = Configured("http://ann:7280"), Configured("http://bob:7280")


class Gated(MemoryStore):
    """A store whose commits and tree wait until the test lets them go on, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[int] = []
        self.failures: list[Exception] = []
        self.gate = opened()
        self.tree_gate = opened()

    async def commit(self, items: Sequence[Item]) -> list[bool]:
        self.commits.append(len(items))
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        return await super().commit(items)

    async def tree(self) -> Tree:
        await self.tree_gate.wait()
        return await super().tree()


def opened() -> trio.Event:
    event = trio.Event()
    event.set()
    return event


def items(first: int, end: int) -> list[Blob]:
    return [Blob(digest_of(data), data) for data in blobs(first, end)]


def names(first: int, end: int) -> list[Digest]:
    return [item.digest for item in items(first, end)]


class Told:
    """What the keeper tells of: which blobs are new, and who brought them."""

    def __init__(self) -> None:
        self.news: list[tuple[list[Digest], Holder]] = []

    def __call__(self, digests: Sequence[Digest], holder: Holder) -> None:
        self.news.append((list(digests), holder))


@asynccontextmanager
async def keeping(store: MemoryStore, told: Told | None = None) -> AsyncIterator[Keeper]:
    """A keeper that runs, supervised as in a node."""
    async with trio.open_nursery() as nursery:
        keeper = Keeper(store, told or Told())
        nursery.start_soon(supervise, "keeper", keeper.run, Random(0))
        try:
            yield keeper
            nursery.cancel_scope.cancel()
        finally:
            keeper.close()


# --- group commit ------------------------------------------------------------------------------


async def test_puts_that_arrive_during_a_commit_share_the_next_one(
    autojump_clock: MockClock,
) -> None:
    store = Gated()
    async with keeping(store) as keeper, trio.open_nursery() as nursery:
        store.gate = trio.Event()
        # More than the mailbox holds: those that wait before it come along, too.
        for number in range(20):
            nursery.start_soon(keeper.put, items(number, number + 1))
            await wait_all_tasks_blocked()
        assert store.commits == [1]
        store.gate.set()
    assert store.commits == [1, 19]
    assert store.totals.blobs == 20


async def test_a_commit_takes_no_more_than_its_bytes(autojump_clock: MockClock) -> None:
    store = Gated()
    many = [Blob(digest_of(data), data) for data in blobs(0, 12, 3 * 1024 * 1024)]
    async with keeping(store) as keeper, trio.open_nursery() as nursery:
        store.gate = trio.Event()
        for item in many:
            nursery.start_soon(keeper.put, [item])
            await wait_all_tasks_blocked()
        store.gate.set()
    # 16 MiB are full with the sixth; what is over by then is one put, not more.
    assert store.commits == [1, 6, 5]


async def test_a_put_is_answered_only_when_its_own_commit_is_done(
    autojump_clock: MockClock,
) -> None:
    store = Gated()
    answers: list[list[bool]] = []
    async with keeping(store) as keeper, trio.open_nursery() as nursery:

        async def put() -> None:
            answers.append(await keeper.put(items(0, 2)))

        store.gate = trio.Event()
        nursery.start_soon(put)
        nursery.start_soon(put)  # of blobs that are just being written: it has to wait as well
        await trio.sleep(100.0)
        assert answers == []
        store.gate.set()
    assert sorted(answers) == [[False, False], [True, True]]


async def test_each_put_learns_what_of_it_was_new(autojump_clock: MockClock) -> None:
    store = await filled(*blobs(0, 2))
    async with keeping(store) as keeper:
        assert await keeper.put(items(1, 4)) == [False, True, True]
        assert await keeper.put([]) == []
        twice = items(7, 8) * 2
        assert await keeper.put(twice) == [True, False]
        assert len(keeper.ready_tree()) == store.totals.blobs == 5


async def test_a_cancelled_waiter_does_not_cancel_the_batch(autojump_clock: MockClock) -> None:
    store = Gated()
    async with keeping(store) as keeper, trio.open_nursery() as nursery:
        store.gate = trio.Event()
        with trio.move_on_after(1.0) as gave_up:
            await keeper.put(items(0, 3))
        assert gave_up.cancelled_caught
        answers: list[list[bool]] = []

        async def put() -> None:
            answers.append(await keeper.put(items(2, 5)))

        nursery.start_soon(put)
        await trio.sleep(1.0)
        store.gate.set()
        await until(lambda: answers, 1.0)
        assert answers == [[False, True, True]]
        assert set(names(0, 5)) == set(keeper.ready_tree())


async def test_a_store_error_reaches_every_waiter_and_the_keeper_goes_on(
    autojump_clock: MockClock,
) -> None:
    store = Gated()
    errors: list[StoreError] = []
    async with keeping(store) as keeper:

        async def put(number: int) -> None:
            with pytest.raises(Full) as raised:
                await keeper.put(items(number, number + 1))
            errors.append(raised.value)

        store.gate = trio.Event()
        store.failures = [Full("no room"), Full("no room")]
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(put, number)
                await wait_all_tasks_blocked()
            store.gate.set()
        assert len(errors) == 5
        assert len(keeper.ready_tree()) == 0
        await trio.sleep(10.0)  # until somebody looks whether there is room again
        assert await keeper.put(items(0, 5)) == [True] * 5


async def test_a_bug_in_the_store_reaches_every_waiter_as_a_store_error(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Gated()
    async with keeping(store) as keeper:

        async def put() -> None:
            with pytest.raises(StoreError, match="see the log"):
                await keeper.put(items(0, 1))

        store.gate = trio.Event()
        store.failures = [RuntimeError("a bug"), RuntimeError("a bug")]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            await wait_all_tasks_blocked()
            nursery.start_soon(put)
            await trio.sleep(1.0)
            store.gate.set()
        assert await keeper.put(items(0, 1)) == [True]
    assert [record.getMessage() for record in caplog.records] == [
        "keeper crashed; restarting it"
    ] * 2


async def test_those_who_listen_are_told_what_is_new_and_who_brought_it(
    autojump_clock: MockClock,
) -> None:
    told = Told()
    async with keeping(await filled(*blobs(0, 2)), told) as keeper:
        await keeper.put(items(0, 2), ANN)
        assert told.news == []
        await keeper.put(items(1, 3), ANN)
        await keeper.put(items(2, 4))
        assert told.news == [(names(2, 3), ANN), (names(3, 4), CLIENT)]


async def test_puts_that_wait_when_the_keeper_ends_are_answered(
    autojump_clock: MockClock,
) -> None:
    store = Gated()
    ends: list[str] = []

    async def put(number: int) -> None:
        try:
            await keeper.put(items(number, number + 1))
        except StoreError:
            ends.append("failed")
        else:
            ends.append("stored")

    async with trio.open_nursery() as waiters:
        async with keeping(store) as keeper:
            store.gate = trio.Event()
            # One is being committed, some lie in the mailbox, some wait for a place in it.
            for number in range(20):
                waiters.start_soon(put, number)
                await wait_all_tasks_blocked()

            async def open_later() -> None:
                await trio.sleep(1.0)
                store.gate.set()

            waiters.start_soon(open_later)
        with trio.move_on_after(60.0):
            await until(lambda: len(ends) == 20, 50.0)
        waiters.cancel_scope.cancel()
    assert sorted(ends) == ["failed"] * 19 + ["stored"]
    with pytest.raises(StoreError):
        await keeper.put(items(30, 31))


# --- the tree ----------------------------------------------------------------------------------


async def test_the_tree_is_unknown_until_it_is_built(autojump_clock: MockClock) -> None:
    store = Gated()
    store.tree_gate = trio.Event()
    await store.commit(items(0, 3))
    async with keeping(store) as keeper:
        await trio.sleep(1000.0)
        assert keeper.tree is None
        with pytest.raises(StoreError, match="being built"):
            keeper.ready_tree()
        assert keeper.claim(ANN, names(5, 6)) == []
        store.tree_gate.set()
        assert (await keeper.built()).root == Tree(names(0, 3)).root


async def test_puts_while_the_tree_is_being_built_are_in_the_tree(
    autojump_clock: MockClock,
) -> None:
    class Early(Gated):
        """A scan that has seen nothing of what is committed after it began."""

        async def tree(self) -> Tree:
            seen = await MemoryStore.tree(self)
            await self.tree_gate.wait()
            return seen

    for store in (Gated(), Early()):
        await store.commit(items(0, 3))
        store.tree_gate = trio.Event()
        async with keeping(store) as keeper:
            assert await keeper.put(items(2, 40)) == [False] + [True] * 37
            assert await keeper.put(items(39, 41)) == [False, True]
            store.tree_gate.set()
            assert (await keeper.built()).root == Tree(names(0, 41)).root


async def test_a_tree_that_could_not_be_built_is_built_later(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Torn(Gated):
        async def tree(self) -> Tree:
            if self.failures:
                raise self.failures.pop()
            return await super().tree()

    store = Torn()
    await store.commit(items(0, 3))
    store.failures = [StoreError("cannot read the index")]
    async with keeping(store) as keeper:
        assert (await keeper.built()).root == Tree(names(0, 3)).root
        assert await keeper.put(items(3, 4)) == [True]
    assert "cannot read the index" in caplog.text


async def test_a_tree_that_somebody_holds_does_not_change(autojump_clock: MockClock) -> None:
    async with keeping(await filled(*blobs(0, 20))) as keeper:
        before = await keeper.built()
        await keeper.put(items(20, 30))
        assert (len(before), len(keeper.ready_tree())) == (20, 30)
        assert before.root == Tree(names(0, 20)).root


# --- claims ------------------------------------------------------------------------------------


async def test_a_claim_is_exclusive(autojump_clock: MockClock) -> None:
    async with keeping(await filled(*blobs(0, 2))) as keeper:
        await keeper.built()
        assert keeper.claim(ANN, names(0, 5)) == names(2, 5)  # what is here needs no claim
        assert keeper.claim(BOB, names(3, 7)) == names(5, 7)
        assert keeper.claim(ANN, names(0, 7)) == []


async def test_a_claim_lapses(autojump_clock: MockClock) -> None:
    async with keeping(MemoryStore()) as keeper:
        await keeper.built()
        keeper.claim(ANN, names(0, 3))
        await trio.sleep(LEASE - 1.0)
        assert keeper.claim(BOB, names(0, 3)) == []
        await trio.sleep(2.0)
        assert keeper.claim(BOB, names(0, 3)) == names(0, 3)


async def test_progress_renews_a_claim(autojump_clock: MockClock) -> None:
    async with keeping(MemoryStore()) as keeper:
        await keeper.built()
        keeper.claim(ANN, names(0, 2))
        for _ in range(10):
            await trio.sleep(LEASE - 1.0)
            keeper.renew(ANN, names(0, 1))
            keeper.renew(BOB, names(1, 2))  # nobody renews what another one holds
        assert keeper.claim(BOB, names(0, 2)) == names(1, 2)


async def test_a_claim_that_is_released_is_free_at_once(autojump_clock: MockClock) -> None:
    async with keeping(MemoryStore()) as keeper:
        await keeper.built()
        keeper.claim(ANN, names(0, 3))
        keeper.release(BOB, names(0, 3))
        assert keeper.claim(BOB, names(0, 3)) == []
        keeper.release(ANN, names(0, 2))
        assert keeper.claim(BOB, names(0, 3)) == names(0, 2)


async def test_who_failed_to_deliver_is_not_asked_again_for_a_while(
    autojump_clock: MockClock,
) -> None:
    async with keeping(MemoryStore()) as keeper:
        await keeper.built()
        keeper.claim(ANN, names(0, 2))
        keeper.failed(ANN, names(0, 1), "why")
        assert keeper.claim(ANN, names(0, 2)) == []
        assert keeper.claim(BOB, names(0, 2)) == names(0, 1)
        keeper.release(BOB, names(0, 2))
        await trio.sleep(PENALTY + 1.0)
        assert keeper.claim(ANN, names(0, 1)) == names(0, 1)


async def test_what_has_come_is_claimed_no_more(autojump_clock: MockClock) -> None:
    async with keeping(MemoryStore()) as keeper:
        await keeper.built()
        keeper.claim(ANN, [Digest(number.to_bytes(32, "big")) for number in range(MAX_CLAIMS - 1)])
        assert keeper.claim(ANN, names(0, 5)) == names(0, 1)
        await keeper.put(items(0, 1), BOB)  # whoever brings it
        assert keeper.claim(ANN, names(0, 5)) == names(1, 2)


# --- what the store refuses, and what crashes ----------------------------------------------------


class Refusing(Gated):
    """A store that a test can have rebuilt, and whose tree and discards fail some times."""

    def __init__(self) -> None:
        super().__init__()
        self.tree_failures: list[Exception] = []
        self.discard_failures: list[Exception] = []
        self.rebuilt: Callable[[], None] = lambda: None

    def watch(self, on_damage: Callable[[Damage], None], on_rebuilt: Callable[[], None]) -> None:
        super().watch(on_damage, on_rebuilt)
        self.rebuilt = on_rebuilt

    async def tree(self) -> Tree:
        if self.tree_failures:
            raise self.tree_failures.pop(0)
        return await super().tree()

    async def discard(self, damages: Sequence[Damage]) -> list[Digest]:
        if self.discard_failures:
            raise self.discard_failures.pop(0)
        return await super().discard(damages)


@pytest.mark.parametrize("failure", [StoreError("disk I/O error"), RuntimeError("a bug")])
async def test_a_put_is_answered_though_the_tree_cannot_be_read_again(
    autojump_clock: MockClock, failure: Exception
) -> None:
    store = Refusing()
    hidden = Blob(digest_of(b"found by the rebuild"), b"found by the rebuild")
    async with keeping(store) as keeper:
        await keeper.built()
        await store.commit([hidden])
        store.tree_failures = [failure]
        store.rebuilt()
        with trio.fail_after(5.0):
            assert await answered(keeper.put(items(0, 1))) in ("[True]", FAILED)
        with trio.fail_after(5.0):
            assert await answered(keeper.put(items(1, 2))) == "[True]"
        # The reading that was due is not forgotten, though nobody puts anything.
        await until(lambda: keeper.has(hidden.digest), within=60.0)


FAILED = "the keeper failed; see the log of the node"


async def answered(put: Awaitable[list[bool]]) -> str:
    try:
        return str(await put)
    except StoreError as error:
        return str(error)


@pytest.mark.parametrize("failure", [StoreError("disk I/O error"), RuntimeError("a bug")])
async def test_what_could_not_be_set_aside_is_tried_again(
    autojump_clock: MockClock, failure: Exception
) -> None:
    store = Refusing()
    async with keeping(store) as keeper:
        await keeper.put(items(0, 3))
        (lost,) = names(1, 2)
        store.rot(lost, b"rotten")
        store.discard_failures = [failure]
        with pytest.raises(Corrupt):
            await store.read(lost)
        with trio.fail_after(1.0):
            await keeper.settled(lost)  # it is not waited for until it works
        assert keeper.has(lost)
        await until(lambda: not keeper.has(lost), within=60.0)


async def test_nobody_waits_for_ever_for_damage_while_there_is_no_tree(
    autojump_clock: MockClock,
) -> None:
    """The index cannot be read as a whole, though each blob can be looked up."""
    store = Gated()
    store.tree_gate = trio.Event()
    async with keeping(store) as keeper:
        (name,) = names(0, 1)
        keeper.damaged(Damage(name, "rotten"))
        with trio.fail_after(60):
            await keeper.settled(name)
        assert store.wants.total == 0
        store.tree_gate.set()
        await until(lambda: store.wants.total == 1, 1)


class Forgetful(MemoryStore):
    """A store whose index is made anew from a log that does not tell of everything any more."""

    def watch(self, on_damage: Callable[[Damage], None], on_rebuilt: Callable[[], None]) -> None:
        super().watch(on_damage, on_rebuilt)
        self.rebuilt = on_rebuilt

    def forget(self, gone: Sequence[Digest]) -> None:
        for digest in gone:
            del self._blobs[digest]
        self.rebuilt()


@pytest.mark.parametrize("bound", [10_000, 3])
async def test_what_a_rebuilt_index_does_not_have_any_more_is_wanted(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, bound: int
) -> None:
    monkeypatch.setattr("mesh.actors.keeper._DAMAGES", bound)
    store = Forgetful()
    async with keeping(store) as keeper:
        await keeper.put(items(0, 20))
        store.forget(names(5, 12))
        await until(lambda: store.wants.total == 7, 1)
        assert {each.digest for each in store.wants.first} == set(names(5, 12))
        await wait_all_tasks_blocked()
        assert keeper.ready_tree().root == (await store.tree()).root
        assert await keeper.put(items(5, 6)) == [True]
        assert store.wants.total == 6


async def test_steady_puts_do_not_keep_from_trying_again(autojump_clock: MockClock) -> None:
    """What the store refused is tried again each ten seconds, however often somebody puts."""
    store = Refusing()
    hidden = Blob(digest_of(b"found by the rebuild"), b"found by the rebuild")
    async with keeping(store) as keeper:
        await keeper.put(items(0, 3))
        (lost,) = names(1, 2)
        store.rot(lost, b"rotten")
        await store.commit([hidden])
        store.discard_failures = [StoreError("disk I/O error")]
        store.tree_failures = [StoreError("disk I/O error")] * 3
        store.rebuilt()
        with pytest.raises(Corrupt):
            await store.read(lost)
        for number in range(25):
            await keeper.put(items(10 + number, 11 + number))
            await trio.sleep(1.0)
        assert not keeper.has(lost)
        assert len(store.tree_failures) == 0  # read three times in 25 seconds, not with each put
        assert not keeper.has(hidden.digest)
        await until(lambda: keeper.has(hidden.digest), within=60.0)


async def test_a_large_put_that_is_cancelled_ends_with_its_commit(
    autojump_clock: MockClock,
) -> None:
    """Its file belongs to the task that puts: it must not be gone before the commit is over."""
    store = Gated()
    data = large(1)
    async with keeping(store) as keeper, trio.open_nursery() as nursery:
        await keeper.built()
        store.gate = trio.Event()
        scope, ended = trio.CancelScope(), trio.Event()

        async def put() -> None:
            with scope:
                async with keeper.door.incoming() as incoming:
                    await incoming.write(data)
                    await keeper.put([await incoming.finish()])
            ended.set()

        nursery.start_soon(put)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert not ended.is_set()
        store.gate.set()
        await ended.wait()
        assert keeper.has(digest_of(data))


async def test_a_large_put_that_is_cancelled_in_line_is_never_committed(
    autojump_clock: MockClock,
) -> None:
    store = Gated()
    data = large(1)
    async with keeping(store) as keeper, trio.open_nursery() as nursery:
        await keeper.built()
        store.gate = trio.Event()
        nursery.start_soon(keeper.put, items(0, 1))
        await wait_all_tasks_blocked()
        with trio.move_on_after(1.0) as gave_up:
            async with keeper.door.incoming() as incoming:
                await incoming.write(data)
                await keeper.put([await incoming.finish()])
        assert gave_up.cancelled_caught
        store.gate.set()
        assert await keeper.put(items(1, 2)) == [True]
        assert not keeper.has(digest_of(data))


# --- what is here already ------------------------------------------------------------------------


class NoRoom(MemoryStore):
    """A store in which nothing more may be taken in."""

    def incoming(self) -> Any:
        raise AssertionError("a byte was about to be written")

    def resume(self, digest: Digest, source: bytes) -> Any:
        raise AssertionError("a byte was about to be written")


async def never() -> AsyncIterator[bytes]:
    raise AssertionError("a byte was read")
    yield b""


async def twice(data: bytes) -> AsyncIterator[bytes]:
    yield data[:70_000]
    yield data[70_000:]


async def test_of_a_blob_that_is_here_no_byte_is_written(autojump_clock: MockClock) -> None:
    data, other = large(1), large(2)
    store = NoRoom()
    await store.open()
    async with MemoryStore().incoming() as incoming:
        await incoming.write(data)
        await store.commit([await incoming.finish()])
    async with keeping(store) as keeper:
        await keeper.built()
        name, size = digest_of(data), len(data)
        assert await take_large(keeper, ANN, name, twice(data), size) == (False, size)
        with pytest.raises(Misbehaved, match="what came as blob"):
            await take_large(keeper, ANN, name, twice(other), size)
        assert await take_pushed(keeper, ANN, name, size, 0, never()) is False
        assert await keeper.put([Known(name, size), *items(0, 1)]) == [False, True]


async def test_what_was_lost_while_it_came_again_is_not_acknowledged(
    autojump_clock: MockClock,
) -> None:
    data = large(1)
    store = await filled(data)
    async with keeping(store) as keeper:
        await keeper.built()
        async with keeper.door.incoming(digest_of(data)) as incoming:
            await incoming.write(data)
            item = await incoming.finish()
            keeper.damaged(Damage(digest_of(data), "for the test"))
            store.rot(digest_of(data), b"rotten")
            await keeper.settled(digest_of(data))
            with pytest.raises(StoreError, match="send it again"):
                await keeper.put([item])
