"""GET /v1/peers/NAME/diff: what differs, as lines of JSON while it is found.

The answer is as long as what differs, and neither side holds more than a line of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio
import msgspec
from quart import Quart, Response

from mesh.actors.differing import Differences
from mesh.errors import PeerError, Refused, StoreError, one_line
from mesh.node import Node
from mesh.server.answers import problem
from mesh.status import DiffEnd, DiffLine

LINES_TYPE = "application/x-ndjson"

# Comparisons for clients at a time. One by sketches may hold 130,000 digests, which are 10 MB.
_PLACES = 4
_BUSY_SECONDS = 1.0


def add_routes(app: Quart, node: Node) -> None:
    """The one route."""
    places = anyio.Semaphore(_PLACES)

    async def diff(name: str) -> Response:
        peer = node.find_peer(name)
        node.keeper.disk.present()
        if not places.value:
            raise Refused("busy with other comparisons; try again", _BUSY_SECONDS)
        differences = peer.differences()
        try:
            await differences.begin()
        except PeerError as error:
            return problem(502, one_line(error))
        return Response(_lines(peer.name, differences, places), content_type=LINES_TYPE)

    app.add_url_rule("/v1/peers/<path:name>/diff", "diff", diff, methods=["GET"])


async def _lines(
    name: str, differences: Differences, places: anyio.Semaphore
) -> AsyncGenerator[bytes, None]:
    error: str | None = None
    async with places:
        try:
            async with aclosing(aiter(differences)) as pieces:
                async for here, there in pieces:
                    # An empty line says that the comparison goes on.
                    line = DiffLine([d.hex() for d in here], [d.hex() for d in there])
                    yield (msgspec.json.encode(line) if here or there else b"") + b"\n"
        except (PeerError, StoreError) as failure:
            error = one_line(failure)
        proven = differences.proven and error is None
        end = DiffEnd(
            peer=name,
            only_here=differences.only_here,
            only_there=differences.only_there,
            proven=proven,
            reason=None if proven else error or differences.reason,
        )
        yield msgspec.json.encode(DiffLine(end=end)) + b"\n"
