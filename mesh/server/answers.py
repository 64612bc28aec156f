"""Answers in JSON, errors included; and bodies that are messages."""

from __future__ import annotations

from typing import Any

import msgspec
from quart import Response, request

from mesh.errors import InputError
from mesh.transport.pace import Paced
from mesh.wire.messages import MAX_MESSAGE


def problem(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """An error as JSON."""
    return json(status, {"error": text}, headers)


def json(status: int, value: Any, headers: dict[str, str] | None = None) -> Response:
    """Any msgspec-encodable value as a JSON answer."""
    body = msgspec.json.encode(value) + b"\n"
    return Response(body, status, headers, content_type="application/json")


def page_limit(text: str, default: int, most: int) -> int:
    """How many rows a page of a listing has; InputError unless `text` is "" or 1 to `most`."""
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or not 1 <= int(text) <= most:
        raise InputError(f"limit is {text[:20]!a}; expected 1 to {most}")
    return int(text)


async def small_body() -> bytes:
    """A body that is a message; InputError when it has more than MAX_MESSAGE bytes."""
    pieces: list[bytes] = []
    size = 0
    async for chunk in Paced(request.body, "a message"):
        size += len(chunk)
        if size > MAX_MESSAGE:
            raise InputError(f"a message of more than {MAX_MESSAGE} bytes")
        pieces.append(chunk)
    return b"".join(pieces)
