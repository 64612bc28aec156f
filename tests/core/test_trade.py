"""The plan of a traded blob: it ends whatever the others do, and asks for nothing twice in vain."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.digest import digest_of
from mesh.core.holder import Configured
from mesh.core.trade import REACH, STRETCH, WINDOW, Ask, Trade

NAME = digest_of(b"a large blob")
SOURCE = Configured("http://source:1")
GRAIN = 3 * STRETCH // 2  # so that what is known of others ends between two stretches


class Oracle:
    """Carries out a plan in the dumbest way, and remembers everything that was asked for."""

    def __init__(self, trade: Trade) -> None:
        self.trade = trade
        self.asked: list[Ask] = []
        self.held: dict[int, Ask] = {}
        self.failed: Counter[int] = Counter()
        self.times: Counter[int] = Counter()

    def ask(self) -> None:
        while (ask := self.trade.next()) is not None:
            assert self.trade.front <= ask.start < ask.stop <= self.trade.size
            assert ask.start // STRETCH == (ask.stop - 1) // STRETCH == ask.number
            assert ask.number < self.trade.index + WINDOW
            assert ask.number not in self.held, "it is here"
            assert all(other.number != ask.number for other in self.asked), "it is on its way"
            self.times[ask.number] += 1
            assert self.times[ask.number] <= 1 + self.failed[ask.number], "nothing had failed"
            self.asked.append(ask)

    def came(self, ask: Ask) -> None:
        self.asked.remove(ask)
        self.held[ask.number] = ask
        self.trade.came(ask)
        while (first := self.held.pop(self.trade.index, None)) is not None:
            assert first.start == self.trade.front
            self.trade.written(first.stop)

    def fails(self, ask: Ask, *, fatal: bool) -> None:
        self.asked.remove(ask)
        self.failed[ask.number] += 1
        self.trade.failed(ask, fatal=fatal)


@given(
    st.integers(0, 2**32),
    st.integers(1, 40 * STRETCH),
    st.integers(0, 40 * STRETCH),
    st.integers(0, 4),
)
def test_it_ends_whatever_the_others_do(seed: int, size: int, here: int, others: int) -> None:
    random = Random(seed)
    trade = Trade(NAME, size, b"us", min(here, size))
    oracle = Oracle(trade)
    givers = [Configured(f"http://other{number}:1") for number in range(others)]
    trade.heard(SOURCE, b"source", size, 0)
    for _ in range(10_000):
        for giver in givers:
            if random.random() < 0.3:
                front = random.choice([0, size, random.randrange(size + 1), trade.front])
                trade.heard(giver, giver.url.encode(), front, random.choice([0, REACH]))
            elif random.random() < 0.1:
                trade.gone(giver)
        oracle.ask()
        if not oracle.asked:
            break
        ask = random.choice(oracle.asked)
        if ask.giver == SOURCE or random.random() < 0.5:
            oracle.came(ask)
        else:
            oracle.fails(ask, fatal=random.random() < 0.1)
    # All of it is here, or nobody is left to share it with: the rest comes in order.
    assert not oracle.asked
    assert trade.front == size or not trade.worth
    assert not oracle.held


@pytest.mark.parametrize("nodes", [2, 3, 5, 10])
@pytest.mark.parametrize("news", [0, WINDOW // 2])
def test_each_stretch_leaves_the_source_about_once(nodes: int, news: int) -> None:
    """Also when nodes hear of each other only what is `news` stretches more than they knew."""
    count = 60
    size = count * STRETCH - 5
    names = [Configured(f"http://node{number}:1") for number in range(nodes)]
    oracles = {name: Oracle(Trade(NAME, size, name.url.encode())) for name in names}
    sent: Counter[int] = Counter()
    known: dict[tuple[Configured, Configured], int] = {}
    while any(each.trade.front < size for each in oracles.values()):
        moved = False
        for name, each in oracles.items():
            each.trade.heard(SOURCE, b"source", size, 0)
            for other in names:
                front = oracles[other].trade.front
                grown = front - known.get((name, other), -size)
                if other != name and (grown >= news * STRETCH or front == size):
                    known[name, other] = front
                    each.trade.heard(other, other.url.encode(), front, REACH)
            each.ask()
            for ask in list(each.asked):
                there = oracles.get(ask.giver)
                if there is None:
                    sent[ask.number] += 1
                elif there.trade.front < ask.stop and ask.number not in there.held:
                    continue
                each.came(ask)
                moved = True
        assert moved, "they wait for each other in a circle"
    assert set(sent) == set(range(count))
    assert sent.total() <= 1.05 * count, sent


def test_who_did_not_come_forward_is_not_waited_for_until_it_is_ahead() -> None:
    fellow = Configured("http://fellow:1")
    trade = Trade(NAME, 40 * STRETCH, b"us")
    oracle = Oracle(trade)
    trade.heard(SOURCE, b"source", trade.size, 0)
    trade.heard(fellow, b"fellow", 0, REACH)
    oracle.ask()
    late = next(ask for ask in oracle.asked if ask.giver == fellow)
    oracle.fails(late, fatal=False)
    trade.heard(fellow, b"fellow", 0, REACH)
    while trade.front < 2 * GRAIN:
        oracle.came(oracle.asked[0])
        oracle.ask()
    assert all(ask.giver == SOURCE for ask in oracle.asked)
    assert not trade.worth
    trade.heard(fellow, b"fellow", 30 * STRETCH, REACH)
    oracle.ask()
    assert any(ask.giver == fellow for ask in oracle.asked)


def test_alone_with_the_source_nothing_is_traded() -> None:
    trade = Trade(NAME, 40 * STRETCH, b"us")
    trade.heard(SOURCE, b"source", trade.size, 0)
    trade.heard(Configured("http://other:1"), b"other", trade.size, 0)
    assert not trade.worth
    assert trade.next() is None
