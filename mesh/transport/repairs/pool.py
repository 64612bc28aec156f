"""httpx's connections: larger reads, and connections that are closed as they are opened.

httpx 0.28 with httpcore 1.0 reads 64 KiB at a time, whatever has arrived. Every read costs some
0.2 ms of Python in httpcore, h11 and the loop, and a batch of small blobs is a matter of Python's
time (docs/performance.md). So the pool is given network streams that read up to _READ bytes.

httpcore 1.0 asks each new connection for its TLS object, by way of anyio 4, which first asks the
socket for its peer's name. When uvloop has closed the connection already, there is no socket, and
that ends in an AttributeError, which httpcore does not expect. Here the answer is what it is
without uvloop: no TLS, and a connection that has ended, so the first use of it fails in a way that
httpcore knows (tests/transport/test_pool.py).
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import httpcore
import httpx

from mesh.transport import duplex
from mesh.transport.repairs.buffer import without_copies
from mesh.transport.repairs.heads import Head

# What uvloop and asyncio take from a socket at a time, so that nothing is read and then cut up.
_READ = 256 * 1024


# httpcore's errors, and their namesakes in httpx, which is what callers know.
_ERRORS: dict[type[Exception], type[httpx.TransportError]] = {
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.WriteError: httpx.WriteError,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
}


class Pool(httpx.AsyncBaseTransport):
    """Connections to any number of servers, HTTP/1.1, for an httpx client."""

    def __init__(self, *, connections: int, idle: int, keepalive: float) -> None:
        """`connections` by TLS and as many in the clear, `idle` of them kept.

        They are kept for up to `keepalive` seconds.
        """
        self._options: dict[str, Any] = {
            "max_connections": connections,
            "max_keepalive_connections": idle,
            "keepalive_expiry": keepalive,
            "network_backend": WideBackend(),
        }
        self._pools: dict[bool, httpcore.AsyncConnectionPool] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the response as soon as its head is there. httpx's errors only."""
        if not isinstance(request.stream, AsyncIterable):
            raise TypeError("a request for an asynchronous client")
        url = request.url
        with _as_httpx():
            response = await self._pool_of(url).handle_async_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                    ),
                    headers=request.headers.raw,
                    # httpx's stream is a generator around the upload, and would be left open.
                    content=duplex.current() or request.stream,
                    extensions=request.extensions,
                )
            )
        stream = response.extensions["network_stream"]
        if isinstance(stream, _WideStream):
            stream.head.done()
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.aclose()

    def _pool_of(self, url: httpx.URL) -> httpcore.AsyncConnectionPool:
        """The pool for TLS, or the one without.

        Each is made when it is first used: reading the certificates of the system takes 25 ms,
        which is an eighth of `mesh status` against a node on loopback.
        """
        secure = url.scheme == "https"
        if secure not in self._pools:
            context = ssl.create_default_context() if secure else None
            self._pools[secure] = _Connections(context, **self._options)
        return self._pools[secure]


class _Connections(httpcore.AsyncConnectionPool):
    """A pool of connections that copy no bodies."""

    def create_connection(self, origin: httpcore.Origin) -> _Connection:
        """A connection, which is made when it is first used."""
        return _Connection(
            origin=origin,
            ssl_context=self._ssl_context,
            keepalive_expiry=self._keepalive_expiry,
            network_backend=self._network_backend,
        )


class _Connection(httpcore.AsyncHTTPConnection):
    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        response = await super().handle_async_request(request)
        if isinstance(self._connection, httpcore.AsyncHTTP11Connection):
            without_copies(self._connection._h11_state)  # noqa: SLF001 - there is no other way
        return response


class _Body(httpx.AsyncByteStream):
    """The body of a response, as it comes."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response
        self._chunks = response.aiter_stream()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with _as_httpx():
            return await anext(self._chunks)

    async def aclose(self) -> None:
        await self._response.aclose()


@contextmanager
def _as_httpx() -> Iterator[None]:
    try:
        yield
    except tuple(_ERRORS) as error:
        raise _ERRORS[type(error)](str(error)) from error


class WideBackend(httpcore.AsyncNetworkBackend):
    """Connections whose reads are wide, and of which one can ask when they are closed."""

    def __init__(self, inner: httpcore.AsyncNetworkBackend | None = None) -> None:
        """`inner` makes the connections; anyio does, on whichever loop runs, unless it is given."""
        self._inner = inner or httpcore.AnyIOBackend()

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        """A connection."""
        return _WideStream(await self._inner.connect_tcp(*args, **kwargs))

    async def sleep(self, seconds: float) -> None:
        """Between two tries."""
        await self._inner.sleep(seconds)


class _WideStream(httpcore.AsyncNetworkStream):
    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._upload: duplex.Upload | None = None
        self.head = Head()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self.head.unparsed:
            await anyio.lowlevel.checkpoint()
            return self.head.take()
        timeout = self.head.left(timeout)
        if self._upload is not None:
            upload, self._upload = self._upload, None
            return self.head.come(await upload.first(timeout))
        return self.head.come(await self._inner.read(max(max_bytes, _READ), timeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.head.begin()
        self._upload = duplex.current()
        if self._upload is not None:
            await self._upload.write(self._inner, buffer, timeout)
        else:
            await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _WideStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable" and self.head.unparsed:
            return True  # an answer that nobody asked for: this connection is not used again
        try:
            return self._inner.get_extra_info(info)
        except AttributeError as error:
            if error.obj is not None:
                raise  # not the missing socket, but a mistake of ours
            return info == "is_readable" or None
