"""The scrub of a node, in virtual time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import trio

from mesh.core.digest import digest_of
from mesh.errors import StoreError
from mesh.store.base import Cursor, Scrubbed
from mesh.store.memory import MemoryStore
from tests.actors.test_healing import rot
from tests.actors.world import HOUR, a_world, blob, blobs, filled, large, until

pytestmark = pytest.mark.trio

DAY = 24 * HOUR
MB = 1_000_000


class Counting(MemoryStore):
    """When how much was scrubbed."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[float, int]] = []
        self.failing = False

    async def scrub(self, cursor: Cursor, room: int) -> Scrubbed:
        if self.failing:
            raise StoreError("a loose cable")
        scrubbed = await super().scrub(cursor, room)
        self.steps.append((trio.current_time(), scrubbed.bytes))
        return scrubbed

    @property
    def total(self) -> int:
        return sum(size for _, size in self.steps)


CONTENTS = [blob(number, 100_000) for number in range(100)]


async def test_rot_is_found_and_healed_though_nobody_reads_it(autojump_clock: Any) -> None:
    async with a_world() as world:
        store = await filled(*CONTENTS)
        full = await filled(*CONTENTS, large(0))
        a = await world.start("a", peers=["b"], store=full, interval=HOUR)
        b = await world.start("b", peers=["a"], store=store, interval=HOUR)
        await world.level(10.0)
        digests = [rot(b, data) for data in (CONTENTS[3], CONTENTS[99], large(0))]
        await until(lambda: b.node.scrubber.status().passes == 1, within=3.1 * DAY)
        await world.level(60.0)
        assert a.has(*digests)
        for digest in digests[:2]:
            assert await b.store.read(digest) is not None
        status = b.node.scrubber.status()
        assert status.now.damaged == 3
        assert status.now.blobs >= 98
        assert b.node.status().wanted_blobs == 0


async def test_a_pass_comes_each_period_at_the_set_rate(autojump_clock: Any) -> None:
    async with a_world() as world:
        store = await filled(*CONTENTS, store=(counting := Counting()))
        a = await world.start("a", store=store, scrub_bytes_per_second=100_000, scrub_days=1.0)
        for number in range(1, 4):
            await until(lambda n=number: a.node.scrubber.status().passes == n, within=1.2 * DAY)
        assert counting.total == 3 * 10 * MB
        times = [time for time, size in counting.steps if size]
        passes = [times[at : at + 100] for at in range(0, 300, 100)]
        for each in passes:
            assert each[-1] - each[0] == pytest.approx(99.0, abs=2)
        for before, after in pairwise(passes):
            assert 0.89 * DAY < after[0] - before[0] < 1.11 * DAY


async def test_it_is_paused_resumed_and_started_by_hand(autojump_clock: Any) -> None:
    async with a_world() as world:
        store = await filled(*CONTENTS, store=(counting := Counting()))
        a = await world.start("a", store=store, scrub_bytes_per_second=100_000)
        await trio.sleep(60)
        assert a.node.scrubber.status().state == "waiting"
        assert counting.total == 0
        a.node.scrubber.start()
        await trio.sleep(20)
        status = a.node.scrubber.status()
        assert status.state == "running"
        assert 18 * 100_000 <= status.now.bytes <= 22 * 100_000
        a.node.scrubber.pause()
        await trio.sleep(1)
        read = counting.total
        await trio.sleep(DAY)
        assert a.node.scrubber.status().state == "paused"
        assert counting.total == read
        a.node.scrubber.resume()
        await until(lambda: a.node.scrubber.status().passes == 1, within=100)
        assert counting.total == 10 * MB


@pytest.mark.parametrize("paused", [False, True])
async def test_a_restart_goes_on_where_it_was(autojump_clock: Any, paused: bool) -> None:
    async with a_world() as world:
        store = await filled(*CONTENTS, store=(counting := Counting()))
        a = await world.start("a", store=store, scrub_bytes_per_second=100_000)
        a.node.scrubber.start()
        await trio.sleep(30)
        if paused:
            a.node.scrubber.pause()
            await trio.sleep(1)
        await a.restart()
        await trio.sleep(HOUR)
        if paused:
            assert a.node.scrubber.status().state == "paused"
            a.node.scrubber.resume()
        await until(lambda: a.node.scrubber.status().passes == 1, within=200)
        assert counting.total == 10 * MB, "nothing is read twice"


async def test_it_makes_way_for_readers(autojump_clock: Any) -> None:
    async with a_world() as world:
        store = await filled(*CONTENTS, store=(counting := Counting()))
        a = await world.start("a", store=store, scrub_bytes_per_second=1 * MB)
        a.node.scrubber.start()
        with trio.move_on_after(5):
            while True:
                await a.store.read(digest_of(CONTENTS[0]))
                await trio.sleep(0.01)
        slow = counting.total
        assert slow < 1.5 * MB
        await trio.sleep(5)
        assert counting.total - slow > 2.5 * MB


async def test_an_error_of_the_store_is_not_the_end(autojump_clock: Any) -> None:
    async with a_world() as world:
        store = await filled(*blobs(0, 10), store=(counting := Counting()))
        a = await world.start("a", store=store)
        counting.failing = True
        a.node.scrubber.start()
        await trio.sleep(HOUR)
        assert a.node.scrubber.status().state == "running"
        counting.failing = False
        await until(lambda: a.node.scrubber.status().passes == 1, within=61)


async def test_a_place_that_cannot_be_read_begins_anew(autojump_clock: Any) -> None:
    async with a_world() as world:
        store = await filled(*blobs(0, 10))
        await store.note("scrub", b"{")
        a = await world.start("a", store=store)
        assert a.node.scrubber.status().state == "waiting"
