"""A node's own API as a client sees it; what the command line is made of."""

from __future__ import annotations

import math
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from functools import partial
from typing import NamedTuple, Self, TypeVar
from urllib.parse import quote

import anyio
import msgspec

from mesh.config import Address
from mesh.core.digest import Digest, parse_digest, split_digests
from mesh.core.limits import MOST_ASKED
from mesh.core.spelling import spelled
from mesh.decoding import from_hex, json_of
from mesh.errors import (
    Corrupt,
    InputError,
    Misbehaved,
    PeerError,
    Refused,
    Stalled,
    Undecodable,
    Unreachable,
    one_line,
)
from mesh.racing import unless
from mesh.status import (
    DiffLine,
    HoldersAnswer,
    PlaceAnswer,
    SnapshotAnswer,
    SnapshotsAnswer,
)
from mesh.transport.http import Body, Http, Streamed, credentials, new_client, refused, words
from mesh.transport.pace import CALL, GREETING, SILENCE, Paced, within
from mesh.wire.control import CHALLENGE_PATH, HEADER, Challenge, proof
from mesh.wire.frames import Frame, FrameReader
from mesh.wire.messages import CONTENT_TYPE, FRAMES_TYPE, BatchRequest, encode

T = TypeVar("T")

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18})", re.ASCII)

# A page of a listing has 10,000 lines of 90 bytes; a manifest of a million files has 200 MB, but
# is a blob and streamed. Anything longer than this is not an answer of a node.
_MAX_ANSWER = 16 * 1024 * 1024


# A line of a comparison has a thousand digests, which are 70 kB.
_MAX_LINE = 256 * 1024

# Between two lines the node asks its peer one thing, for which the peer has CALL seconds.
_COMPARING = CALL + GREETING

# Seconds from one sign of life that is asked for to the next.
_BEAT = 10.0

# What a node gets beyond the time that it was told to wait for: it looks at its peers once more
# and answers.
_GRACE = 10.0


_SNAPSHOTS = 1000  # to a page


class Stored(msgspec.Struct, frozen=True):
    """What became of a blob that was put."""

    digest: str
    size: int


class BatchStored(msgspec.Struct, frozen=True):
    """What became of a batch: counts of blobs."""

    stored: int
    known: int
    rejected: int


class ListedBlob(msgspec.Struct, frozen=True):
    """A line of a listing."""

    digest: str
    size: int


class _Lacking(msgspec.Struct, frozen=True):
    lacking: list[str]


class Part(NamedTuple):
    """Bytes [start, stop) of a blob of `size` bytes, as they come."""

    size: int
    start: int
    stop: int
    chunks: AsyncIterator[bytes]


class _Page(msgspec.Struct, frozen=True):
    blobs: list[ListedBlob]
    next: str | None


class NodeClient:
    """One node. Raises PeerErrors; InputError when the node says that we asked wrongly.

    Deadlines: a connection is there within 5 s (transport/http.py). After that a call may take as
    long as the node is alive: a node that hashes a blob of a terabyte, or waits for a peer, says
    nothing for hours. So a long call has a heartbeat: every _BEAT seconds the node is asked for
    its status on another connection, and the call is given up with Stalled when no such question
    was answered for SILENCE seconds. A blob that has begun to come has to go on within SILENCE.
    """

    def __init__(self, http: Http, place: str) -> None:
        """See `node_client`."""
        self._http = http
        self._place = place
        # Whether the node answers POST /v1/lacking; an older one does not know it.
        self._knows_lacking = True

    @property
    def place(self) -> str:
        """host:port, as errors name the node."""
        return self._place

    async def put_stream(self, body: Body, size: int | None) -> Stored:
        """Store one blob of any size that streams in; `size` when it is known before."""
        headers = {"content-length": str(size)} if size is not None else {}
        return await self._ask(Stored, "POST", "/v1/blobs", body, headers)

    async def put_named(self, digest: Digest, body: Body, size: int | None = None) -> Stored:
        """Store one blob that has to be the one named; Refused (422) when it is another.

        `size` when it is known before.
        """
        headers = {"content-length": str(size)} if size is not None else {}
        return await self._ask(Stored, "PUT", f"/v1/blobs/{digest.hex()}", body, headers)

    async def put_batch(self, body: Body, size: int) -> BatchStored:
        """Store BLOB frames, `size` bytes of them in all, end mark included."""
        headers = {"content-type": FRAMES_TYPE, "content-length": str(size)}
        return await self._ask(BatchStored, "POST", "/v1/batch", body, headers)

    async def lacking(self, digests: Sequence[Digest]) -> set[Digest]:
        """Those of `digests`, of any number, that the node does not hold whole and good.

        All of them when the node is too old to say.
        """
        lacked: set[Digest] = set()
        for start in range(0, len(digests), MOST_ASKED):
            lacked.update(await self._lacking(digests[start : start + MOST_ASKED]))
        return lacked

    async def _lacking(self, digests: Sequence[Digest]) -> Iterable[Digest]:
        if not self._knows_lacking:
            return digests
        body = msgspec.json.encode({"digests": [digest.hex() for digest in digests]})
        headers = {"content-type": "application/json"}
        status, answer = await self._asked("POST", "/v1/lacking", body, headers)
        if status in (404, 405):
            self._knows_lacking = False
            return digests
        told = self._value(_Lacking, status, answer).lacking
        return split_digests(self._unhexed("".join(told)))

    async def holders(self, digests: Sequence[Digest]) -> HoldersAnswer:
        """Where up to MOST_ASKED blobs are: on the node, and on how many of its peers."""
        body = msgspec.json.encode({"digests": [digest.hex() for digest in digests]})
        headers = {"content-type": "application/json"}
        return await self._ask(HoldersAnswer, "POST", "/v1/holders", body, headers)

    async def placed(self, digest: Digest) -> PlaceAnswer | None:
        """Where on the node a blob is; None when it is not there."""
        path = f"/v1/blobs/{digest.hex()}/place"
        status, answer = await self._asked("GET", path)
        return None if status == 404 else self._value(PlaceAnswer, status, answer)

    async def snapshots(
        self,
        *,
        host: str | None = None,
        path: bytes | None = None,
        tag: str | None = None,
        most: int | None = None,
    ) -> AsyncIterator[SnapshotAnswer]:
        """The snapshots on the node, the newest first; up to `most` of those that are asked for."""
        text, in_hex = spelled(path) if path is not None else (None, None)
        given = {"host": host, "path": text, "path_hex": in_hex, "tag": tag}
        params = {key: value for key, value in given.items() if isinstance(value, str)}
        while most is None or most > 0:
            params["limit"] = str(min(most or _SNAPSHOTS, _SNAPSHOTS))
            page = await self._ask(SnapshotsAnswer, "GET", "/v1/snapshots", params=params)
            for snapshot in page.snapshots:
                yield snapshot
            if page.next is None:
                return
            most = most - len(page.snapshots) if most is not None else None
            params["after"] = page.next

    def _unhexed(self, digits: str) -> bytes:
        try:
            return from_hex(digits)
        except Undecodable as error:
            raise Misbehaved(f"{self._place} is not a mesh node: {error}") from error

    @asynccontextmanager
    async def get(self, digest: Digest) -> AsyncIterator[Paced]:
        """The bytes of a blob; not checked against its name, the caller does that."""
        opening = self._http.open("GET", f"/v1/blobs/{digest.hex()}", patient=True)
        async with self._answered(opening) as answer:
            length = answer.headers.get("content-length", "")
            size = int(length) if length.isdecimal() else None
            yield Paced(answer.chunks, f"blob {digest.hex()} from {self._place}", size)

    @asynccontextmanager
    async def part(
        self, digest: Digest, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[Part]:
        """The bytes from `start` on, up to `stop` or the end, of which there may be fewer.

        Refused with status 404 when nobody whom the node can reach has the blob.
        """
        last = "" if stop is None else str(max(start, stop - 1))
        ranged = start > 0 or stop is not None
        headers = {"range": f"bytes={start}-{last}"} if ranged else {}
        path = f"/v1/blobs/{digest.hex()}"
        opening = self._http.open("GET", path, headers=headers, patient=True)
        async with self._answered(opening, (200, 206, 416) if ranged else (200,)) as answer:
            size, begin, end = self._span(answer)
            chunks = Paced(answer.chunks, f"blob {digest.hex()} from {self._place}")
            wanted = min(start, size), min(int(last) + 1, size) if last else size
            # A proxy may leave out the range, or give another one; its bytes are not those.
            if (begin, end) != wanted:
                raise Misbehaved(f"{self._place} answered another range than was asked for")
            try:
                if answer.status == 416 or stop == start:
                    yield Part(size, begin, begin, _nothing())
                else:
                    yield Part(size, begin, end, chunks)
            finally:
                await _left(answer.chunks)

    def _span(self, answer: Streamed) -> tuple[int, int, int]:
        """The size of the blob that is answered, and which bytes of it come."""
        if answer.status == 200:
            length = answer.headers.get("content-length", "")
            if length.isascii() and length.isdigit() and len(length) < 19:
                return int(length), 0, int(length)
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        if match is None:
            raise Misbehaved(f"{self._place} does not say how many bytes its answer has")
        size = int(match[3])
        return (size, int(match[1]), int(match[2]) + 1) if match[1] else (size, size, size)

    async def size(self, digest: Digest) -> int:
        """The size of a blob in bytes; Refused with status 404 as for `part`."""
        opening = self._http.open("HEAD", f"/v1/blobs/{digest.hex()}", patient=True)
        async with self._answered(opening) as answer:
            return self._span(answer)[0]

    @asynccontextmanager
    async def batch(self, digests: Sequence[Digest]) -> AsyncIterator[AsyncIterator[list[Frame]]]:
        """Many small blobs in one answer, as frames; fetched by the node when it lacks them."""
        body = encode(BatchRequest(digests=b"".join(digests)))
        headers = {"content-type": CONTENT_TYPE}
        opening = self._http.open("POST", "/v1/batch/get", body, headers, patient=True)
        async with self._answered(opening) as answer:
            yield _frames(Paced(answer.chunks, f"blobs from {self._place}"))

    async def listing(self, prefix: str) -> AsyncGenerator[ListedBlob, None]:
        """All blobs below a prefix, ascending."""
        params = {"prefix": prefix, "limit": "10000"}
        while True:
            page = await self._ask(_Page, "GET", "/v1/blobs", params=params)
            for blob in page.blobs:
                yield blob
            if page.next is None:
                return
            params["after"] = page.next

    async def beginning(self, prefix: str, most: int) -> list[ListedBlob]:
        """Up to `most` of the blobs below a prefix, the first ones; one request."""
        params = {"prefix": prefix, "limit": str(most)}
        return (await self._ask(_Page, "GET", "/v1/blobs", params=params)).blobs

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
                await _left(answer.chunks)

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
        self, order: str, wanted: object, key: bytes, challenge: Challenge, kind: type[T]
    ) -> T:
        """Give the node an order, such as peers/add, with `wanted` as JSON.

        `key` is the control key of the node, which is not sent (wire/control.py).
        """
        path = f"/v1/control/{order}"
        try:
            body = msgspec.json.encode(wanted)
        except UnicodeEncodeError as error:
            raise InputError(f"{error.object[:80]!a} is not UTF-8; write it in UTF-8") from error
        shown = proof(key, challenge.nonce, "POST", path, body)
        headers = {"content-type": "application/json", HEADER: f"{challenge.nonce} {shown}"}
        return await self._ask(kind, "POST", path, body, headers)

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


async def _left(chunks: AsyncIterator[bytes]) -> None:
    """End an answer of which nobody reads the rest.

    httpx and httpcore read it through generators that do not close one another; left alone, each
    waits for the garbage collector, and trio warns of it. A read that is cancelled ends them all.
    """
    with anyio.CancelScope() as scope:
        scope.cancel()
        async for _ in chunks:
            pass


async def _nothing() -> AsyncIterator[bytes]:
    for chunk in list[bytes]():
        yield chunk


async def _frames(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[Frame]]:
    reader = FrameReader()
    async for chunk in chunks:
        if frames := reader.feed(chunk):
            yield frames
    reader.finish()


def checked(stored: Stored, digest: Digest) -> None:
    """Corrupt when the node got other bytes than were read here."""
    if parse_digest(stored.digest) != digest:
        raise Corrupt(
            f"sent blob {digest.hex()}, but {stored.digest} arrived; put it again, and check "
            "this machine's memory if it happens again"
        )


@asynccontextmanager
async def node_client(address: Address, path: str = "") -> AsyncIterator[NodeClient]:
    """A client of the node at `address`, where an application has mounted it below `path`."""
    async with new_client() as client:
        http = Http(client, address.url + path, credentials(address))
        yield NodeClient(http, address.place)
