"""The application: a Quart or QuartTrio app around a node, guarded and with flow control."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio
from quart import Quart, Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from mesh.errors import (
    Full,
    InputError,
    MeshError,
    PeerError,
    ReadOnly,
    Refused,
    Stopping,
    StoreError,
    one_line,
)
from mesh.node import Node
from mesh.server import admin, blobs, blobstash, differences, events, finding, lacking, peers
from mesh.server import control as orders
from mesh.server.answers import problem
from mesh.server.auth import guard
from mesh.server.browsers import Names
from mesh.server.control import Control
from mesh.server.descriptors import Descriptors, spared
from mesh.server.repairs.flow import Receive, Scope, Send, with_flow
from mesh.server.roles import needs

log = logging.getLogger("mesh")

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


def create_app(
    node: Node,
    backend: str,
    connect: blobstash.Connect,
    stop: anyio.Event,
    control: Control | None = None,
) -> Asgi:
    """The ASGI application of `node`; `backend` is asyncio or trio, as the loop that runs it.

    The arguments are those of `routed`.
    """
    return with_flow(routed(node, backend, connect, stop, control))


def routed(
    node: Node,
    backend: str,
    connect: blobstash.Connect,
    stop: anyio.Event,
    control: Control | None = None,
) -> Quart:
    """All routes, behind the guard, and without flow control.

    `connect` makes the way to a BlobStash server. `stop` is set when the node is to stop.
    Without `control` nobody can give the node orders, and its keys stay as they are.
    """
    kind = QuartTrio if backend == "trio" else Quart
    app = kind("mesh", static_folder=None)  # there are no files to be served
    # Bodies are counted and timed where they are read, and answers may take as long as they make
    # progress: Quart's own limits are 16 MiB and 60 s, and would end large blobs.
    app.url_map.merge_slashes = False  # an empty part of a path is an error, not another path
    app.config.update(MAX_CONTENT_LENGTH=None, BODY_TIMEOUT=None, RESPONSE_TIMEOUT=None)
    blobs.add_routes(app, node)
    peers.add_routes(app, node, stop)
    admin.add_routes(app, node, stop)
    differences.add_routes(app, node)
    keys = node.config.accepted_keys if control is None else control.keys
    events.add_routes(app, node, stop, keys)
    lacking.add_routes(app, node, stop)
    finding.add_routes(app, node, stop)
    if control is not None:
        orders.add_routes(app, node, control)
    if node.config.blobstash:
        blobstash.add_routes(app, node, connect)
    app.before_request(spared(Descriptors()))
    names = Names(node.config.endpoint()[0], node.config.host_names)
    app.before_request(guard(names, keys, needs(app.url_map)))

    async def failed(error: MeshError) -> Response:
        if isinstance(error, Full | ReadOnly):
            node.keeper.disk.met(error)
        return await _failed(error)

    app.register_error_handler(MeshError, failed)
    app.register_error_handler(HTTPException, _declined)
    return app


async def _failed(error: MeshError) -> Response:
    """The one table from errors to statuses."""
    text = one_line(error)
    if isinstance(error, InputError):
        return problem(400, text)
    if isinstance(error, Refused):
        wish = error.retry_after
        if wish is not None:
            return problem(429, text, {"Retry-After": str(max(1, round(wish)))})
        return problem(409, text)
    if isinstance(error, PeerError):
        return problem(408, text)  # whoever sends a body that stops, or is not what it should be
    if isinstance(error, Full):
        return problem(507, text)
    if isinstance(error, StoreError | Stopping):
        return problem(503, text)
    return problem(500, text)


async def _declined(error: HTTPException) -> Response:
    """Werkzeug's own errors (404, 405, …) in the same form."""
    if (error.code or 500) >= 500:
        log.error("%s %s: %s", request.method, request.path, one_line(error))
    return problem(error.code or 500, error.name)
