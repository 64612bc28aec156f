"""POST /v1/lacking: which of many blobs are not here, so that a client sends no others."""

from __future__ import annotations

from functools import partial

import anyio
import msgspec
from quart import Quart, Response

from mesh.core.digest import DIGEST_SIZE, Digest, parse_digest, split_digests
from mesh.core.limits import MOST_ASKED
from mesh.decoding import from_hex, json_of
from mesh.errors import InputError, Undecodable
from mesh.node import Node
from mesh.server.answers import json
from mesh.server.polls import unless_stopping
from mesh.server.whole import whole_body

# A digest with its quotes, comma and a blank, and as much again for somebody's indentation.
_LIMIT = MOST_ASKED * 2 * (2 * DIGEST_SIZE + 4)


class _Asked(msgspec.Struct, frozen=True):
    digests: list[str]


_ASKED = json_of(_Asked)


def add_routes(app: Quart, node: Node, stop: anyio.Event) -> None:
    """The one route; `stop` is set when the node is to stop."""

    async def lacking() -> Response:
        digests = await asked_digests()
        # It waits for the tree while that is being built.
        lacked = await unless_stopping(stop, partial(node.keeper.lacking, digests))
        return json(200, {"lacking": [digest.hex() for digest in lacked]})

    app.add_url_rule("/v1/lacking", "lacking", lacking, methods=["POST"])


async def asked_digests() -> list[Digest]:
    """What the request at hand asks about: the digests in its body; InputError when it is none."""
    return _parsed(await whole_body(_LIMIT, "a question"))


def _parsed(body: bytes) -> list[Digest]:
    try:
        texts = _ASKED.read(body).digests
    except Undecodable as error:
        raise InputError(f'expected {{"digests": [...]}}: {error}') from error
    if len(texts) > MOST_ASKED:
        raise InputError(f"{len(texts)} digests in one question; it may have {MOST_ASKED}")
    # All at once, which takes a hundredth of the time that one by one would.
    if all(len(text) == 2 * DIGEST_SIZE for text in texts):
        try:
            return split_digests(from_hex("".join(texts)))
        except Undecodable:
            pass  # one of them is none: find out which
    return [parse_digest(text) for text in texts]
