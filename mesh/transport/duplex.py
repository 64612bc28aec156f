"""An upload whose answer is read while the body is still being sent.

A server may answer before it has the whole body: the key is wrong, the blob is too large, the disk
is full, the blob is here already. It then reads a little more, and closes. httpx looks for the
answer only once the body is sent. By then the answer is lost, and "broken pipe" is what is left.

So a task reads from the connection from the moment at which the head of the request has gone. As
soon as something comes, nothing more is sent. The producer of the body, which may be pausing, is
no longer waited for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import TypeVar

import anyio
import httpcore

from mesh.racing import beside

T = TypeVar("T")

# What is read at a time; the first bytes of an answer are mostly all of it.
_READ = 64 * 1024

# The upload under way in this task. httpcore gives a connection no other way to know of it.
_CURRENT: ContextVar[Upload | None] = ContextVar("upload", default=None)


class Upload:
    """A body, sent on a connection that is read from at the same time."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self._reads: Callable[[], Awaitable[bytes]] | None = None
        self._begun = anyio.Event()
        self._answered = anyio.Event()
        self._first = b""
        self._error: httpcore.NetworkError | None = None
        self._sending: anyio.CancelScope | None = None

    async def send(self, request: Callable[[], Awaitable[T]]) -> T:
        """The outcome of `request()`, which has this as its body."""
        token = _CURRENT.set(self)
        try:
            return await beside(self._listen, request)
        finally:
            _CURRENT.reset(token)
            if isinstance(self._body, AsyncGenerator):
                await self._body.aclose()

    def __aiter__(self) -> Upload:
        """Itself."""
        return self

    async def __anext__(self) -> bytes:
        """The next chunk of the body. WriteError, which httpcore expects, once it is answered."""
        return await self._unless_answered(anext(self._body))

    async def write(
        self, stream: httpcore.AsyncNetworkStream, data: bytes, timeout: float | None
    ) -> None:
        """Send a part of the request on `stream`, which is read from then on."""
        await self._unless_answered(stream.write(data, timeout))
        self._reads = partial(stream.read, _READ)
        self._begun.set()

    async def first(self, timeout: float | None) -> bytes:
        """The first bytes of the answer; httpcore's error when the connection broke."""
        try:
            with anyio.fail_after(timeout):
                await self._answered.wait()
        except TimeoutError:
            raise httpcore.ReadTimeout from None
        if self._error is not None:
            raise self._error
        return self._first

    async def _listen(self) -> None:
        while self._reads is None:
            await self._begun.wait()
        try:
            self._first = await self._reads()
        except httpcore.NetworkError as error:
            self._error = error
        self._answered.set()
        if self._sending is not None:
            self._sending.cancel()

    async def _unless_answered(self, step: Awaitable[T]) -> T:
        with anyio.CancelScope() as self._sending:
            if self._answered.is_set():
                self._sending.cancel()
            result = await step
            self._sending = None
            return result
        raise httpcore.WriteError("answered before everything was sent")


def current() -> Upload | None:
    """The upload that this task sends."""
    return _CURRENT.get()
