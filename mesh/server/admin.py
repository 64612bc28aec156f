"""/v1/status, peers/NAME/sync, wait, scrub: how the node stands, and what people ask it to do.

`sync` and `wait` last as long as what they wait for, and end with 503 when the node stops.
"""

from __future__ import annotations

from functools import partial

import anyio
from quart import Quart, Response, request

from mesh.errors import InputError
from mesh.node import Node
from mesh.server import callers
from mesh.server.answers import json
from mesh.server.polls import unless_stopping

_LONGEST_WAIT = 7 * 86_400.0


def add_routes(app: Quart, node: Node, stop: anyio.Event) -> None:
    """All of them; `stop` is set when the node is to stop."""

    async def status() -> Response:
        return json(200, node.status())

    async def sync(name: str) -> Response:
        node.keeper.disk.present()
        stats = await unless_stopping(stop, node.find_peer(name).sync)
        return json(200 if stats.error is None else 502, stats)

    async def wait() -> Response:
        timeout = _seconds(request.args.get("timeout", ""))
        whole = _whole(request.args.get("mesh", ""))
        work = partial(node.wait_and_tell, timeout, whole=whole)
        return json(200, await unless_stopping(stop, work))

    async def scrub() -> Response:
        return json(200, node.scrubber.status())

    async def order(verb: str) -> Response:
        orders = {"start": node.scrubber.start, "pause": node.scrubber.pause}
        orders.get(verb, node.scrubber.resume)()
        callers.order(f"scrub/{verb}")
        return json(200, node.scrubber.status())

    async def errors() -> Response:
        return json(200, node.errors())

    async def retry() -> Response:
        callers.order("errors/retry")
        return json(200, await unless_stopping(stop, node.retry))

    app.add_url_rule("/v1/errors", "errors", errors, methods=["GET"])
    app.add_url_rule("/v1/errors/retry", "retry", retry, methods=["POST"])
    app.add_url_rule("/v1/scrub", "scrub", scrub, methods=["GET"])
    app.add_url_rule("/v1/scrub/<any(start,pause,resume):verb>", "order", order, methods=["POST"])
    app.add_url_rule("/v1/status", "status", status, methods=["GET"])
    app.add_url_rule("/v1/peers/<path:name>/sync", "sync", sync, methods=["POST"])
    app.add_url_rule("/v1/wait", "wait", wait, methods=["POST"])


def _seconds(text: str) -> float | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _LONGEST_WAIT:
        raise InputError(f"timeout is {text[:20]!a}; expected seconds, up to a week")
    return seconds


def _whole(text: str) -> bool:
    if text not in ("", "0", "1"):
        raise InputError(f"mesh is {text[:20]!a}; expected 1 for the whole mesh, or 0")
    return text == "1"
