"""Small bodies, read whole."""

from __future__ import annotations

from quart import request

from mesh.errors import InputError
from mesh.transport.pace import Paced
from mesh.wire.messages import MAX_MESSAGE


async def whole_body(limit: int, what: str) -> bytes:
    """The body of the request at hand, of at most `limit` bytes.

    `what` names it in the error, an InputError, which is raised at the first byte too many: before
    anything is read where the length is said, and while it is read otherwise.
    """
    pieces: list[bytes] = []
    size = request.content_length or 0
    if size <= limit:
        size = 0
        async for chunk in Paced(request.body, what):
            size += len(chunk)
            if size > limit:
                break
            pieces.append(chunk)
    if size > limit:
        raise InputError(f"{what} of more than {limit} bytes")
    return b"".join(pieces)


async def message() -> bytes:
    """The body of the request at hand, which is one message between nodes."""
    return await whole_body(MAX_MESSAGE, "a message")
