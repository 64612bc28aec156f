"""What nodes tell in their logs, in virtual time."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio

from mesh.core.digest import digest_of
from tests.actors.test_healing import read, rot
from tests.actors.world import HOUR, a_world, blob, blobs, filled, large, until

pytestmark = pytest.mark.trio

EVENTS = {"put", "fetched", "pushed", "sent", "announced", "healed"}


class Heard(logging.Handler):
    """What the journals of all nodes of a world tell, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[float, dict[str, Any], str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        facts = getattr(record, "facts", {})
        if facts:
            self.lines.append((trio.current_time(), facts, record.getMessage()))

    def facts(self, event: str, peer: str = "", **wanted: Any) -> list[dict[str, Any]]:
        """Of a kind; `peer`: its name, which is also how its address begins before it is met."""
        return [
            facts for _, facts, _ in self.lines
            if facts["event"] == event
            and facts.get("peer", "").startswith(peer)
            and wanted.items() <= facts.items()
        ]  # fmt: skip


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Any:
    handler = Heard()
    logger = logging.getLogger("mesh")
    with caplog.at_level(logging.INFO, "mesh"):
        logger.addHandler(handler)
        yield handler
        logger.removeHandler(handler)
    assert {facts["event"] for _, facts, _ in handler.lines} <= EVENTS


async def test_puts_and_announcements_are_gathered(autojump_clock: Any, heard: Heard) -> None:
    async with a_world() as world:
        a = await world.start("a", peers=["b"], interval=HOUR)
        await world.start("b", peers=["a"], interval=HOUR)
        await world.level(10.0)
        for number in range(40):
            await a.put(blob(number, 1000))
            await trio.sleep(0.5)
        await a.put(large(99))
        await world.level(60.0)
        await trio.sleep(60.0)
    puts = heard.facts("put")
    assert sum(facts["blobs"] for facts in puts) == 41
    assert sum(facts["bytes"] for facts in puts) == 40_000 + len(large(99))
    assert 2 <= len(puts) <= 6  # one at first, then one in ten seconds, and the large one
    assert len(heard.facts("put", digest=digest_of(large(99)).hex())) == 1
    offered = heard.facts("announced", peer="b")
    assert sum(facts["blobs"] for facts in offered) == 41
    assert sum(facts["wanted"] for facts in offered) == 41
    assert sum(facts["blobs"] for facts in heard.facts("sent", peer="b")) == 41
    assert sum(facts["blobs"] for facts in heard.facts("pushed")) == 41
    assert heard.facts("healed") == []


async def test_the_first_line_comes_soon(autojump_clock: Any, heard: Heard) -> None:
    async with a_world() as world:
        a = await world.start("a")
        await trio.sleep(100.0)
        began = trio.current_time()
        await a.put(blob(1, 10), blob(2, 20))
        await until(lambda: heard.lines, within=2.0)
        (when, facts, text) = heard.lines[0]
        assert when - began == pytest.approx(1.0, abs=0.1)
        assert (facts["blobs"], facts["bytes"]) == (2, 30)
        assert text == "put by clients: 2 blobs, 30 B"


async def test_what_is_not_told_at_a_stop_is_told_then(autojump_clock: Any, heard: Heard) -> None:
    async with a_world() as world:
        a = await world.start("a")
        await a.put(blob(1, 10))
        await a.stop()
        assert [facts["blobs"] for facts in heard.facts("put")] == [1]


async def test_what_is_fetched_and_healed_is_told(autojump_clock: Any, heard: Heard) -> None:
    async with a_world() as world:
        full = await filled(*blobs(0, 300, 100), large(0))
        await world.start("a", peers=["b"], store=full, interval=HOUR)
        b = await world.start("b", peers=["a"], interval=HOUR)
        await world.level(60.0)
        await trio.sleep(20.0)
        moved = heard.facts("fetched", peer="a") + heard.facts("sent", peer="b")
        assert sum(facts["blobs"] for facts in moved) == 301
        assert sum(facts["bytes"] for facts in moved) == 30_000 + len(large(0))
        rot(b, large(0))
        assert await read(b, large(0)) == large(0)
        await until(lambda: heard.facts("healed"), within=60.0)
        assert heard.facts("healed") == [{"event": "healed", "blobs": 1, "wanted": 0}]
