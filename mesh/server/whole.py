"""Small bodies, read whole."""

from __future__ import annotations

from quart import request

from mesh.errors import InputError
from mesh.transport.pace import Paced
from mesh.wire.messages import MAX_MESSAGE


class BodyTooLong(InputError):
    """A body has more bytes than such a one may have."""


async def whole_body(limit: int, what: str) -> bytes:
    """The body of the request at hand, of at most `limit` bytes.

    `what` names it in the error, BodyTooLong, which is raised at the first byte too many: before
    anything is read where the length is said, and while it is read otherwise.
    """
    size = request.content_length or 0
    body = bytearray()  # not a list: of a body in chunks of two bytes that is twenty times as much
    if size <= limit:
        async for chunk in Paced(request.body, what):
            body += chunk
            if len(body) > limit:
                break
        size = len(body)
    if size > limit:
        raise BodyTooLong(f"{what} of more than {limit} bytes")
    return bytes(body)


async def message() -> bytes:
    """The body of the request at hand, which is one message between nodes."""
    return await whole_body(MAX_MESSAGE, "a message")
