"""A node's own API as a client sees it; what the command line is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import quote

import msgspec

from mesh.config import Address
from mesh.core.digest import Digest, parse_digest
from mesh.errors import Corrupt, InputError, Misbehaved, PeerError, Unreachable
from mesh.transport.http import BASE, Body, Http, credentials, new_client, refused
from mesh.wire.frames import Frame, FrameReader
from mesh.wire.messages import CONTENT_TYPE, FRAMES_TYPE, BatchRequest, encode

T = TypeVar("T")

# A page of a listing has 10,000 lines of 90 bytes; a manifest of a million files has 200 MB, but
# is a blob and streamed. Anything longer than this is not an answer of a node.
_MAX_ANSWER = 16 * 1024 * 1024


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


class _Page(msgspec.Struct, frozen=True):
    blobs: list[ListedBlob]
    next: str | None


class NodeClient:
    """One node. Raises PeerErrors; InputError when the node says that we asked wrongly."""

    def __init__(self, http: Http, place: str) -> None:
        """See `node_client`."""
        self._http = http
        self._place = place

    async def put_stream(self, body: Body, size: int | None) -> Stored:
        """Store one blob of any size that streams in; `size` when it is known before."""
        headers = {"content-length": str(size)} if size is not None else {}
        return await self._ask(Stored, "POST", "/v1/blobs", body, headers)

    async def put_named(self, digest: Digest, body: Body) -> Stored:
        """Store one blob that has to be the one named; Refused when it is another."""
        return await self._ask(Stored, "PUT", f"/v1/blobs/{digest.hex()}", body)

    async def put_batch(self, body: Body, size: int) -> BatchStored:
        """Store BLOB frames, `size` bytes of them in all, end mark included."""
        headers = {"content-type": FRAMES_TYPE, "content-length": str(size)}
        return await self._ask(BatchStored, "POST", "/v1/batch", body, headers)

    @asynccontextmanager
    async def get(self, digest: Digest) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a blob; not checked against its name, the caller does that."""
        async with self._http.open("GET", f"/v1/blobs/{digest.hex()}", patient=True) as answer:
            if answer.status != 200:
                raise await self._http.refusal(answer)
            yield answer.chunks

    @asynccontextmanager
    async def batch(self, digests: Sequence[Digest]) -> AsyncIterator[AsyncIterator[list[Frame]]]:
        """Many small blobs in one answer, as frames."""
        body = encode(BatchRequest(digests=b"".join(digests)))
        headers = {"content-type": CONTENT_TYPE}
        async with self._http.open("POST", BASE + "batch", body, headers) as answer:
            if answer.status != 200:
                raise await self._http.refusal(answer)
            yield _frames(answer.chunks)

    async def listing(self, prefix: str) -> AsyncIterator[ListedBlob]:
        """All blobs below a prefix, ascending."""
        params = {"prefix": prefix, "limit": "10000"}
        while True:
            page = await self._ask(_Page, "GET", "/v1/blobs", params=params)
            for blob in page.blobs:
                yield blob
            if page.next is None:
                return
            params["after"] = page.next

    async def status(self, kind: type[T]) -> T:
        """How the node and its peers stand."""
        return await self._ask(kind, "GET", "/v1/status")

    async def sync(self, peer: str, kind: type[T]) -> T:
        """A round with one peer, now; a failed one is an answer too."""
        path = f"/v1/peers/{quote(peer, safe='')}/sync"
        return await self._ask(kind, "POST", path, accept=(200, 502), patient=True)

    async def wait(self, timeout: float | None, kind: type[T], *, whole: bool = False) -> T:
        """Rounds until all peers are level, for up to `timeout` seconds.

        With `whole`, until every node that is reached through them is.
        """
        params = {"timeout": str(timeout)} if timeout is not None else {}
        if whole:
            params["mesh"] = "1"
        return await self._ask(kind, "POST", "/v1/wait", params=params, patient=True)

    async def scrub(self, verb: str | None, kind: type[T]) -> T:
        """How the scrub stands, after it was told to start, pause or resume."""
        if verb is None:
            return await self._ask(kind, "GET", "/v1/scrub")
        return await self._ask(kind, "POST", f"/v1/scrub/{verb}")

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
        patient: bool = True,
    ) -> T:
        try:
            status, _, answer = await self._http.exchange(
                method, path, body, headers, params, patient=patient, limit=_MAX_ANSWER
            )
        except Unreachable as error:
            raise Unreachable(f"{error}; is a node running there? (--node URL)") from error
        if status not in accept:
            raise self._refusal(status, answer)
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.MsgspecError as error:
            raise Misbehaved(f"{self._place} is not a mesh node: {error}") from error

    def _refusal(self, status: int, answer: bytes) -> PeerError | InputError:
        try:
            text = msgspec.json.decode(answer, type=dict[str, str]).get("error", "")
        except msgspec.MsgspecError:
            text = ""
        if status in (400, 404) and text:
            return InputError(text)
        return refused(self._place, status, {}, text)


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
async def node_client(address: Address) -> AsyncIterator[NodeClient]:
    """A client of the node at `address`."""
    async with new_client() as client:
        yield NodeClient(Http(client, address.url, credentials(address)), address.place)
