"""/v1/snapshots, /v1/blobs/DIGEST/place, /v1/holders: what is here and elsewhere, and where."""

from __future__ import annotations

from functools import partial

import anyio
from msgspec import UNSET
from quart import Quart, Response, request

from mesh.core.digest import Digest, parse_digest
from mesh.core.snapshot import MAX_BYTES, is_time
from mesh.core.spelling import spelled, unspelled
from mesh.dates import rfc3339
from mesh.errors import InputError
from mesh.node import Node
from mesh.server.answers import json, page_limit, problem
from mesh.server.lacking import asked_digests
from mesh.server.polls import unless_stopping
from mesh.status import PlaceAnswer, SnapshotAnswer, SnapshotsAnswer
from mesh.store.base import ListedSnapshot, SnapshotFilter

_PAGE = 100  # snapshots of a listing, unless asked for otherwise
_MOST = 1000  # of up to 4 kB each, and twice that as JSON with escapes


def add_routes(app: Quart, node: Node, stop: anyio.Event) -> None:
    """All of them; `stop` is set when the node is to stop."""

    async def snapshots() -> Response:
        wanted = _filter()
        before = _cursor(request.args.get("after", ""))
        limit = page_limit(request.args.get("limit", ""), _PAGE, _MOST)
        found = await node.keeper.door.snapshots(wanted, before, limit)
        last = found[-1] if len(found) == limit else None
        after = f"{last.snapshot.time},{last.digest.hex()}" if last is not None else None
        return json(200, SnapshotsAnswer(list(map(_told, found)), after))

    async def place(text: str) -> Response:
        digest = parse_digest(text)
        found = await node.keeper.door.place(digest)
        if found is None:
            return problem(404, f"blob {text} is not here")
        answer = PlaceAnswer(
            digest=text,
            size=found.size,
            file=found.file,
            offset=found.offset,
            pieces=found.pieces,
            came=rfc3339(found.came) if found.came is not None else None,
        )
        return json(200, answer)

    async def holders() -> Response:
        digests = await asked_digests()
        # It waits for the tree while that is being built.
        return json(200, await unless_stopping(stop, partial(node.holders.of, digests)))

    app.add_url_rule("/v1/snapshots", "snapshots", snapshots, methods=["GET"])
    app.add_url_rule("/v1/blobs/<text>/place", "place", place, methods=["GET"])
    app.add_url_rule("/v1/holders", "holders", holders, methods=["POST"])


def _filter() -> SnapshotFilter:
    """Which snapshots the request at hand is about; "" is no value of any of these fields."""
    values = {key: request.args.get(key) for key in ("host", "path", "path_hex", "tag")}
    for key, value in values.items():
        if value is not None and (not value or len(value) > 2 * MAX_BYTES):
            raise InputError(f"{key} is empty or too long")
    path = None
    if values["path"] is not None or values["path_hex"] is not None:
        try:
            path = unspelled("path", values["path"] or UNSET, values["path_hex"] or UNSET)
        except ValueError as error:
            raise InputError(str(error)) from None
    return SnapshotFilter(host=values["host"], path=path, tag=values["tag"])


def _cursor(text: str) -> tuple[str, Digest] | None:
    if not text:
        return None
    time, comma, digest = text.partition(",")
    if not comma or not is_time(time):
        raise InputError(f"after is {text[:100]!a}; expected the `next` of the page before")
    return time, parse_digest(digest)


def _told(listed: ListedSnapshot) -> SnapshotAnswer:
    said = listed.snapshot
    path, path_hex = spelled(said.path)
    return SnapshotAnswer(
        digest=listed.digest.hex(),
        time=said.time,
        host=said.host,
        path=path if isinstance(path, str) else None,
        path_hex=path_hex if isinstance(path_hex, str) else None,
        tag=said.tag,
        files=said.files,
        bytes=said.bytes,
        manifest=said.manifest.hex(),
    )
