"""A BlobStash server as the recordings have it, with its faults, and with switches for more.

    with FakeServer(blobs) as server:
        server.faults.close.add("leaf")  # leaves are answered by closing the connection
        ...
        assert server.uploads.total() == 0

One thread a connection, HTTP/1.1, kept alive. It shares no code with mesh but snappy's library.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import socketserver
import struct
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlsplit

import cramjam

KEY = "peerkey"  # the key of the recordings

_HEX = re.compile(r"[0-9a-f]+", re.ASCII)
_NOT_FOUND = b'{"error":"Not Found"}'
_JSON = {"Content-Type": "application/json"}
_NO_CACHE = {"Cache-Control": "no-cache"}

# Go's net/http says how long an answer is up to so many bytes, and sends it in chunks beyond.
_COUNTED = 2048
_CHUNK = 65536

# Digests a chunk of a listing that never ends.
_FLOOD = 5000


def name_of(data: bytes) -> str:
    """A blob's digest in hex."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def hash_of(digests: Iterable[str]) -> str:
    """The hash of a state or of a leaf: over hex digests, joined in ascending order."""
    return name_of("".join(sorted(digests)).encode())


@dataclass
class Faults:
    """What goes wrong; all of it may be changed while the server runs.

    Kinds are those of `FakeServer.requests`.
    """

    close: set[str] = field(default_factory=set)  # kinds answered by closing the connection
    hang_up: bool = False  # connections are reset as soon as they are accepted
    close_after: int | None = None  # so many more requests, then all are answered that way
    stall: set[str] = field(
        default_factory=set
    )  # kinds, or "post DIGEST", that wait until `released`
    stall_once: set[str] = field(default_factory=set)  # kinds whose next request does
    released: threading.Event = field(default_factory=threading.Event)
    delay: float = 0.0  # seconds before each answer
    wrong: set[str] = field(default_factory=set)  # blobs served with other bytes
    cut: set[str] = field(default_factory=set)  # blobs whose connection is closed half way
    phantoms: set[str] = field(default_factory=set)  # digests listed and not there
    state: bytes | None = None  # the body of a state's answer
    leaf: bytes | None = None  # the body of every leaf's answer
    lengths: bool = False  # blobs always come with a Content-Length, as behind some proxies
    flood: int = 0  # so many digests more in each leaf
    flood_under: bool = False  # … under its prefix, instead of beyond it


@dataclass
class Answer:
    """What is sent."""

    status: int
    headers: dict[str, str]
    body: bytes | Iterator[bytes] = b""
    cut: int | None = None  # so many bytes of the body, then the connection is closed
    length: bool = False  # say how long it is, however long

    @property
    def chunked(self) -> bool:
        return not isinstance(self.body, bytes) or (
            len(self.body) > _COUNTED and not self.length and self.status == 200
        )

    def pieces(self) -> Iterator[bytes]:
        """The body of a chunked answer."""
        if not isinstance(self.body, bytes):
            yield from self.body
            return
        end = len(self.body) if self.cut is None else self.cut
        for start in range(0, end, _CHUNK):
            yield self.body[start : min(start + _CHUNK, end)]


class FakeServer:
    """The server. `blobs`, `requests`, `uploads` and `downloads` may be read at any time."""

    def __init__(self, blobs: Iterable[bytes] = (), *, key: str = KEY) -> None:
        self.key = key
        self.blobs: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()  # by kind, those not answered too
        self.uploads: Counter[str] = Counter()  # by digest
        self.downloads: Counter[str] = Counter()
        self.at_once: Counter[str] = Counter()  # the most requests of a kind at a time
        self.connections = 0
        self.unauthorized = 0
        self.leaf_bytes = 0  # sent in answer to leaf requests
        self.faults = Faults()
        self._now: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._listed: list[str] | None = None
        self.add(*blobs)
        self._listener = _Listener(self)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,))

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.faults.released.set()
        self._listener.shutdown()
        self._thread.join()
        self._listener.close()

    @property
    def place(self) -> str:
        host, port = self._listener.server_address[:2]
        return f"{host}:{port}"

    @property
    def url(self) -> str:
        return f"http://{self.place}"

    @property
    def peer(self) -> str:
        """The server as `--peers` takes it, without its key."""
        return f"blobstash+{self.url}"

    def add(self, *blobs: bytes) -> list[str]:
        """Put blobs there behind everybody's back; their digests."""
        named = {name_of(data): data for data in blobs}
        with self._lock:
            self.blobs.update(named)
            self._listed = None
        return list(named)

    def forget(self) -> None:
        """Begin counting anew."""
        with self._lock:
            for counter in (self.requests, self.uploads, self.downloads, self.at_once):
                counter.clear()
            self.leaf_bytes = self.connections = 0

    def close_all(self) -> None:
        """Close every connection, as a server that is restarted does."""
        self._listener.cut_all()

    # --- what it knows ---------------------------------------------------------------------------

    def _digests(self) -> list[str]:
        with self._lock:
            if self._listed is None:
                self._listed = sorted(self.blobs)
            if self.faults.phantoms:
                return sorted({*self._listed, *self.faults.phantoms})
            return self._listed

    def state(self) -> dict[str, Any]:
        """What `GET /api/sync/state` says, as a value."""
        digests = self._digests()
        buckets: dict[str, list[str]] = {}
        for digest in digests:
            buckets.setdefault(digest[:2], []).append(digest)
        leaves = {prefix: hash_of(members) for prefix, members in buckets.items()}
        return {"root": hash_of(digests), "count": len(digests), "leaves": leaves}

    def leaf(self, prefix: str) -> dict[str, Any]:
        """What it says of a leaf: everything from the prefix upwards, to the end of the store."""
        hashes = [digest for digest in self._digests() if digest >= prefix]
        return {"prefix": prefix, "count": len(hashes), "hashes": hashes or None}

    # --- requests --------------------------------------------------------------------------------

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Any:
        """An Answer, or None: then the connection is closed."""
        url = urlsplit(target)
        kind = _kind(method, url.path)
        faults = self.faults
        with self._lock:
            stalls = not faults.stall.isdisjoint((kind, f"{kind} {url.path.rpartition('/')[2]}"))
            if kind in faults.stall_once:
                faults.stall_once.discard(kind)
                stalls = True
            self.requests[kind] += 1
            self._now[kind] += 1
            self.at_once[kind] = max(self.at_once[kind], self._now[kind])
            if faults.close_after is not None:
                faults.close_after -= 1
        try:
            if stalls:
                faults.released.wait(60)
            if faults.delay:
                threading.Event().wait(faults.delay)
            if kind in faults.close or (faults.close_after is not None and faults.close_after < 0):
                return None
            shown = "Basic " + base64.b64encode(f":{self.key}".encode()).decode()
            if headers.get("authorization") != shown:
                self.unauthorized += 1
                basic = {"WWW-Authenticate": 'Basic realm="BlobStash"'}
                return Answer(401, {**_JSON, **basic}, b'{"error":"Unauthorized"}')
            return self._answer(kind, url.path, dict(parse_qsl(url.query)), headers, body)
        finally:
            with self._lock:
                self._now[kind] -= 1

    def _answer(
        self, kind: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> Answer | None:
        last = path.rpartition("/")[2]
        if kind == "ping":
            return Answer(200, {**_JSON, **_NO_CACHE}, b'{"ping":"pong"}')
        if kind == "state":
            return Answer(200, _JSON, self.faults.state or _json(self.state()))
        if kind == "leaf":
            return self._leaf(last)
        if kind == "blobs":
            return self._listing(query)
        if kind == "upload":
            return self._upload(headers, body)
        if kind == "post":
            return self._post(last, headers, body)
        if kind in ("get", "head"):
            return self._get(kind, last, headers)
        return Answer(404, _JSON, _NOT_FOUND)

    def _leaf(self, prefix: str) -> Answer | None:
        if len(prefix) != 2 or not _HEX.fullmatch(prefix):
            return None  # the real one panics, which closes the connection
        faults = self.faults
        if faults.leaf is not None:
            return Answer(200, _JSON, faults.leaf)
        if faults.flood:
            return Answer(200, _JSON, self._flood(prefix))
        body = _json(self.leaf(prefix))
        with self._lock:
            self.leaf_bytes += len(body)
        return Answer(200, _JSON, body)

    def _flood(self, prefix: str) -> Iterator[bytes]:
        own = [digest for digest in self._digests() if digest.startswith(prefix)]
        above = prefix if self.faults.flood_under else f"{int(prefix, 16) + 1:02x}"
        head = f'{{"prefix":"{prefix}","count":{len(own) + self.faults.flood},"hashes":["'
        yield (head + '","'.join([*own, above + "0" * 62])).encode()
        for start in range(1, self.faults.flood, _FLOOD):
            numbers = range(start, min(start + _FLOOD, self.faults.flood))
            piece = "".join(f'","{above}{number:062x}' for number in numbers).encode()
            self.leaf_bytes += len(piece)
            yield piece
        yield b'"]}'

    def _get(self, kind: str, digest: str, headers: dict[str, str]) -> Answer:
        if problem := _malformed(digest):
            return _error(500, f"error fetching GetPos: {problem}")
        data = self.blobs.get(digest)
        if data is None:
            return Answer(404, _JSON, _NOT_FOUND)
        if kind == "head":
            return Answer(204, {})
        with self._lock:
            self.downloads[digest] += 1
        if digest in self.faults.wrong:
            data = b"wrong" + data
        cut, lengths = len(data) // 2 if digest in self.faults.cut else None, self.faults.lengths
        if "snappy" in headers.get("accept-encoding", ""):
            encoded = bytes(cramjam.snappy.compress_raw(data))
            return Answer(200, {**_NO_CACHE, "Content-Encoding": "snappy"}, encoded, cut, lengths)
        return Answer(200, {**_NO_CACHE, "Content-Type": _sniffed(data)}, data, cut, lengths)

    def _post(self, digest: str, headers: dict[str, str], body: bytes) -> Answer:
        if headers.get("content-type") == "snappy":
            body = bytes(cramjam.snappy.decompress_raw(body))
        with self._lock:
            self.uploads[digest] += 1
        found = name_of(body)
        if found != digest:
            return _error(500, f"blob corrupted, hash does not match, expected {found}")
        with self._lock:
            self.blobs[digest] = body
            self._listed = None
        return Answer(201, {})

    def _upload(self, headers: dict[str, str], body: bytes) -> Answer:
        boundary = headers["content-type"].partition("boundary=")[2].encode()
        for part in body.split(b"--" + boundary)[1:-1]:
            head, _, data = part.partition(b"\r\n\r\n")
            digest = head.partition(b'name="')[2].partition(b'"')[0].decode()
            answer = self._post(digest, {}, data.removesuffix(b"\r\n"))
            if answer.status != 201:
                return answer
        return Answer(200, {})

    def _listing(self, query: dict[str, str]) -> Answer:
        cursor, limit = query.get("cursor", ""), int(query.get("limit", "50"))
        found = [digest for digest in self._digests() if digest >= cursor]
        page = found[:limit]
        more = len(found) > limit
        following = f"{int(page[-1], 16) + 1:064x}" if page and more else ""
        value = {
            "data": [{"hash": digest, "size": len(self.blobs[digest])} for digest in page],
            "pagination": {
                "cursor": following,
                "has_more": more,
                "count": len(page),
                "per_page": limit,
            },
        }
        return Answer(200, {**_NO_CACHE, **_JSON}, _json(value))


def _kind(method: str, path: str) -> str:
    if path.startswith("/api/blobstore/blob/"):
        return method.lower()
    if path.startswith("/api/sync/state/leaf/"):
        return "leaf"
    known = {
        "/api/sync/state": "state",
        "/api/blobstore/blobs": "blobs",
        "/api/blobstore/upload": "upload",
        "/api/ping": "ping",
    }
    return known.get(path, "other")


def _malformed(digest: str) -> str:
    """What Go's encoding/hex says of it; "" for one that is well-formed."""
    for char in digest:
        if char not in "0123456789abcdefABCDEF":
            return f"encoding/hex: invalid byte: U+{ord(char):04X} '{char}'"
    return "encoding/hex: odd length hex string" if len(digest) % 2 else ""


def _sniffed(data: bytes) -> str:
    text = all(byte >= 0x20 or byte in b"\t\n\x0c\r\x1b" for byte in data[:512])
    return "text/plain; charset=utf-8" if text else "application/octet-stream"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _error(status: int, text: str) -> Answer:
    return Answer(status, _JSON, _json({"error": text}))


# --- HTTP ----------------------------------------------------------------------------------------


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 256
    daemon_threads = False
    block_on_close = True

    def __init__(self, server: FakeServer) -> None:
        self.fake = server
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Connection)

    def opened(self, connection: socket.socket) -> None:
        with self._guard:
            self._open.add(connection)
            self.fake.connections += 1

    def closed(self, connection: socket.socket) -> None:
        with self._guard:
            self._open.discard(connection)

    def cut_all(self) -> None:
        with self._guard:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the other side was faster

    def close(self) -> None:
        self.cut_all()
        self.server_close()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        if not self.fake.faults.hang_up:
            return True
        self.fake.connections += 1
        request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.close()  # which resets it, at once
        return False


class _Connection(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    server: _Listener

    def handle(self) -> None:
        self.server.opened(self.connection)
        try:
            while self._one():
                pass
        except OSError:
            return  # the client has gone
        finally:
            self.server.closed(self.connection)

    def _one(self) -> bool:
        """One request; whether the connection stays."""
        first = self.rfile.readline(65536)
        if not first.strip():
            return False
        method, target, _ = first.decode("latin-1").split()
        headers: dict[str, str] = {}
        while line := self.rfile.readline(65536).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = _body(self.rfile, headers)
        answer = self.server.fake.answer(method, target, headers, body)
        if answer is None:
            return False
        return self._send(method, answer)

    def _send(self, method: str, answer: Answer) -> bool:
        head = f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        if answer.chunked:
            self.connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            for piece in answer.pieces():
                self.connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            if answer.cut is None:
                self.connection.sendall(b"0\r\n\r\n")
            return answer.cut is None
        assert isinstance(answer.body, bytes)
        if answer.status != 204:
            head += f"Content-Length: {len(answer.body)}\r\n"
        body = b"" if method == "HEAD" else answer.body[: answer.cut]
        self.connection.sendall(head.encode() + b"\r\n" + body)
        return answer.cut is None


def _body(stream: BinaryIO, headers: dict[str, str]) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return stream.read(int(headers.get("content-length", "0")))
    pieces: list[bytes] = []
    while size := int(stream.readline().strip() or b"0", 16):
        pieces.append(stream.read(size))
        stream.readline()
    stream.readline()
    return b"".join(pieces)


_REASONS = {
    200: "OK",
    201: "Created",
    204: "No Content",
    401: "Unauthorized",
    404: "Not Found",
    500: "Internal Server Error",
}
