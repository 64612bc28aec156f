"""What a client asks a node about blobs: to store them, to give them, to say where they are."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import (
    asynccontextmanager,
)
from typing import NamedTuple

import msgspec

from mesh.core.digest import Digest, parse_digest, split_digests
from mesh.core.limits import MOST_ASKED
from mesh.core.spelling import spelled
from mesh.decoding import from_hex
from mesh.errors import (
    Corrupt,
    Misbehaved,
    Undecodable,
)
from mesh.status import (
    HoldersAnswer,
    PlaceAnswer,
    SnapshotAnswer,
    SnapshotsAnswer,
)
from mesh.transport.asking import Asking, leave
from mesh.transport.http import Body, Http, Streamed
from mesh.transport.pace import Paced
from mesh.wire.frames import Frame, FrameReader
from mesh.wire.messages import CONTENT_TYPE, FRAMES_TYPE, BatchRequest, encode

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18})", re.ASCII)

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


class BlobCalls(Asking):
    """Blobs and snapshots of one node."""

    def __init__(self, http: Http, place: str) -> None:
        """See Asking."""
        super().__init__(http, place)
        # Whether the node answers POST /v1/lacking; an older one does not know it.
        self._knows_lacking = True

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
                await leave(answer.chunks)

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
