"""What all actors share: a mailbox in which every request gets its answer, and a supervisor.

How a mailbox works
-------------------

An actor owns a mailbox. Others `ask`, and wait for the answer; or `tell`, and do not wait. A
request is in one of three places, and leaves each of them in one way only:

* **In line.** The request waits for its turn. It stays only as long as somebody waits for its
  answer: when the last asker is cancelled, the request is withdrawn. So the line holds one
  request for each living asker at most, and those of `tell`, which leaves no asker behind and is
  refused when `room` such requests are in line. A mailbox cannot grow beyond that.
* **Taken.** The owner took the request inside a `with mailbox.turn() as turn` block. There is no
  other way to take one. Work on it goes on even when every asker is gone. Whatever ends the
  block, all that was taken in it and not answered is answered with an error: a return, a bug on
  any line, the cancellation of the owner. An owner needs no `finally` of its own.
  An asker who has *lent* something to the request, such as a file that is about to be renamed,
  stays until the answer is there, even when it is cancelled: so nothing is taken back too early.
* **Answered.** The first answer counts; later ones are ignored.

A crash of the owner between two turns loses nothing: what is in line waits for the owner that the
supervisor starts next. When no owner will come any more, the node calls `close`; everybody in line
is told that the node is stopping, and so is everybody who asks later.

Askers who give the same `share` key wait for one request. None of them is its sender: the request
stands in line for itself, so it does not matter who of them came first and who goes away. A
request that is shared can have begun before the last asker came; an asker for whom this is too
early (a round that has to begin *after* it was asked for) must not share.

All of this happens on one event loop, and no state changes across an `await`; so no lock is needed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Generic, TypeVar

import anyio

from mesh.errors import MeshError, one_line

log = logging.getLogger("mesh")

Q = TypeVar("Q")
A = TypeVar("A")

# A bug that strikes at once must not turn into a busy loop; one that struck once should not keep
# an actor away for long.
_RESTART_FIRST = 0.1
_RESTART_CAP = 30.0
_CALM = 60.0  # after this long without a crash the next one counts as the first


class Reply(Generic[A]):
    """An answer that one or several tasks wait for. The first `set` or `fail` counts."""

    def __init__(self) -> None:
        self._done = anyio.Event()
        self._value: A | None = None
        self._error: Exception | None = None

    @property
    def given(self) -> bool:
        """Whether there is an answer."""
        return self._done.is_set()

    def set(self, value: A) -> None:
        """Answer."""
        if not self.given:
            self._value = value
            self._done.set()

    def fail(self, error: Exception) -> None:
        """Answer with an error."""
        if not self.given:
            self._error = error
            self._done.set()

    async def settled(self) -> None:
        """Wait until there is an answer."""
        await self._done.wait()

    async def wait(self) -> A:
        """The answer; raises the error that was given instead."""
        await self._done.wait()
        if self._error is not None:
            # Several may raise the same error; none of them should show the others' frames.
            raise self._error.with_traceback(None)
        return self._value  # type: ignore[return-value]  # set() gave it, None included


class Request(Generic[Q, A]):
    """One question, and the reply that its askers wait for."""

    __slots__ = ("askers", "question", "reply", "share", "taken")

    def __init__(self, question: Q, share: Hashable | None = None) -> None:
        self.question = question
        self.share = share
        self.askers = 0  # tasks that wait for the reply
        self.taken = False  # the owner works on it, or has done so
        self.reply: Reply[A] = Reply()


class Turn(Generic[Q, A]):
    """What an owner has taken since its turn began; see `Mailbox.turn`."""

    def __init__(
        self, pop: Callable[[], Request[Q, A] | None], arrival: Callable[[], anyio.Event]
    ) -> None:
        self._pop = pop
        self._arrival = arrival
        self.taken: list[Request[Q, A]] = []

    async def take(self) -> Request[Q, A]:
        """The next request in line; waits until there is one."""
        while (request := self.take_nowait()) is None:
            await self._arrival().wait()
        return request

    def take_nowait(self) -> Request[Q, A] | None:
        """The next request in line; None when there is none."""
        request = self._pop()
        if request is not None:
            request.taken = True
            self.taken.append(request)
        return request


class Mailbox(Generic[Q, A]):
    """The requests to one actor, whose questions are of type Q and answers of type A."""

    def __init__(self, owner: str, room: int, error: Callable[[str], MeshError]) -> None:
        """`owner`: what the actor is called in errors, such as "the keeper".

        `room`: how many requests for which nobody waits may be in line. `error`: makes, from one
        line of text, the error that an asker gets when the owner crashed or the node stops.
        """
        self._owner = owner
        self._room = room
        self._error = error
        self._line: deque[Request[Q, A]] = deque()
        self._shared: dict[Hashable, Request[Q, A]] = {}
        self._arrived = anyio.Event()
        self._closed = ""  # why nobody is taken any more

    async def ask(self, question: Q, *, share: Hashable | None = None, lent: bool = False) -> A:
        """Wait for the owner's answer to `question`.

        With a `share` key, wait for the answer to the request under that key instead when there is
        one that has no answer yet. `lent`: the owner works with something that the asker holds; an
        asker that is cancelled then waits until the owner is done with it.

        Raises what the owner answered, or `error` when the owner crashed over the request or the
        node is stopping.
        """
        request = self._shared.get(share) if share is not None else None
        if request is None or request.reply.given:
            request = Request(question, share)
            self._enter(request)
        request.askers += 1
        try:
            return await request.reply.wait()
        except anyio.get_cancelled_exc_class():
            if lent and request.taken:
                with anyio.CancelScope(shield=True):
                    await request.reply.settled()
            raise
        finally:
            request.askers -= 1
            if not request.askers:
                self._leave(request)

    def tell(self, question: Q) -> bool:
        """Put a request in line for whose answer nobody waits; False when there is no room."""
        told = sum(not request.askers for request in self._line)
        if self._closed or told >= self._room:
            return False
        self._enter(Request(question))
        return True

    @contextmanager
    def turn(self) -> Iterator[Turn[Q, A]]:
        """For the owner: take requests, work on them and answer them, all inside of the block."""
        turn = Turn(self._pop, lambda: self._arrived)
        why = f"{self._owner} was stopped before it had an answer; try again"
        try:
            yield turn
        except Exception:
            why = f"{self._owner} failed; see the log of the node"
            raise
        finally:
            for request in turn.taken:
                request.reply.fail(self._error(why))
                self._forget(request)

    def close(self, why: str = "the node is stopping") -> None:
        """The owner does not come back: everybody in line, and who comes later, is told why."""
        self._closed = why
        while (request := self._pop()) is not None:
            self._refuse(request)

    # --- the line ----------------------------------------------------------------------------

    def _pop(self) -> Request[Q, A] | None:
        return self._line.popleft() if self._line else None

    def _enter(self, request: Request[Q, A]) -> None:
        if self._closed:
            self._refuse(request)
            return
        self._line.append(request)
        if request.share is not None:
            self._shared[request.share] = request
        self._arrived.set()
        self._arrived = anyio.Event()

    def _leave(self, request: Request[Q, A]) -> None:
        """The last asker is gone: what nobody took yet, nobody needs to take."""
        if request in self._line:
            self._line.remove(request)
            self._forget(request)

    def _refuse(self, request: Request[Q, A]) -> None:
        request.reply.fail(self._error(self._closed))
        self._forget(request)

    def _forget(self, request: Request[Q, A]) -> None:
        if request.share is not None and self._shared.get(request.share) is request:
            del self._shared[request.share]


async def supervise(name: str, run: Callable[[], Awaitable[None]], random: Random) -> None:
    """Run an actor until it returns; after a crash, log it and start it again.

    One actor's bug is one actor's restart: the others live on. This is the only place in the
    package that catches everything.
    """
    crashes = 0
    while True:
        began = anyio.current_time()
        try:
            await run()
        except Exception as error:  # the supervisor's one broad except
            if anyio.current_time() - began > _CALM:
                crashes = 0
            crashes += 1
            if isinstance(error, MeshError):
                log.error("%s failed: %s; restarting it", name, one_line(error))
            else:
                log.exception("%s crashed; restarting it", name)
            ceiling = min(_RESTART_CAP, _RESTART_FIRST * 2.0 ** min(crashes, 16))
            await anyio.sleep(random.uniform(ceiling / 2, ceiling))
        else:
            return
