"""Random meshes, circles and dead ends included, against a search that knows everything."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.horizon import MAX_HOPS, MAX_NODES, Edge, Horizon, Question, age, margin
from tests.oracles import quick

US = bytes(16)
Mesh = dict[int, dict[int, bool]]
"""Node 0 is ours. Which nodes each node lists, and whether it is level with them."""


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def edges(mesh: Mesh, number: int) -> list[Edge]:
    found = mesh.get(number, {})
    return [Edge(name(n), f"n{n}", 0 if level else None) for n, level in found.items()]


def search(mesh: Mesh, dead: frozenset[int] = frozenset()) -> tuple[Horizon, list[Question]]:
    """One pass of a wait whose own peers are level, and what was asked in it."""
    horizon = Horizon(US, [(name(n), f"n{n}", 1.0) for n in mesh.get(0, {})])
    asked: list[Question] = []
    waiting = deque(horizon.ask())
    now = 2.0
    while waiting:
        question = waiting.popleft()
        asked.append(question)
        now += 1.0
        number = int.from_bytes(question.route[-1], "big")
        if number in dead:
            horizon.failed(question, "cannot reach it", never=False)
        else:
            told = edges(mesh, number)
            waiting += horizon.told(question, told, sent=now, now=now + 0.5, more=False)
    return horizon, asked


meshes = st.dictionaries(
    st.integers(0, 9),
    st.dictionaries(st.integers(0, 9), st.booleans(), max_size=4),
    max_size=10,
)


@quick
@given(mesh=meshes, dead=st.frozensets(st.integers(1, 9), max_size=2))
def test_a_search_finds_what_is_level_and_asks_each_node_once(
    mesh: Mesh, dead: frozenset[int]
) -> None:
    own = {n for n in mesh.get(0, {}) if n != 0}
    mesh[0] = dict.fromkeys(own, True)
    # Whatever can be reached over links that are level.
    level, waiting = set(own), deque(own)
    while waiting:
        at = waiting.popleft()
        for other, good in mesh.get(at, {}).items() if at not in dead else ():
            if good and other not in level | {0}:
                level.add(other)
                waiting.append(other)
    behind = {
        other
        for at in level - dead
        for other, good in mesh.get(at, {}).items()
        if not good and other not in level | {0}
    }

    horizon, asked = search(mesh, dead)

    assert sorted(q.route[-1] for q in asked) == sorted(map(name, level)), "each of them once"
    assert all(len(q.route) <= 10 for q in asked)
    assert horizon.beyond == len(level - own)
    said = "\n".join(horizon.problems())
    assert (not said) == (not behind and not level & dead)
    for number in behind:
        assert f"its peer n{number} is not level" in said
    for number in level & dead:
        assert f"n{number}" in said


def test_each_question_goes_along_peers_of_peers() -> None:
    mesh = {0: {1: True}, 1: {0: True, 2: True}, 2: {1: True, 3: True}, 3: {2: True}}
    _, asked = search(mesh)
    assert [q.route for q in asked] == [(name(1),), (name(1), name(2)), (name(1), name(2), name(3))]


def test_a_level_that_is_older_than_the_wait_says_nothing() -> None:
    """The node was level with its peer before it was level with us: it may have got more since."""
    horizon = Horizon(US, [(name(1), "b", 100.0)])
    (question,) = horizon.ask()
    asked_at = 110.0
    old, fresh = Edge(name(2), "c", 10_001), Edge(name(2), "c", 10_000)
    assert not horizon.told(question, [old], asked_at, 150.0, more=False)
    assert horizon.problems() == ["b says its peer c is not level"]
    assert horizon.open
    (behind,) = horizon.told(question, [fresh], asked_at, 150.0, more=False)
    assert not horizon.told(behind, [], asked_at, 150.0, more=False)
    assert not horizon.problems()


def test_a_level_is_as_old_as_the_question_and_not_as_the_answer() -> None:
    """An answer that was long under way must not make anybody look better."""
    horizon = Horizon(US, [(name(1), "b", 100.0)])
    (question,) = horizon.ask()
    assert not horizon.told(question, [Edge(name(2), "c", 5_000)], 104.0, 1000.0, more=False)
    assert horizon.problems() == ["b says its peer c is not level"]


def test_a_node_that_will_never_tell_ends_the_search_in_its_direction() -> None:
    horizon = Horizon(US, [(name(1), "b", 1.0), (None, "stash", 1.0)])
    (question,) = horizon.ask()
    horizon.failed(question, "no such request", never=True)
    assert not horizon.open
    assert horizon.problems()
    (said,) = horizon.problems()
    assert said.startswith("b does not tell how it stands with its peers")


def test_a_node_that_does_not_answer_is_asked_again() -> None:
    horizon = Horizon(US, [(name(1), "b", 1.0)])
    (question,) = horizon.ask()
    (behind,) = horizon.told(question, [Edge(name(2), "c", 0)], 2.0, 2.0, more=False)
    horizon.failed(behind, "connection refused", never=False)
    assert horizon.problems() == ["c, a peer of b, does not answer: connection refused"]
    assert horizon.ask() == [behind]
    assert not horizon.told(behind, [], 3.0, 3.0, more=False)
    assert not horizon.problems()
    assert horizon.beyond == 1


def test_a_long_chain_and_a_large_mesh_are_not_searched_to_their_end() -> None:
    chain: Mesh = {n: {n + 1: True} for n in range(50)}
    horizon, asked = search(chain)
    assert max(len(q.route) for q in asked) == MAX_HOPS + 1
    assert "too far away" in "".join(horizon.problems())
    assert horizon.problems()
    # A star of many nodes that tells of as many peers as it likes.
    star = Horizon(US, [(name(1), "b", 1.0)])
    (question,) = star.ask()
    many = [Edge(name(n), f"n{n}", 0) for n in range(2, MAX_NODES * 2)]
    assert len(star.told(question, many, 2.0, 2.0, more=True)) < MAX_NODES
    assert star.problems()


def test_peers_that_are_not_told_of_are_said() -> None:
    horizon = Horizon(US, [(name(1), "b", 1.0)])
    (question,) = horizon.ask()
    horizon.told(question, [], 2.0, 2.0, more=True)
    assert horizon.problems() == ["b has more peers than it tells of"]
    assert not horizon.open


def test_a_node_that_was_too_far_away_by_a_longer_way_is_asked_by_a_shorter_one() -> None:
    last = MAX_HOPS + 1
    horizon = Horizon(US, [(name(1), "n1", 1.0), (name(100), "n100", 1.0)])
    long, short = horizon.ask()
    question, now = long, 2.0
    for number in range(2, last + 1):
        (question,) = horizon.told(question, [Edge(name(number), "n", 0)], now, now, more=False)
    far = [Edge(name(last + 1), "the last", 0)]
    assert not horizon.told(question, far, now, now, more=False)
    assert horizon.problems()[1:] == ["the last, a peer of n, is too far away to be asked"]
    assert not horizon.ask()[1:]
    (again,) = horizon.told(short, [Edge(name(last), "n", 0)], now, now, more=False)
    assert again.route == (name(100), name(last))
    (beyond,) = horizon.told(again, far, now, now, more=False)
    assert not horizon.told(beyond, [], now, now, more=False)
    assert not horizon.problems()
    assert horizon.depth == MAX_HOPS, "the last but one of the longer way"


@quick
@given(at=st.floats(0, 1e7), later=st.floats(0, 1e4), since=st.floats(-1.0, 1.0))
def test_rounding_makes_nobody_look_better_than_it_is(
    at: float, later: float, since: float
) -> None:
    """Both on one clock here: the question is sent at `now`, and the round began at `at`."""
    now = at + later
    if age(at, now) <= margin(at + since, now):
        assert since <= 1e-6
    if since <= -0.0011:
        assert age(at, now) <= margin(at + since, now), "and not by more than a millisecond worse"


def test_all_are_alike_when_each_says_so_of_itself() -> None:
    horizon = Horizon(US, [(name(1), "b", 1.0)])
    (question,) = horizon.ask()
    assert not horizon.alike(bytes(32))
    horizon.told(question, [], 2.0, 2.0, more=False, root=bytes(32))
    assert horizon.alike(bytes(32))
    horizon.told(question, [], 2.0, 2.0, more=False, root=None)
    assert not horizon.alike(bytes(32))
