"""The no-progress rule: no total timeout kills a slow transfer, standing still does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import TypeVar

import anyio

from mesh.errors import Stalled

T = TypeVar("T")

# A peer that says nothing for this long is taken for gone: longer than a slow disk's sync or a
# tree answer takes, short enough that its claims are free again soon.
SILENCE = 30.0

# Bytes that have to come in SILENCE seconds of waiting: 64 kbit/s brings 240,000. A peer that
# drips a byte a second would otherwise hold its place for ever.
LEAST = 16 * 1024

# What is handed to the network at a time where its taking is the sign of life: 8 s at 64 kbit/s.
_SLICE = 64 * 1024

# A message and an answer of some hundred bytes, a connection made before: three round trips, some
# seconds on the slowest links. A peer that hangs is known for it after this.
GREETING = 15.0

# A small message and its small answer. A tree answer of 200 kB takes 25 s at 64 kbit/s.
CALL = 60.0


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Unreachable when the body takes longer than `seconds`."""
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError:
        raise Stalled(f"{what}: no answer within {seconds:g} s") from None


@asynccontextmanager
async def begun(opening: AbstractAsyncContextManager[T], what: str) -> AsyncIterator[T]:
    """Enter a context that has to be open within SILENCE seconds; Unreachable otherwise."""
    async with AsyncExitStack() as stack:
        with within(SILENCE, what):
            entered = await stack.enter_async_context(opening)
        yield entered


class Paced:
    """Chunks, as long as they keep coming; only time spent waiting for them counts.

    An iterator rather than a generator: dropping it half-way leaves nothing to be closed.
    """

    def __init__(self, chunks: AsyncIterator[bytes], what: str, size: int | None = None) -> None:
        """`what` names the transfer in the error, which is Unreachable.

        `size`: bytes of all chunks, where the sender said so.
        """
        self.size = size
        self._chunks = chunks
        self._what = what
        self._waited = 0.0
        self._got = 0

    def __aiter__(self) -> Paced:
        """Itself."""
        return self

    async def __anext__(self) -> bytes:
        """The next chunk."""
        began = anyio.current_time()
        try:
            with anyio.fail_after(SILENCE):
                chunk = await anext(self._chunks)
        except TimeoutError:
            raise Stalled(f"{self._what}: nothing came for {SILENCE:g} s") from None
        self._waited += anyio.current_time() - began
        self._got += len(chunk)
        if self._waited >= SILENCE:
            if self._got < LEAST:
                raise Stalled(
                    f"{self._what}: {self._got} bytes in {self._waited:.0f} s, too slow to wait for"
                )
            self._waited, self._got = 0.0, 0
        return chunk


class Pulse:
    """The no-progress rule for a stream that we send: every chunk taken moves the deadline."""

    def __init__(self, what: str) -> None:
        """`what` names the transfer in the error."""
        self._what = what
        self._scope = anyio.CancelScope()

    def beat(self, chunks: AsyncIterator[bytes]) -> _Beats:
        """The chunks, each of which is a sign of life of whoever takes them."""
        return _Beats(chunks, self._allow)

    def _allow(self, seconds: float) -> None:
        self._scope.deadline = anyio.current_time() + seconds

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Unreachable when the deadline passes in the body."""
        self._scope.deadline = anyio.current_time() + SILENCE
        with self._scope:
            yield
        if self._scope.cancelled_caught:
            raise Stalled(f"{self._what}: the peer stopped taking what we send")


class _Beats:
    """See Pulse.beat."""

    def __init__(self, chunks: AsyncIterator[bytes], allow: Callable[[float], None]) -> None:
        self._chunks = chunks
        self._allow = allow
        self._rest = b""

    def __aiter__(self) -> _Beats:
        return self

    async def __anext__(self) -> bytes:
        while not self._rest:
            self._allow(SILENCE)
            try:
                self._rest = await anext(self._chunks)
            except StopAsyncIteration:
                # What remains is the answer, which comes when everything is durable there.
                self._allow(CALL)
                raise
        self._allow(SILENCE)
        piece, self._rest = self._rest[:_SLICE], self._rest[_SLICE:]
        return piece
