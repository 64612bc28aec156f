"""What a client asks a node about itself and its peers, and the orders that it gives."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import (
    AsyncExitStack,
    asynccontextmanager,
)
from typing import Self, TypeVar
from urllib.parse import quote

import msgspec

from mesh.errors import (
    InputError,
    Misbehaved,
    Refused,
    one_line,
)
from mesh.status import (
    DiffLine,
)
from mesh.transport.asking import Asking, leave
from mesh.transport.pace import CALL, GREETING, SILENCE, within
from mesh.wire.control import CHALLENGE_PATH, HEADER, Challenge, proof

T = TypeVar("T")

# A line of a comparison has a thousand digests, which are 70 kB.
_MAX_LINE = 256 * 1024

# Between two lines the node asks its peer one thing, for which the peer has CALL seconds.
_COMPARING = CALL + GREETING

# What a node gets beyond the time that it was told to wait for: it looks at its peers once more
# and answers.
_GRACE = 10.0


class MeshCalls(Asking):
    """How one node and its peers stand."""

    async def status(self, kind: type[T]) -> T:
        """How the node and its peers stand."""
        return await self._ask(kind, "GET", "/v1/status")

    async def sync(self, peer: str, kind: type[T]) -> T:
        """A round with one peer, now; a failed one is an answer too."""
        path = f"/v1/peers/{quote(os.fsencode(peer), safe='')}/sync"
        return await self._ask(kind, "POST", path, accept=(200, 502))

    async def errors(self, kind: type[T], *, retry: bool = False) -> T:
        """What keeps failing; with `retry`, what fails still after it was tried again."""
        if retry:
            return await self._ask(kind, "POST", "/v1/errors/retry")
        return await self._ask(kind, "GET", "/v1/errors")

    async def diff(self, peer: str) -> AsyncGenerator[DiffLine, None]:
        """What the node and its peer do not both have, as it is found; the last line is the end."""
        path = f"/v1/peers/{quote(os.fsencode(peer), safe='')}/diff"
        async with AsyncExitStack() as stack:
            opening = self._answered(self._http.open("GET", path, patient=True))
            try:
                answer = await stack.enter_async_context(opening)
            except Refused as error:
                if error.status in (400, 404):
                    raise InputError(one_line(error)) from error
                raise
            async for line in self._lines(answer.chunks):
                yield self._read(DiffLine, line)

    async def _lines(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The lines of an answer, but for empty ones, which only say that it goes on."""
        rest = b""
        while True:
            with within(_COMPARING, f"{self._place} (diff)"):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _MAX_LINE:
                raise Misbehaved(f"{self._place} is not a mesh node: a line without an end")
            for line in lines:
                if line:
                    yield line

    async def wait(self, timeout: float | None, kind: type[T], *, whole: bool = False) -> T:
        """Rounds until all peers are level, for up to `timeout` seconds.

        With `whole`, until every node that is reached through them is.
        """
        params = {"mesh": "1"} if whole else {}
        if timeout is None:
            return await self._ask(kind, "POST", "/v1/wait", params=params)
        if math.isnan(timeout):
            raise InputError("timeout is nan; expected seconds, up to a week")
        params["timeout"] = str(timeout)
        with within(timeout + _GRACE, self._place):
            return await self._ask(kind, "POST", "/v1/wait", params=params)

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """What happens in the node, as chunks of lines; Stalled when it has gone silent.

        Each line is an event in JSON, or empty. They end when the node stops.
        """
        async with self._answered(self._http.open("GET", "/v1/events", patient=True)) as answer:
            try:
                yield _Beating(answer.chunks, self._place)
            finally:
                await leave(answer.chunks)

    async def scrub(self, verb: str | None, kind: type[T]) -> T:
        """How the scrub stands, after it was told to start, pause or resume."""
        if verb is None:
            return await self._ask(kind, "GET", "/v1/scrub")
        return await self._ask(kind, "POST", f"/v1/scrub/{verb}")

    async def peers(self, kind: type[T]) -> T:
        """The peers of the node."""
        return await self._ask(kind, "GET", "/v1/peers")

    async def challenge(self) -> Challenge:
        """What the node wants to see answered with its control key, before `control`."""
        return await self._ask(Challenge, "POST", CHALLENGE_PATH)

    async def control(
        self, order: str, wanted: object, key: bytes | None, challenge: Challenge, kind: type[T]
    ) -> T:
        """Give the node an order, such as peers/add, with `wanted` as JSON.

        `key` is the control key of the node, which is not sent (wire/control.py). Without it the
        node takes an order from an admin's key alone.
        """
        path = f"/v1/control/{order}"
        try:
            body = msgspec.json.encode(wanted)
        except UnicodeEncodeError as error:
            raise InputError(f"{error.object[:80]!a} is not UTF-8; write it in UTF-8") from error
        headers = {"content-type": "application/json"}
        if key is not None:
            shown = proof(key, challenge.nonce, "POST", path, body)
            headers[HEADER] = f"{challenge.nonce} {shown}"
        return await self._ask(kind, "POST", path, body, headers)


class _Beating:
    """Chunks that may be as small as a line break, and come often enough: see `Paced`."""

    def __init__(self, chunks: AsyncIterator[bytes], place: str) -> None:
        self._chunks = chunks
        self._place = place

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        with within(SILENCE, f"events of {self._place}"):
            return await anext(self._chunks)
