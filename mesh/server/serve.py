"""Hypercorn inside the node's own task group: the one place that knows which loop runs.

The socket is bound before anything starts, so that an occupied port is known at once and port 0
becomes a number; the shutdown is an event of ours, not Hypercorn's signal handlers.
"""

from __future__ import annotations

import errno
import logging
import socket

import anyio
from anyio import create_task_group
from hypercorn.config import Config as HypercornConfig

from mesh.config import join_host
from mesh.errors import ConfigError
from mesh.server import repairs
from mesh.server.app import Asgi
from mesh.server.repairs.stop import cut_at_last

# Idle connections stay longer than our own clients keep them (5 s), so that none is closed under
# a request; but not by much, since each of them takes a descriptor.
_KEEP_ALIVE = 10.0

# A client that takes no byte for so long is cut by the kernel: a response to somebody who does
# not read would otherwise stay for ever, since Hypercorn has no write timeout.
_STUCK_MILLISECONDS = 60_000

# A client whose machine has gone says nothing, and one whose upload pauses says nothing either:
# after so many seconds of silence the kernel asks, so often apart, and closes after so many misses.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}

# Beyond the deadline of a stop, for requests whose connections have been cut to end by themselves.
_LAST_WORDS = 1.0

_BACKLOG = 512
_HEADERS_BYTES = 32 * 1024  # request line and headers: ours have some hundred bytes


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; ConfigError in one line when that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on {join_host(host, port)}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit these.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):
                listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STUCK_MILLISECONDS)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        why = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            why = "the port is in use; stop what listens there or choose another with --listen"
        raise ConfigError(f"cannot listen on {join_host(host, port)}: {why}") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Where clients reach a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{join_host(host, port)}"


async def serve(
    app: Asgi, listener: socket.socket, backend: str, stop: anyio.Event, grace: float
) -> None:
    """Serve until `stop` is set, then let requests under way end for up to `grace` seconds."""
    repairs.install()
    port = listener.getsockname()[1]
    config = _config(listener, grace)
    served = anyio.Event()
    async with create_task_group() as group:
        group.start_soon(cut_at_last, port, stop, served, grace)
        # In a task of its own: asked to stop as it starts, Hypercorn 0.18 on asyncio returns in a
        # task that is still marked as cancelled, and whatever that task waited for next would fail.
        group.start_soon(_hypercorn, app, config, backend, stop, served)


async def _hypercorn(
    app: Asgi, config: HypercornConfig, backend: str, stop: anyio.Event, served: anyio.Event
) -> None:
    if backend == "trio":
        from hypercorn.trio import serve as serve_trio

        await serve_trio(app, config, shutdown_trigger=stop.wait, mode="asgi")  # type: ignore[arg-type]
    else:
        from hypercorn.asyncio import serve as serve_asyncio

        await serve_asyncio(app, config, shutdown_trigger=stop.wait, mode="asgi")  # type: ignore[arg-type]
    served.set()


def _config(listener: socket.socket, grace: float) -> HypercornConfig:
    config = HypercornConfig()
    config.bind = [f"fd://{listener.detach()}"]
    config.keep_alive_timeout = _KEEP_ALIVE
    config.graceful_timeout = grace + _LAST_WORDS
    config.shutdown_timeout = grace + _LAST_WORDS
    config.backlog = _BACKLOG
    config.h11_max_incomplete_size = _HEADERS_BYTES
    config.accesslog = None
    config.errorlog = logging.getLogger("mesh.http")
    config.include_server_header = False
    config.max_app_queue_size = 1  # it counts messages, not bytes: see repairs/inflow.py
    config.alpn_protocols = ["http/1.1"]  # over TLS, too, no HTTP/2 (repairs/requests.py)
    return config
