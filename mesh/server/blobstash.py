"""/api/: BlobStash's requests, answered from the node's own tree and store.

docs/blobstash.md has each of them, what a real server does and what is done here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from urllib.parse import parse_qsl

import anyio
import msgspec
from quart import Quart, Response, request

from mesh.actors.local import KeeperBlobs
from mesh.blobstash import snappy, upload
from mesh.blobstash.client import OneWayConflict
from mesh.blobstash.remote import Remote
from mesh.blobstash.stats import SyncStats, go_duration
from mesh.blobstash.sync import Sync
from mesh.config import Address, parse_peer
from mesh.core.digest import Digest, parse_digest
from mesh.core.holder import CLIENT
from mesh.core.limits import LARGE_BLOB
from mesh.decoding import utf8
from mesh.errors import ConfigError, InputError, PeerError, Refused, one_line
from mesh.node import Node
from mesh.server.answers import page_limit, problem
from mesh.server.callers import client
from mesh.server.metered import Metered
from mesh.server.whole import BodyTooLong, whole_body
from mesh.store.base import Item
from mesh.transport.pace import Paced

Connect = Callable[[Address], Remote]

_PAGE = 50  # blobs of a listing, as the real server has it
_MOST = 1000

_UPLOADS = 12  # at a time: a snappy body is held whole, 40 MB with its decoding
_TRIGGERS = 2  # syncs asked for by URL at a time; more are told to come again

# A trigger's form names a URL and a key.
_FORM_BYTES = 64 * 1024
_FORM_FIELDS = 100

_NO_CACHE = {"Cache-Control": "no-cache"}

# What Go's net/http.DetectContentType takes for binary (mimesniff, "binary data byte").
_BINARY = frozenset((*range(0x09), 0x0B, *range(0x0E, 0x1B), *range(0x1C, 0x20)))


def add_routes(app: Quart, node: Node, connect: Connect) -> None:
    """Everything below /api/."""
    limit = node.config.max_replica_bytes
    local = KeeperBlobs(node.keeper, CLIENT, limit)
    exact = node.config.blobstash_listing == "exact"
    sync = Sync(local, lambda url, _: connect(parse_peer(url)), node.work, exact=exact)
    blobs, syncs = _Blobs(node), _Syncs(node, sync, connect)
    for path, name, handler, methods in (
        ("/api/ping", "ping", _ping, ["GET"]),
        ("/api/sync/state", "state", syncs.state, ["GET"]),
        ("/api/sync/state/leaf/<path:prefix>", "leaf", syncs.leaf, ["GET"]),
        ("/api/sync/_trigger", "trigger", syncs.trigger, ["GET", "POST"]),
        ("/api/blobstore/blob/<path:text>", "get", blobs.get, ["GET", "HEAD"]),
        ("/api/blobstore/blob/<path:text>", "post", blobs.post, ["POST"]),
        ("/api/blobstore/blobs", "list", blobs.listing, ["GET"]),
        ("/api/blobstore/upload", "upload", blobs.upload, ["POST"]),
    ):
        app.add_url_rule(path, f"blobstash_{name}", handler, methods=methods)


def _json(status: int, value: object, headers: dict[str, str] | None = None) -> Response:
    """As Go writes it: no newline, and a content type without a charset."""
    return Response(msgspec.json.encode(value), status, headers, content_type="application/json")


async def _ping() -> Response:
    return _json(200, {"ping": "pong"}, _NO_CACHE)


class _Syncs:
    """State, leaves, and the trigger."""

    def __init__(self, node: Node, sync: Sync, connect: Connect) -> None:
        self._node = node
        self._sync = sync
        self._connect = connect
        self._triggers = anyio.Semaphore(_TRIGGERS)

    async def state(self) -> Response:
        return _json(200, await self._sync.state())

    async def leaf(self, prefix: str) -> Response:
        size, chunks = await self._sync.leaf_listing(prefix)
        response = Response(chunks, content_type="application/json")
        response.headers["Content-Length"] = str(size)
        return response

    async def trigger(self) -> Response:
        """A sync with a configured peer. The key in the query is ignored: ours is configured."""
        try:
            values = {**request.args.to_dict(), **(await _form())}
        except BodyTooLong as error:
            return problem(413, one_line(error))
        address = self._configured(values.get("url", ""))
        if address is None:
            return problem(403, "url is not a configured peer of this node")
        if self._node.find_peer(address.url).paused:
            return problem(409, f"{address.place} is paused; `mesh peers resume` ends that")
        one_way = _truth(values.get("one_way", ""))
        try:
            self._triggers.acquire_nowait()
        except anyio.WouldBlock:
            return problem(429, "other syncs are running; try again", {"Retry-After": "1"})
        try:
            return _json(200, await self._run(address, one_way))
        except OneWayConflict as error:
            return problem(409, one_line(error))
        except PeerError as error:
            return problem(502, one_line(error))
        finally:
            self._triggers.release()

    def _configured(self, url: str) -> Address | None:
        try:
            wanted = parse_peer(url).url
        except ConfigError:
            return None
        addresses = (peer.address for peer in self._node.peers)
        return next((known for known in addresses if _same(known, wanted, url)), None)

    async def _run(self, address: Address, one_way: bool) -> SyncStats:
        if one_way and address.protocol != "blobstash":
            raise InputError("one_way is for BlobStash servers, and this peer is a mesh node")
        if address.protocol == "blobstash" and (one_way or address.direction == "both"):
            client = self._sync.client_of(self._connect(address), one_way or address.one_way)
            return await client.sync()
        stats = await self._node.find_peer(address.place).sync()
        if stats.error is not None:
            raise Refused(stats.error)
        return SyncStats(
            downloaded=stats.fetched,
            downloaded_size=stats.fetched_bytes,
            uploaded=stats.sent,
            uploaded_size=stats.sent_bytes,
            duration=go_duration(stats.seconds),
            already_synced=stats.proven and not stats.fetched and not stats.sent,
        )


class _Blobs:
    """Single blobs, listings and uploads."""

    def __init__(self, node: Node) -> None:
        self._keeper = node.keeper
        self._reader = node.reader
        self._limit = node.config.most_per_put()
        self._uploads = anyio.CapacityLimiter(_UPLOADS)

    async def get(self, text: str) -> Response:
        digest = parse_digest(text)
        size = await self._reader.size(digest)
        if size is None:
            return _not_found()
        if request.method == "HEAD":
            return _bare(204)
        chunks = await self._reader.stream(digest, size, 0, size)
        if chunks is None:
            return _not_found()
        if size >= LARGE_BLOB:
            return await self._large(chunks, size)
        data = b"".join([piece async for piece in chunks])
        if _takes_snappy():
            return _snappy(data)
        response = Response(data, 200, _NO_CACHE, content_type=_sniffed(data))
        response.headers["Content-Length"] = str(size)
        return response

    async def _large(self, chunks: AsyncIterator[bytes], size: int) -> Response:
        if size <= snappy.LIMIT and _takes_snappy():
            return _snappy(b"".join([chunk async for chunk in chunks]))
        response = Response(chunks, 200, _NO_CACHE, content_type="application/octet-stream")
        response.headers["Content-Length"] = str(size)
        return response

    async def post(self, text: str) -> Response:
        digest = parse_digest(text)
        async with self._body() as body:
            return await self._post(body, digest)

    async def _post(self, body: Metered, digest: Digest) -> Response:
        try:
            async with self._keeper.door.incoming(digest) as incoming:
                async for chunk in _meant(body):
                    await incoming.write(chunk)
                    if incoming.size > self._limit:
                        return problem(413, f"a blob may have {self._limit} bytes (--max-blob)")
                item = await incoming.finish()
                if item.digest != digest:
                    return problem(422, f"the body is blob {item.digest.hex()}, not the one named")
                await self._keeper.put([item], client())
        except snappy.TooLong as error:
            return problem(413, one_line(error))
        return _empty(201)

    def _body(self) -> Metered:
        return Metered(Paced(request.body, "upload"), self._uploads)

    async def listing(self) -> Response:
        cursor = request.args.get("cursor", "")
        after = _before(parse_digest(cursor)) if cursor else b""
        limit = page_limit(request.args.get("limit", ""), _PAGE, _MOST)
        rows = await self._keeper.door.listing("", after, limit + 1)
        page = rows[:limit]
        following = _next(page[-1][0]) if len(rows) > limit else ""
        pages = {
            "count": len(page),
            "cursor": following,
            "has_more": bool(following),
            "per_page": limit,
        }
        data = [{"hash": digest.hex(), "size": size} for digest, size in page]
        return _json(200, {"data": data, "pagination": pages}, _NO_CACHE)

    async def upload(self) -> Response:
        boundary = request.mimetype_params.get("boundary", "")
        if request.mimetype != "multipart/form-data" or not boundary:
            raise InputError("an upload is multipart/form-data with a boundary")
        async with self._body() as body:
            return await self._upload(body, boundary)

    async def _upload(self, body: Metered, boundary: str) -> Response:
        try:
            opens = self._keeper.door.incoming
            await upload.take(opens, body, boundary.encode(), self._limit, self._put)
        except upload.WrongName as error:
            return problem(422, one_line(error))
        except upload.TooLong as error:
            return problem(413, one_line(error))
        return _empty(200)

    async def _put(self, items: list[Item]) -> None:
        await self._keeper.put(items, client())


async def _meant(body: Metered) -> AsyncIterator[bytes]:
    """The bytes that were meant: the real client always posts a snappy block."""
    if request.headers.get("Content-Type") != "snappy":
        async for chunk in body:
            yield chunk
        return
    block = bytearray()
    async for chunk in body:
        block += chunk
        if len(block) > snappy.ENCODED_LIMIT:
            raise snappy.TooLong(f"a snappy body of more than {snappy.ENCODED_LIMIT} bytes")
    yield snappy.decode(bytes(block))


def _same(known: Address, wanted: str, text: str) -> bool:
    """Whether a trigger's URL means this peer; BlobStash's port is not ours by default."""
    if wanted == known.url:
        return True
    try:
        return parse_peer(f"blobstash+{text}").url == known.url
    except ConfigError:
        return False


def _truth(text: str) -> bool:
    """As Go's strconv.ParseBool takes it; anything else is false, as in the real server."""
    return text in ("1", "t", "T", "true", "TRUE", "True")


def _takes_snappy() -> bool:
    return "snappy" in request.headers.get("Accept-Encoding", "")


def _snappy(data: bytes) -> Response:
    response = Response(snappy.encode(data), 200, {**_NO_CACHE, "Content-Encoding": "snappy"})
    del response.headers["Content-Type"]
    return response


def _sniffed(data: bytes) -> str:
    """Text or not, as far as Go's sniffing tells them apart by bytes alone."""
    if any(byte in _BINARY for byte in data[:512]):
        return "application/octet-stream"
    return "text/plain; charset=utf-8"


def _not_found() -> Response:
    response = _json(404, {"error": "Not Found"})
    if request.method == "HEAD":
        response.headers["Content-Length"] = "21"
    return response


def _empty(status: int) -> Response:
    response = _bare(status)
    response.headers["Content-Length"] = "0"
    return response


def _bare(status: int) -> Response:
    response = Response(b"", status)
    del response.headers["Content-Type"]
    return response


def _before(digest: Digest) -> bytes:
    """The greatest string below a digest: a cursor is where a page begins, `after` excludes."""
    number = int.from_bytes(digest, "big")
    return (number - 1).to_bytes(32, "big") if number else b""


def _next(digest: Digest) -> str:
    """The cursor after a digest: the next possible one, as the real server says it."""
    number = int.from_bytes(digest, "big") + 1
    return f"{number:064x}" if number < 2**256 else ""


async def _form() -> dict[str, str]:
    """The values of a POSTed form, if it is one."""
    if request.method != "POST" or request.mimetype != "application/x-www-form-urlencoded":
        return {}
    text = utf8(await whole_body(_FORM_BYTES, "a trigger's form"))
    try:
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=_FORM_FIELDS)
    except ValueError as error:
        raise InputError(f"a trigger's form has {_FORM_FIELDS} fields at most") from error
    return dict(reversed(fields))  # of two values the first counts, as in Go's FormValue
