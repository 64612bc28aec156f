"""GET /v1/events: what happens in the node, one JSON object a line, until the node stops."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial

import anyio
import msgspec
from quart import Quart, Response, request

from mesh.actors.chronicle import Listener
from mesh.config import Key
from mesh.errors import Stopping
from mesh.events import Event
from mesh.node import Node
from mesh.server.answers import problem
from mesh.server.callers import still_accepted
from mesh.server.polls import unless_stopping

# Each holds a connection for as long as it likes. More than some dozen programs that watch one node
# are a mistake in one of them.
_MOST = 64

# Seconds after which an empty line says that the node is there: a third of the silence for which
# a client waits, and below what proxies grant a connection that idles.
_BEAT = 10.0


def add_routes(
    app: Quart, node: Node, stop: anyio.Event, accepted: Callable[[], tuple[Key, ...]]
) -> None:
    """The one route; `stop` is set when the node stops. `accepted`: the keys that count now."""

    async def events() -> Response:
        if request.method == "HEAD":  # an answer without a body, which must not last
            return Response(b"", content_type="application/x-ndjson")
        if node.events.listeners >= _MOST:
            return problem(503, f"{_MOST} clients listen already; end one of them")
        lines = lines_of(node.listen(), stop, still_accepted(accepted))
        return Response(lines, content_type="application/x-ndjson")

    app.add_url_rule("/v1/events", "events", events, methods=["GET"])


async def lines_of(
    listener: Listener, stop: anyio.Event, accepted: Callable[[], bool]
) -> AsyncGenerator[bytes, None]:
    """The events that `listener` hears, in lines; they end when `stop` is set.

    They also end when `accepted` says that the key of whoever listens does not count any more.
    """
    try:
        while True:
            found = await unless_stopping(stop, partial(_soon, listener))
            if not accepted():
                return
            if found is None:
                yield b"\n"
            elif not found:
                return
            else:
                yield b"".join(msgspec.json.encode(event) + b"\n" for event in found)
    except Stopping:
        return
    finally:
        await listener.aclose()


async def _soon(listener: Listener) -> list[Event] | None:
    """What there is, at least one event; None when nothing comes within _BEAT.

    The time ends the wait and nothing else: an event that was taken is handed on.
    """
    with anyio.move_on_after(_BEAT):
        return await listener.some()
    return None
