"""/v1/blobs: what clients do with blobs. Bodies are streamed, never held whole."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import NamedTuple

import anyio
from quart import Quart, Response, request

from mesh.actors.transfer import GROUP_BYTES, Intake
from mesh.core.digest import Digest, parse_digest, parse_prefix, split_digests
from mesh.core.limits import LARGE_BLOB
from mesh.core.round import Tally
from mesh.errors import InputError, Misbehaved
from mesh.node import Node
from mesh.server.answers import json, page_limit, problem
from mesh.server.callers import client
from mesh.server.metered import Metered
from mesh.server.pauses import Pausing
from mesh.server.whole import message
from mesh.store.base import Item
from mesh.wire.frames import FrameReader, Kind
from mesh.wire.messages import FRAMES_TYPE, BatchRequest, decode, joined

# Uploads at a time; each may hold up to LARGE_BLOB bytes before it becomes a file. More wait.
_UPLOADS = 12

# Bytes that all batches which are taken in may hold together before they are committed, as long as
# there are few of them; with many each holds GROUP_BYTES. The larger a commit, the fewer times the
# same pages of the index and of the tree are written. No batch holds more than one blob may.
_HELD = 16 * 1024 * 1024

# Batches read at a time. Each may hold what a peer's answer does, 512 KiB, and beside it as many
# blobs below LARGE_BLOB as are fetched at a time, 32 MiB. More wait.
_BATCHES = 8

_PAGE = 1000  # blobs of a listing, unless asked for otherwise
_MOST = 10_000

_RANGE = re.compile(r"bytes=(\d{0,99})-(\d{0,99})", re.ASCII)


class _Span(NamedTuple):
    start: int
    stop: int


def add_routes(app: Quart, node: Node) -> None:
    """PUT, GET, HEAD /v1/blobs/DIGEST; POST, GET /v1/blobs; POST /v1/batch, /v1/batch/get."""
    handlers = _Blobs(node)
    app.add_url_rule("/v1/blobs/<text>", "put_blob", handlers.put, methods=["PUT"])
    app.add_url_rule("/v1/blobs/<text>", "get_blob", handlers.get, methods=["GET", "HEAD"])
    app.add_url_rule("/v1/blobs", "post_blob", handlers.post, methods=["POST"])
    app.add_url_rule("/v1/blobs", "list_blobs", handlers.listing, methods=["GET"])
    app.add_url_rule("/v1/batch", "put_batch", handlers.batch, methods=["POST"])
    app.add_url_rule("/v1/batch/get", "get_batch", handlers.get_batch, methods=["POST"])


class _Blobs:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._keeper = node.keeper
        self._reader = node.reader
        self._limit = node.config.most_per_put()
        self._uploads = anyio.CapacityLimiter(_UPLOADS)
        self._batches = anyio.CapacityLimiter(_BATCHES)

    async def put(self, text: str) -> Response:
        """201 when new, 200 when it was there; durable either way."""
        digest = parse_digest(text)
        if not self._keeper.has(digest):
            self._admit()
        async with self._upload() as chunks:
            return await self._take(chunks, digest)

    async def post(self) -> Response:
        """Store whatever comes, and say what it is called."""
        self._admit()
        async with self._upload() as chunks:
            return await self._take(chunks, None)

    def _admit(self) -> None:
        """Full or ReadOnly before the body is read; what is over the limit is said later."""
        size = request.content_length or 0
        if size <= self._limit:
            self._keeper.disk.admit(size)

    async def _take(self, chunks: Metered, digest: Digest | None) -> Response:
        if (request.content_length or 0) > self._limit:
            return self._too_large()
        began = anyio.current_time()
        async with self._keeper.door.incoming(digest) as incoming:
            async for chunk in chunks:
                await incoming.write(chunk)
                if incoming.size > self._limit:
                    return self._too_large()
            item = await incoming.finish()
            if digest is not None and item.digest != digest:
                return problem(422, f"the body is blob {item.digest.hex()}, not the one named")
            return await self._keep(item, began)

    async def _keep(self, item: Item, began: float) -> Response:
        (fresh,) = await self._keeper.put([item], client(), began)
        name = item.digest.hex()
        return json(
            201 if fresh else 200,
            {"digest": name, "size": item.size},
            {"Location": f"/v1/blobs/{name}"} if fresh else None,
        )

    def _too_large(self) -> Response:
        return problem(413, f"a blob here may have {self._limit} bytes at most (--max-blob)")

    async def batch(self) -> Response:
        """Many small blobs as frames in one body: what the names do not fit is rejected."""
        async with self._upload() as chunks:
            return await self._batch(chunks)

    async def get_batch(self) -> Response:
        """Many small blobs as frames, as a peer gives them; healed or fetched as by GET.

        ABSENT is what nobody who can be reached has, LARGE is for a GET of its own, and LATER is
        for another request.
        """
        asked = decode(BatchRequest, await message())
        digests = split_digests(joined(asked.digests))
        return Response(self._frames(digests), content_type=FRAMES_TYPE)

    async def _frames(self, digests: Sequence[Digest]) -> AsyncIterator[bytes]:
        async with self._batches, aclosing(self._reader.frames(digests)) as frames:
            async for chunk in frames:
                yield chunk

    def _upload(self) -> Metered:
        return Metered(Pausing(request.body, self._uploads), self._uploads)

    async def _batch(self, chunks: Metered) -> Response:
        tally = Tally()
        reader = FrameReader()
        count = 0
        intake = Intake(self._keeper, client(), self._node.work, tally, self._share)
        try:
            async for chunk in chunks:
                frames = reader.feed(chunk)
                if any(frame.kind != Kind.BLOB for frame in frames):
                    raise InputError("a batch has BLOB frames and an end mark, nothing else")
                if any(frame.length > self._limit for frame in frames):
                    return self._too_large()
                count += len(frames)
                await intake.add(frames)
            reader.finish()
            await intake.flush()
        except Misbehaved as error:
            raise InputError(f"not a batch: {error}") from error
        known = count - tally.fetched - tally.failed
        return json(200, {"stored": tally.fetched, "known": known, "rejected": tally.failed})

    def _share(self) -> int:
        """Bytes that one batch may hold now."""
        return max(GROUP_BYTES, min(LARGE_BLOB, _HELD // max(1, self._uploads.borrowed_tokens)))

    async def get(self, text: str) -> Response:
        """The bytes, or the part that Range asks for."""
        digest = parse_digest(text)
        size = await self._reader.size(digest)
        if size is None:
            return problem(404, f"blob {text} is not here, nor at a peer that can be reached")
        span = _span(request.headers.get("Range"), size)
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{text}"'}
        if span is None:
            return problem(416, f"the blob has {size} bytes", {"Content-Range": f"bytes */{size}"})
        status = 200
        if span != (0, size):
            status = 206
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
        headers["Content-Length"] = str(span.stop - span.start)
        body: AsyncIterator[bytes] | bytes | None = b""
        if request.method == "GET":
            body = await self._bytes(digest, size, span)
        if body is None:
            return problem(404, f"blob {text} was damaged, and no peer that can be reached has it")
        response = Response(body, status, content_type="application/octet-stream")
        response.headers.update(headers)
        return response

    async def _bytes(
        self, digest: Digest, size: int, span: _Span
    ) -> AsyncIterator[bytes] | bytes | None:
        pieces = await self._reader.stream(digest, size, span.start, span.stop)
        if pieces is None or size >= LARGE_BLOB:
            return pieces
        return b"".join([piece async for piece in pieces])

    async def listing(self) -> Response:
        """A page of digests and sizes; `next` is the `after` of the next page."""
        prefix = parse_prefix(request.args.get("prefix", ""))
        cursor = request.args.get("after", "")
        after = parse_digest(cursor) if cursor else b""
        limit = page_limit(request.args.get("limit", ""), _PAGE, _MOST)
        rows = await self._keeper.door.listing(prefix, after, limit)
        listed = [{"digest": digest.hex(), "size": size} for digest, size in rows]
        more = rows[-1][0].hex() if len(rows) == limit else None
        return json(200, {"blobs": listed, "next": more})


def _span(header: str | None, size: int) -> _Span | None:
    """What a Range asks for; the whole for none or one we do not know; None for an impossible one.

    RFC 9110, 14.2: a server may ignore a Range, and must when it is malformed; several ranges
    are answered with the whole.
    """
    everything = _Span(0, size)
    match = _RANGE.fullmatch(header.strip()) if header is not None else None
    if match is None or not (match[1] or match[2]):
        return everything
    if not match[1]:
        length = min(int(match[2]), size)
        return _Span(size - length, size) if length else None
    start = int(match[1])
    stop = min(int(match[2]) + 1, size) if match[2] else size
    if match[2] and int(match[2]) < start:
        return everything
    return _Span(start, stop) if start < size else None
