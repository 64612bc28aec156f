"""How a client asks a node: an answer, a refusal, or a node that has gone silent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from functools import partial
from typing import TypeVar

import anyio

from mesh.decoding import json_of
from mesh.errors import (
    InputError,
    Misbehaved,
    PeerError,
    Stalled,
    Undecodable,
    Unreachable,
)
from mesh.racing import unless
from mesh.transport.http import Body, Http, Streamed, refused, words
from mesh.transport.pace import SILENCE

T = TypeVar("T")

# A page of a listing has 10,000 lines of 90 bytes; a manifest of a million files has 200 MB, but
# is a blob and streamed. Anything longer than this is not an answer of a node.
_MAX_ANSWER = 16 * 1024 * 1024

# Seconds from one sign of life that is asked for to the next.
_BEAT = 10.0


class Asking:
    """The node that is asked. Raises PeerErrors; InputError when it says that we asked wrongly.

    Deadlines: a connection is there within 5 s (transport/http.py). After that a call may take as
    long as the node is alive: a node that hashes a blob of a terabyte, or waits for a peer, says
    nothing for hours. So a long call has a heartbeat: every _BEAT seconds the node is asked for
    its status on another connection, and the call is given up with Stalled when no such question
    was answered for SILENCE seconds. A blob that has begun to come has to go on within SILENCE.
    """

    def __init__(self, http: Http, place: str) -> None:
        """`place`: host:port, as errors name the node."""
        self._http = http
        self._place = place

    @property
    def place(self) -> str:
        """host:port, as errors name the node."""
        return self._place

    @asynccontextmanager
    async def _answered(
        self, opening: AbstractAsyncContextManager[Streamed], accept: Sequence[int] = (200,)
    ) -> AsyncIterator[Streamed]:
        """The answer whose body is still to come; raises the refusal that it may be instead."""
        async with AsyncExitStack() as stack:
            answer = await self._while_alive(partial(stack.enter_async_context, opening))
            if answer.status not in accept:
                raise await self._http.refusal(answer)
            yield answer

    async def _ask(
        self,
        kind: type[T],
        method: str,
        path: str,
        body: Body = None,
        headers: dict[str, str] | None = None,
        *,
        params: dict[str, str] | None = None,
        accept: Sequence[int] = (200, 201),
    ) -> T:
        status, answer = await self._asked(method, path, body, headers, params)
        return self._value(kind, status, answer, accept)

    async def _asked(
        self,
        method: str,
        path: str,
        body: Body = None,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """The status and the body of an answer, whatever it is."""
        exchange = partial(
            self._http.exchange,
            method, path, body, headers, params, patient=True, limit=_MAX_ANSWER,
        )  # fmt: skip
        try:
            status, _, answer = await self._while_alive(exchange)
        except Stalled:
            raise  # it says itself that the node is there and does not answer
        except Unreachable as error:
            raise Unreachable(f"{error}; is a node running there? (--node URL)") from error
        return status, answer

    def _value(
        self, kind: type[T], status: int, answer: bytes, accept: Sequence[int] = (200, 201)
    ) -> T:
        """What an answer says; raises the refusal that it may be instead."""
        if status not in accept:
            raise self._refusal(status, answer)
        return self._read(kind, answer)

    def _read(self, kind: type[T], answer: bytes) -> T:
        try:
            return json_of(kind).read(answer)
        except Undecodable as error:
            raise Misbehaved(f"{self._place} is not a mesh node: {error}") from error

    async def _while_alive(self, call: Callable[[], Awaitable[T]]) -> T:
        """The outcome of `call()`; Stalled when the node stops answering in the meantime."""
        return await unless(
            self._beat,
            call,
            lambda: Stalled(
                f"{self._place} takes connections but has not answered for {SILENCE:g} s; is the "
                "node stopped (kill -CONT), or its machine out of memory?"
            ),
        )

    async def _beat(self) -> None:
        """Return when the node has answered nothing for SILENCE seconds."""
        last = anyio.current_time()
        while (left := last + SILENCE - anyio.current_time()) > 0:
            await anyio.sleep(min(_BEAT, left))
            with anyio.CancelScope(deadline=last + SILENCE), suppress(PeerError):
                # Any answer will do, one that refuses too.
                await self._http.exchange("GET", "/v1/status", limit=_MAX_ANSWER)
                last = anyio.current_time()

    def _refusal(self, status: int, answer: bytes) -> PeerError | InputError:
        text = words(answer)
        if status in (400, 404) and text:
            return InputError(text)
        return refused(self._place, status, {}, text)


async def leave(chunks: AsyncIterator[bytes]) -> None:
    """End an answer of which nobody reads the rest.

    httpx and httpcore read it through generators that do not close one another; left alone, each
    waits for the garbage collector, and trio warns of it. A read that is cancelled ends them all.
    """
    with anyio.CancelScope() as scope:
        scope.cancel()
        async for _ in chunks:
            pass
