"""Answers in JSON, errors included; and bodies that are messages."""

from __future__ import annotations

from typing import Any

import msgspec
from quart import Response

from mesh.errors import InputError

# After these nothing more is read from the connection: the client still sends a body that nobody
# will take, and what stands behind it must not be taken for a request.
_LAST = frozenset({413, 415})


def problem(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """An error as JSON."""
    if status in _LAST:
        headers = {**(headers or {}), "Connection": "close"}
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
