"""The mailbox: whatever is asked, cancelled, crashed and closed, every asker hears once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.actors.actor import Mailbox, Request, supervise
from mesh.errors import StoreError

ROOM = 3


class Bug(Exception):
    """What an owner crashes with."""


def a_mailbox() -> Mailbox[str, str]:
    return Mailbox("the owner", ROOM, StoreError)


@dataclass
class Asker:
    """One task that asks, and what it heard."""

    mailbox: Mailbox[str, str]
    question: str
    share: str | None = None
    heard: list[str] = field(default_factory=list)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def ask(self) -> None:
        with self.scope:
            try:
                self.heard.append(await self.mailbox.ask(self.question, share=self.share))
            except StoreError as error:
                self.heard.append(str(error))
        if self.scope.cancelled_caught:
            self.heard.append("cancelled")


class Owner:
    """Takes one request at a time, and does with it what the test says."""

    def __init__(self, mailbox: Mailbox[str, str]) -> None:
        self.mailbox = mailbox
        self.taken: list[str] = []
        self.under_way: Request[str, str] | None = None
        self._go = trio.Event()
        self._then: Callable[[Request[str, str]], None] = answer

    def go(self, then: Callable[[Request[str, str]], None]) -> None:
        """End the turn under way like this."""
        self._then = then
        self._go.set()

    async def run(self) -> None:
        while True:
            with self.mailbox.turn() as turn:
                self.under_way = await turn.take()
                self.taken.append(self.under_way.question)
                self._go = trio.Event()
                try:
                    await self._go.wait()
                finally:
                    request, self.under_way = self.under_way, None
                self._then(request)


def answer(request: Request[str, str]) -> None:
    request.reply.set(f"answer to {request.question}")


def refuse(request: Request[str, str]) -> None:
    request.reply.fail(StoreError(f"no to {request.question}"))


def forget(request: Request[str, str]) -> None:
    """A bug of its own: the turn ends, and nobody was answered."""


def crash(request: Request[str, str]) -> None:
    raise Bug


ENDS: dict[str, Callable[[Request[str, str]], None]] = {
    "answer": answer,
    "refuse": refuse,
    "forget": forget,
    "crash": crash,
}
FAILED = "the owner failed; see the log of the node"
STOPPED = "the owner was stopped before it had an answer; try again"
STOPPING = "the node is stopping"

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from(["", "", "x", "y"])),
        st.tuples(st.just("tell"), st.just("")),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.sampled_from(sorted(ENDS)), st.just("")),
        st.tuples(st.just("stop the owner"), st.just("")),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_everybody_hears_once_in_any_order_of_events(steps: list[tuple[str, str | int]]) -> None:
    trio.run(play, steps, clock=MockClock(autojump_threshold=0))


async def play(steps: list[tuple[str, str | int]]) -> None:
    mailbox = a_mailbox()
    askers: list[Asker] = []
    told: list[str] = []
    with trio.fail_after(3600):  # of virtual time
        async with trio.open_nursery() as clients, trio.open_nursery() as actors:
            owner, life = Owner(mailbox), trio.CancelScope()

            async def live() -> None:
                nonlocal life
                while True:
                    with trio.CancelScope() as life:
                        await supervise("owner", owner.run, Random(1))

            actors.start_soon(live)
            for number, (what, which) in enumerate(steps):
                await wait_all_tasks_blocked()
                if what == "ask":
                    asker = Asker(mailbox, f"{which or 'q'}{number}", str(which) or None)
                    askers.append(asker)
                    clients.start_soon(asker.ask)
                elif what == "tell":
                    told += [f"t{number}"] if mailbox.tell(f"t{number}") else []
                elif what == "cancel" and askers:
                    askers[int(which) % len(askers)].scope.cancel()
                elif what == "stop the owner":
                    life.cancel()
                elif what in ENDS and owner.under_way is not None:
                    owner.go(ENDS[what])
                if what in ("crash", "stop the owner"):
                    await trio.sleep(60)  # the supervisor starts it again
            await wait_all_tasks_blocked()
            mailbox.close()
            actors.cancel_scope.cancel()
    for asker in askers:
        (heard,) = asker.heard
        assert heard in ("cancelled", FAILED, STOPPED, STOPPING) or heard.startswith(
            ("answer to ", "no to ")
        )
        question = heard.partition(" to ")[2]
        if question and asker.share is None:
            assert question == asker.question
        elif question:
            assert question[0] == asker.share
    # Nothing is worked on twice, and nothing that nobody asked for.
    assert len(owner.taken) == len(set(owner.taken))
    assert set(owner.taken) <= {asker.question for asker in askers} | set(told)


@pytest.mark.trio
async def test_a_crash_before_a_request_is_looked_at_is_told_to_its_asker() -> None:
    mailbox = a_mailbox()
    asker = Asker(mailbox, "q")

    async def crashes() -> None:
        with mailbox.turn() as turn:
            await turn.take()
            raise Bug

    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker.ask)
        with pytest.raises(Bug):
            await crashes()
    assert asker.heard == [FAILED]


@pytest.mark.trio
async def test_all_that_was_taken_in_a_turn_is_answered_by_its_end() -> None:
    mailbox = a_mailbox()
    askers = [Asker(mailbox, f"q{n}") for n in range(4)]

    async def crashes() -> None:
        with mailbox.turn() as turn:
            answer(await turn.take())
            turn.take_nowait()
            turn.take_nowait()
            raise Bug

    async with trio.open_nursery() as nursery:
        for asker in askers:
            nursery.start_soon(asker.ask)
        await wait_all_tasks_blocked()
        with pytest.raises(Bug):
            await crashes()
        await wait_all_tasks_blocked()
        assert askers_who_heard(askers, FAILED) == 2
        assert askers_who_heard(askers, "") == 1  # it is in line for the next turn
        mailbox.close()
    assert askers_who_heard(askers, STOPPING) == 1


def askers_who_heard(askers: list[Asker], text: str) -> int:
    return ["".join(asker.heard) for asker in askers].count(text)


@pytest.mark.trio
async def test_a_shared_request_outlives_the_asker_who_came_first() -> None:
    mailbox = a_mailbox()
    owner = Owner(mailbox)
    first, second = Asker(mailbox, "one", "key"), Asker(mailbox, "two", "key")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.ask)
        await wait_all_tasks_blocked()
        nursery.start_soon(second.ask)
        await wait_all_tasks_blocked()
        first.scope.cancel()
        await wait_all_tasks_blocked()
        nursery.start_soon(owner.run)
        await wait_all_tasks_blocked()
        owner.go(answer)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (first.heard, second.heard) == (["cancelled"], ["answer to one"])
    assert owner.taken == ["one"]


@pytest.mark.trio
async def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    mailbox = a_mailbox()
    asker = Asker(mailbox, "q", "key")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker.ask)
        await wait_all_tasks_blocked()
        asker.scope.cancel()
    with mailbox.turn() as turn:
        assert turn.take_nowait() is None


@pytest.mark.trio
async def test_the_next_asker_after_an_answer_asks_anew() -> None:
    mailbox = a_mailbox()
    owner = Owner(mailbox)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner.run)
        for question in ("one", "two"):
            asker = Asker(mailbox, question, "key")
            nursery.start_soon(asker.ask)
            await wait_all_tasks_blocked()
            owner.go(answer)
            await wait_all_tasks_blocked()
            assert asker.heard == [f"answer to {question}"]
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_who_tells_without_waiting_is_refused_when_the_line_is_long() -> None:
    mailbox = a_mailbox()
    assert [mailbox.tell(f"t{n}") for n in range(ROOM + 1)] == [True] * ROOM + [False]
    with mailbox.turn() as turn:
        assert (await turn.take()).question == "t0"
        assert mailbox.tell("again")


@pytest.mark.trio
async def test_a_closed_mailbox_tells_those_in_line_and_those_who_come_later() -> None:
    mailbox = a_mailbox()
    askers = [Asker(mailbox, "one"), Asker(mailbox, "two", "key"), Asker(mailbox, "three", "key")]
    async with trio.open_nursery() as nursery:
        for asker in askers[:2]:
            nursery.start_soon(asker.ask)
        await wait_all_tasks_blocked()
        mailbox.close()
        nursery.start_soon(askers[2].ask)
    assert [asker.heard for asker in askers] == [[STOPPING]] * 3
    assert not mailbox.tell("late")
