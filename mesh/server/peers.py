"""/mesh/v1/: what nodes ask of each other. The answers are the Service's; this carries them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

import anyio
from quart import Quart, Response, request

from mesh.core.holder import Caller
from mesh.node import Node
from mesh.server.callers import caller
from mesh.server.polls import unless_stopping
from mesh.server.whole import message
from mesh.transport.pace import Paced
from mesh.wire.messages import CONTENT_TYPE, FRAMES_TYPE


def add_routes(app: Quart, node: Node, stop: anyio.Event) -> None:
    """POST /mesh/v1/PATH, by the verb that the first part of PATH takes.

    `stop` is set when the node is to stop.
    """
    handlers = _Peers(node, stop)
    for verb, handler in (
        ("root", handlers.call),
        ("cells", handlers.call),
        ("find", handlers.call),
        ("tree", handlers.call),
        ("offer", handlers.call),
        ("standing", handlers.call),
        ("parts", handlers.long_call),
        ("batch", handlers.download),
        ("blob", handlers.download),
        ("part", handlers.download),
        ("push", handlers.upload),
    ):
        options = {"methods": ["POST"], "defaults": {"rest": ""}}
        app.add_url_rule(f"/mesh/v1/<any({verb}):verb>", f"mesh_{verb}", handler, **options)  # type: ignore[arg-type]
        app.add_url_rule(
            f"/mesh/v1/<any({verb}):verb>/<path:rest>", f"mesh_{verb}_of", handler, methods=["POST"]
        )


class _Peers:
    def __init__(self, node: Node, stop: anyio.Event) -> None:
        self._service = node.service
        self._stop = stop

    async def call(self, verb: str, rest: str) -> Response:
        answer = await self._service.call(_path(verb, rest), await message(), _caller())
        return Response(answer, content_type=CONTENT_TYPE)

    async def long_call(self, verb: str, rest: str) -> Response:
        """A call whose answer may wait for something to happen."""
        asked = partial(self._service.call, _path(verb, rest), await message())
        answer = await unless_stopping(self._stop, asked)
        return Response(answer, content_type=CONTENT_TYPE)

    async def download(self, verb: str, rest: str) -> Response:
        chunks = self._service.download(_path(verb, rest), await message())
        # Up to the first piece, an error can still be an answer of its own.
        first = await anext(chunks, b"")
        return Response(_resumed(first, chunks), content_type=FRAMES_TYPE)

    async def upload(self, verb: str, rest: str) -> Response:
        chunks = Paced(request.body, "a push")
        answer = await self._service.upload(_path(verb, rest), chunks, _caller())
        return Response(answer, content_type=CONTENT_TYPE)


def _caller() -> Caller:
    """Who sent the request at hand."""
    key = caller()
    return Caller(request.remote_addr, key.name if key is not None else None)


def _path(verb: str, rest: str) -> str:
    return f"{verb}/{rest}" if rest else verb


async def _resumed(
    first: bytes, chunks: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        yield first
        async for chunk in chunks:
            yield chunk
