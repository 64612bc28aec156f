"""What keeps failing, against an oracle that remembers every event."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mesh.core.digest import Digest, digest_of
from mesh.core.failing import MOST, OLD, Failing, Side
from mesh.core.holder import Configured

NAMES = [digest_of(b"%d" % number) for number in range(4)]
PEERS = [Configured(f"http://{name}:7280") for name in "bc"]

some_names = st.lists(st.sampled_from(NAMES), unique=True)
peers = st.sampled_from(PEERS)
sides = st.sampled_from(Side)


@dataclass
class Entry:
    tries: int
    first: float
    last: float
    reason: str


class AnyOrder(RuleBasedStateMachine):
    """Every event at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = Failing()
        self.now = 0.0
        self.entries: dict[tuple[Digest, Configured, Side], Entry] = {}

    @rule(seconds=st.sampled_from([0.0, 1.0, 60.0, OLD / 2, OLD + 1]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(side=sides, peer=peers, names=some_names, why=st.sampled_from("xy"))
    def failed(self, side: Side, peer: Configured, names: list[Digest], why: str) -> None:
        self.failing.failed(side, peer, names, why, self.now)
        self.expire()
        for name in names:
            entry = self.entries.setdefault((name, peer, side), Entry(0, self.now, 0.0, ""))
            entry.tries += 1
            entry.last, entry.reason = self.now, why

    @rule(names=some_names)
    def arrived(self, names: list[Digest]) -> None:
        self.failing.arrived(names)
        self.drop(lambda name, _, side: name in names and side is Side.HERE)

    @rule(peer=peers, names=some_names)
    def sent(self, peer: Configured, names: list[Digest]) -> None:
        self.failing.sent(peer, names)
        self.drop(lambda name, of, side: name in names and (of, side) == (peer, Side.THERE))

    @rule(side=sides, peer=peers)
    def level(self, side: Side, peer: Configured) -> None:
        self.failing.level(side, peer)
        self.drop(lambda _, of, on: (of, on) == (peer, side))

    @rule(peer=peers)
    def forget(self, peer: Configured) -> None:
        self.failing.forget(peer)
        self.drop(lambda _, of, __: of == peer)

    def drop(self, which) -> None:
        self.entries = {key: entry for key, entry in self.entries.items() if not which(*key)}

    def expire(self) -> None:
        kept = {k: entry for k, entry in self.entries.items() if entry.last >= self.now - OLD}
        self.entries = kept

    @invariant()
    def rows_are_the_entries(self) -> None:
        self.expire()
        rows = self.failing.rows(self.now)
        found = {
            (row.digest, row.peer, row.side): Entry(row.tries, row.first, row.last, row.reason)
            for row in rows
        }
        assert len(found) == len(rows) == len(self.failing)
        assert found == self.entries
        assert [row.last for row in rows] == sorted((row.last for row in rows), reverse=True)


TestAnyOrder = AnyOrder.TestCase


def test_the_rows_are_bounded_and_those_that_go_are_counted() -> None:
    failing = Failing()
    names = [digest_of(b"%d" % number) for number in range(MOST + 10)]
    failing.failed(Side.HERE, PEERS[0], names, "why", 1.0)
    assert (len(failing), failing.forgotten) == (MOST, 10)
    assert {row.digest for row in failing.rows(1.0)} == set(names[10:])
    failing.forget(PEERS[0])
    assert (len(failing), failing.forgotten) == (0, 0)
