"""The word for a peer, and since when it is so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.digest import Digest
from mesh.core.standing import Event, Outcome, Standing
from mesh.core.verdict import GOOD, Since, Verdict, judge
from tests.oracles import quick

OURS, THEIRS = (Digest(bytes((number,)) * 32) for number in (1, 2))

Step = Callable[[Standing], Any]


def met(event: Event, root: Digest | None = THEIRS) -> Step:
    return lambda standing: standing.met(event, root, 1.0)


def failed(event: Event) -> Step:
    return lambda standing: standing.failed(event, "why", 2.0)


def ended(here: int, there: int, **facts: Any) -> Step:
    facts = {"proven": True, "ours": OURS, "theirs": THEIRS, **facts}
    outcome = Outcome(left_here=here, left_there=there, **facts)
    return lambda standing: standing.ended(outcome, 3.0)


EQUAL = met(Event.EQUAL, OURS)
DIFFERS = met(Event.DIFFERS)


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        ([], Verdict.UNKNOWN),
        ([met(Event.STARTING, None)], Verdict.UNKNOWN),
        ([met(Event.SELF)], Verdict.IGNORED),
        ([met(Event.DUPLICATE)], Verdict.IGNORED),
        ([EQUAL], Verdict.IN_SYNC),
        ([DIFFERS], Verdict.APART),
        ([DIFFERS, ended(1, 0)], Verdict.APART),
        ([DIFFERS, ended(1, 0, known=False)], Verdict.APART),
        ([DIFFERS, ended(0, 0, theirs=OURS)], Verdict.IN_SYNC),
        ([DIFFERS, ended(1, 0, over_limit=1)], Verdict.APART),
        ([EQUAL, failed(Event.UNREACHABLE)], Verdict.UNREACHABLE),
        ([EQUAL, failed(Event.REFUSED)], Verdict.FAILING),
        ([EQUAL, failed(Event.CLONE)], Verdict.FAILING),
        ([failed(Event.UNREACHABLE), failed(Event.BROKEN)], Verdict.FAILING),
        ([failed(Event.UNREACHABLE), EQUAL], Verdict.IN_SYNC),
        ([failed(Event.UNREACHABLE), DIFFERS], Verdict.APART),
        ([EQUAL, lambda standing: standing.restarted()], Verdict.UNKNOWN),
        ([EQUAL, lambda standing: standing.heard(THEIRS)], Verdict.APART),
    ],
)
def test_the_verdict_follows_from_what_happened(steps: list[Step], verdict: Verdict) -> None:
    standing = Standing()
    for step in steps:
        step(standing)
    assert judge(standing, OURS) is verdict
    assert judge(standing, None) not in GOOD


@pytest.mark.parametrize(
    ("pulls", "pushes", "here", "there", "verdict"),
    [
        (True, False, 0, 3, Verdict.LEVEL),
        (True, False, 3, 0, Verdict.APART),
        (False, True, 3, 0, Verdict.LEVEL),
        (False, True, 0, 3, Verdict.APART),
    ],
)
def test_one_direction_is_level_when_nothing_is_left_in_it(
    pulls: bool, pushes: bool, here: int, there: int, verdict: Verdict
) -> None:
    standing = Standing(pulls=pulls, pushes=pushes)
    for step in (DIFFERS, ended(here, there)):
        step(standing)
    assert judge(standing, OURS) is verdict
    standing.heard(OURS)
    assert judge(standing, OURS) is Verdict.IN_SYNC


@quick
@given(st.lists(st.tuples(st.floats(0.1, 10.0), st.sampled_from("abc")), min_size=1))
def test_since_is_when_the_last_run_of_equal_values_began(
    looks: list[tuple[float, str]],
) -> None:
    since, now, all_of_them = Since(""), 0.0, []
    for pause, value in looks:
        now += pause
        since.look(value, now)
        all_of_them.append((now, value))
    at = now
    for when, value in reversed(all_of_them):
        if value != since.value:
            break
        at = when
    assert (since.value, since.at) == (looks[-1][1], at)
