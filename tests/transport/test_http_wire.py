"""The contract over real sockets: Hypercorn in the test's own task group, in real time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import create_task_group

from mesh.node import Node
from mesh.server.app import create_app
from mesh.server.serve import bind, serve, url_of
from mesh.transport.base import Wire
from mesh.transport.http import Http, HttpWire, new_client
from tests.contracts.wire_contract import WireContract


# httpx does not close its own generators when a stream is left early, it closes the connection
# below them; trio tells of such generators.
@pytest.mark.filterwarnings("ignore:Async generator 'http(x|core):ResourceWarning")
class TestHttpWire(WireContract):
    @asynccontextmanager
    async def reach(self, node: Node, backend: str) -> AsyncIterator[Wire]:
        listener = bind("127.0.0.1", 0)
        url, stop = url_of(listener), anyio.Event()
        app = create_app(node, backend, _no_server, stop)
        async with create_task_group() as group:
            group.start_soon(serve, app, listener, backend, stop, 0.1)
            async with new_client() as client:
                yield HttpWire(Http(client, url))
            stop.set()

    @asynccontextmanager
    async def nowhere(self) -> AsyncIterator[Wire]:
        listener = bind("127.0.0.1", 0)
        url = url_of(listener)
        listener.close()
        async with new_client() as client:
            yield HttpWire(Http(client, url))


def _no_server(*_: Any) -> Any:
    raise AssertionError("no BlobStash server is configured")
