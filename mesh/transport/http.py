"""HTTP, and the only place, beside its pool, that knows httpx: errors are translated here, once."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from http.cookiejar import CookieJar

import httpx
import msgspec

from mesh.config import Address
from mesh.decoding import json_of, utf8
from mesh.errors import (
    Misbehaved,
    PeerError,
    Refused,
    Stalled,
    TooMuch,
    Undecodable,
    Unreachable,
    printable,
)
from mesh.transport.duplex import Upload
from mesh.transport.pace import SILENCE
from mesh.transport.repairs.pool import Pool
from mesh.wire.messages import CONTENT_TYPE, FRAMES_TYPE, MAX_MESSAGE

BASE = "/mesh/v1/"

# Below the 10 s that our server keeps idle connections, so that one is not reused as it closes.
_KEEPALIVE = 5.0

# Connections in all and idle ones: rounds, batches and large blobs of some dozen peers at a time.
_CONNECTIONS = 200
_IDLE = 40

_CONNECT = 5.0  # a host that is down, or drops packets, is found out within this

# What an error's text may be at most; it comes from a stranger and ends in a log line.
_MAX_ERROR = 500
_MAX_REFUSAL = 64 * 1024

Body = bytes | AsyncIterator[bytes] | None


@dataclass(frozen=True)
class Streamed:
    """A response whose body is still to come."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


def new_client() -> httpx.AsyncClient:
    """One client for all peers: connections are kept for each of them.

    No proxies or netrc from the environment, no redirects, no cookies kept from anybody who
    could set them: peers are addressed exactly as configured.
    """
    return httpx.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        cookies=_NoCookies(),
        timeout=httpx.Timeout(SILENCE * 2, connect=_CONNECT),
        transport=Pool(connections=_CONNECTIONS, idle=_IDLE, keepalive=_KEEPALIVE),
        headers={"accept-encoding": "identity", "user-agent": "mesh"},
    )


class _NoCookies(CookieJar):
    """Keeps no cookie: the client is shared, and one peer's would be sent to others of its host.

    httpx gives each answer to its jar, whatever it is told about cookies.
    """

    def extract_cookies(self, *_: object) -> None:
        """Nothing of an answer is kept, nor is it parsed."""

    def add_cookie_header(self, *_: object) -> None:
        """Nothing is sent."""


class _Whole(httpx.AsyncByteStream):
    """A body in memory, which may be sent again.

    httpx makes a generator of it. One that a cancelled request leaves behind is closed by the
    garbage collector, and trio warns of it.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self._data)


class _Once:
    """One chunk, if it has bytes."""

    def __init__(self, chunk: bytes) -> None:
        self._chunk = chunk

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk, self._chunk = self._chunk, b""
        if not chunk:
            raise StopAsyncIteration
        return chunk


class _Refusal(msgspec.Struct, frozen=True):
    error: str = ""


_REFUSAL = json_of(_Refusal)


class Http:
    """Requests to one base URL. Raises PeerErrors only."""

    def __init__(
        self, client: httpx.AsyncClient, url: str, credentials: Mapping[str, str] | None = None
    ) -> None:
        """`url` without a path. `credentials`: headers of every request."""
        self._client = client
        self._url = url
        self._credentials = dict(credentials or {})
        self._place = url.partition("://")[2]

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        *,
        patient: bool = False,
    ) -> AsyncIterator[Streamed]:
        """Send a request; the response as soon as its head is there.

        `patient`: the answer may take any time. A request whose body can be sent again is, once,
        when a kept connection turns out to have been closed by the other side.
        """
        tries = 2 if body is None or isinstance(body, bytes) else 1
        timeout = httpx.Timeout(None, connect=_CONNECT) if patient else self._client.timeout
        streamed = Upload(body) if isinstance(body, AsyncIterator) else None
        with self._translated():
            try:
                request = self._client.build_request(
                    method,
                    self._url + path,
                    content=streamed or body,
                    headers={**self._credentials, **(headers or {})},
                    params=params,
                    timeout=timeout,
                )
            except UnicodeError as error:  # a label that begins with xn-- and is no IDNA
                raise Unreachable(f"{self._place} is no name of a host: {error}") from error
            if streamed is None:
                request.stream = _Whole(request.content)
            while True:
                tries -= 1
                try:
                    response = await self._sent(request, streamed)
                    break
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                    if not tries:
                        raise
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise Misbehaved(f"{self._place} sent a compressed answer that nobody asked for")
            async with aclosing(self._raw(response)) as chunks:
                yield Streamed(response.status_code, response.headers, chunks)
        finally:
            await response.aclose()

    async def _sent(self, request: httpx.Request, streamed: Upload | None) -> httpx.Response:
        send = partial(self._client.send, request, stream=True)
        return await (streamed.send(send) if streamed is not None else send())

    async def exchange(
        self,
        method: str,
        path: str,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        *,
        patient: bool = False,
        limit: int = MAX_MESSAGE,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """A request and its whole answer of at most `limit` bytes: status, headers, body."""
        opened = self.open(method, path, body, headers, params, patient=patient)
        async with opened as answer:
            return answer.status, answer.headers, await self.whole(answer, limit)

    async def whole(self, answer: Streamed, limit: int) -> bytes:
        """The body of an answer; Misbehaved when it has more than `limit` bytes."""
        body = bytearray()  # not a list: of chunks of two bytes that is twenty times as much
        async for chunk in answer.chunks:
            body += chunk
            if len(body) > limit:
                raise Misbehaved(f"{self._place} answered more than {limit} bytes")
        return bytes(body)

    async def refusal(self, answer: Streamed) -> PeerError:
        """The error that an answer other than 200 stands for."""
        try:
            said = words(await self.whole(answer, _MAX_REFUSAL))
        except PeerError:  # the status says enough
            said = ""
        return refused(self._place, answer.status, answer.headers, said)

    async def _raw(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        with self._translated():
            async with aclosing(response.aiter_raw()) as raw:  # type: ignore[type-var]
                async for chunk in raw:
                    yield chunk

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            what = "connect" if isinstance(error, httpx.ConnectTimeout) else "get an answer"
            raise Stalled(f"cannot {what} in time: {self._place}") from error
        except httpx.ConnectError as error:
            raise Unreachable(f"cannot reach {self._place}: {_cause(error)}") from error
        except (httpx.RemoteProtocolError, httpx.DecodingError) as error:
            raise Unreachable(f"connection to {self._place} broke: {_cause(error)}") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise Unreachable(f"connection to {self._place} failed: {_cause(error)}") from error


def words(answer: bytes) -> str:
    """The text in `{"error": text}`; "" when the answer of an error is anything else."""
    try:
        return _REFUSAL.read(answer).error
    except Undecodable:
        return ""


def refused(place: str, status: int, headers: Mapping[str, str], text: str) -> Refused:
    """A Refused for an HTTP status, with the other side's own words where it gave any."""
    wish = headers.get("retry-after", "")
    retry_after = float(wish) if wish.isascii() and wish.isdigit() and len(wish) < 6 else None
    words = printable(text[:_MAX_ERROR]) or f"HTTP status {status}"
    kind = TooMuch if status == 413 else Refused
    return kind(f"{place} declined: {words}", retry_after, status)


def credentials(address: Address) -> dict[str, str]:
    """The headers that show a peer its key: a bearer token, or what BlobStash takes."""
    if address.key is None:
        return {}
    key = address.key.reveal()
    if address.protocol == "blobstash":
        return {"authorization": "Basic " + base64.b64encode(b":" + key).decode()}
    return {"authorization": "Bearer " + utf8(key)}


class HttpWire:
    """See transport.base.Wire: POST for messages and uploads, everything below /mesh/v1/."""

    def __init__(self, http: Http) -> None:
        """`http`: to the peer's base URL."""
        self._http = http

    async def call(self, path: str, body: bytes) -> bytes:
        """A small message for a small answer."""
        headers = {"content-type": CONTENT_TYPE}
        async with self._http.open("POST", BASE + path, body, headers) as answer:
            if answer.status != 200:
                raise await self._http.refusal(answer)
            return await self._http.whole(answer, MAX_MESSAGE)

    @asynccontextmanager
    async def download(self, path: str, body: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
        """A small message for a stream."""
        headers = {"content-type": CONTENT_TYPE}
        async with self._http.open("POST", BASE + path, body, headers) as answer:
            if answer.status != 200:
                raise await self._http.refusal(answer)
            yield answer.chunks

    async def upload(self, path: str, chunks: AsyncIterator[bytes]) -> bytes:
        """A stream for a small answer."""
        headers = {"content-type": FRAMES_TYPE}
        async with self._http.open("POST", BASE + path, chunks, headers, patient=True) as answer:
            if answer.status != 200:
                raise await self._http.refusal(answer)
            return await self._http.whole(answer, MAX_MESSAGE)

    async def close(self) -> None:
        """The client is shared: nothing to do here."""


def _cause(error: Exception) -> str:
    """The innermost reason, which is the one that says something."""
    inner: BaseException = error
    while True:
        within = inner.exceptions[0] if isinstance(inner, BaseExceptionGroup) else None
        deeper = within or inner.__cause__ or inner.__context__
        if deeper is None:
            break
        inner = deeper
    if isinstance(inner, OSError) and inner.errno and not isinstance(inner, ssl.SSLError):
        # asyncio puts an address into strerror, which the caller names already.
        known = os.strerror(inner.errno)
        return inner.strerror or known if known.startswith("Unknown error") else known
    return printable(str(inner) or str(error) or type(inner).__name__).rstrip(".")
