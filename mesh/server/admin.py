"""/v1/status, peers/NAME/sync, wait, scrub: how the node stands, and what people ask it to do."""

from __future__ import annotations

from quart import Quart, Response, request

from mesh.errors import InputError
from mesh.node import Node
from mesh.server.answers import json

_LONGEST_WAIT = 7 * 86_400.0


def add_routes(app: Quart, node: Node) -> None:
    """All of them."""

    async def status() -> Response:
        return json(200, node.status())

    async def sync(name: str) -> Response:
        stats = await node.find_peer(name).sync()
        return json(200 if stats.error is None else 502, stats)

    async def wait() -> Response:
        reports = await node.wait(_seconds(request.args.get("timeout", "")))
        return json(200, {"level": all(report.level for report in reports), "peers": reports})

    async def scrub() -> Response:
        return json(200, node.scrubber.status())

    async def order(verb: str) -> Response:
        orders = {"start": node.scrubber.start, "pause": node.scrubber.pause}
        orders.get(verb, node.scrubber.resume)()
        return json(200, node.scrubber.status())

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
