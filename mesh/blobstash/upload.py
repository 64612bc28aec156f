"""`POST /api/blobstore/upload`: a multipart body whose parts are named by digest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Protocol, TypeAlias

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from mesh.core.digest import Digest, parse_digest
from mesh.core.limits import LARGE_BLOB
from mesh.errors import InputError
from mesh.store.base import Incoming, Item

# Parts of one upload: all of them are checked before the first is stored, and small ones wait in
# memory for that.
_PARTS = 1000
_HELD_BYTES = 64 * 1024 * 1024

# What is kept of an upload that is no part's data: what stands before the first boundary, a part's
# header, what follows the last boundary. Real clients send some hundred bytes of header, and
# nothing before and behind. werkzeug's decoder keeps all of it, without a limit of its own.
_BETWEEN = 16 * 1024

# RFC 2046, 5.1.1. The decoder keeps as much of a part's data as might be the next boundary's start.
_BOUNDARY = 70

# Blanks that may stand behind a boundary on its line: nobody sends any, some are allowed.
_PADDING = 64


class WrongName(InputError):
    """A part's bytes are another blob than its name says."""


class TooLong(InputError):
    """More parts, or larger ones, than one upload may have."""


class Commit(Protocol):
    """Stores items durably."""

    async def __call__(self, items: list[Item]) -> object:
        """All of them, or an error."""


Opens: TypeAlias = Callable[[Digest], AbstractAsyncContextManager[Incoming]]
"""Begins to take in a blob, given the name that it should have."""


async def take(
    opens: Opens, chunks: AsyncIterator[bytes], boundary: bytes, limit: int, commit: Commit
) -> None:
    """Store every part, or none of them. `limit`: bytes a blob.

    Raises WrongName, TooLong, and InputError for what is no multipart body.
    """
    if len(boundary) > _BOUNDARY:
        raise InputError(f"a boundary of {len(boundary)} bytes; it may have {_BOUNDARY}")
    decoder = MultipartDecoder(boundary, max_parts=_PARTS)
    async with AsyncExitStack() as stack:
        parts = _Parts(opens, stack, limit)
        try:
            rest = b""
            async for chunk in chunks:
                chunk = rest + chunk
                before = bytes(decoder.buffer[-_BOUNDARY - _PADDING :])
                cut = _before_split_boundary(before, chunk, boundary)
                rest = chunk[cut:]
                decoder.receive_data(chunk[:cut])
                await parts.drain(decoder)
                if len(decoder.buffer) > _BETWEEN:
                    raise TooLong(f"more than {_BETWEEN} bytes that belong to no part's data")
            decoder.receive_data(rest)
            decoder.receive_data(None)
            await parts.drain(decoder)
        except RequestEntityTooLarge:
            raise TooLong(f"more than {_PARTS} parts; use several uploads") from None
        except ValueError as error:
            raise InputError(f"not a multipart body: {error}") from error
        if not parts.ended:
            raise InputError("the multipart body was cut")
        await commit(parts.items)


def _before_split_boundary(before: bytes, chunk: bytes, boundary: bytes) -> int:
    """How many bytes of `chunk`, which follows on `before`, may be decoded before more has come.

    werkzeug 3.1 takes the CR before a boundary for data when what it has ends behind the boundary
    and before the `--`, or the end of the line, that belongs to it. So that much is held back.
    """
    delimiter, data = b"--" + boundary, before + chunk[-_BOUNDARY - _PADDING :]
    at = data.rfind(delimiter, max(0, len(data) - len(delimiter) - _PADDING))
    if at < 0 or data[at + len(delimiter) :].strip(b" \t") not in (b"", b"-"):
        return len(chunk)
    return max(0, len(chunk) - (len(data) - at + len(b"\r\n")))


class _Parts:
    """The parts of one upload, as they arrive."""

    def __init__(self, opens: Opens, stack: AsyncExitStack, limit: int) -> None:
        self.items: list[Item] = []
        self.ended = False
        self._opens = opens
        self._stack = stack
        self._limit = limit
        self._held = 0
        self._name: Digest | None = None
        self._incoming: Incoming | None = None

    async def drain(self, decoder: MultipartDecoder) -> None:
        """All events that the decoder has now."""
        while True:
            event = decoder.next_event()
            if isinstance(event, NeedData):
                return
            if isinstance(event, Epilogue):
                self.ended = True
                return
            if isinstance(event, Field | File):
                self._name = parse_digest(event.name or "")
                self._incoming = await self._stack.enter_async_context(self._opens(self._name))
            elif isinstance(event, Data) and self._incoming is not None:
                await self._data(self._incoming, event)

    async def _data(self, incoming: Incoming, event: Data) -> None:
        await incoming.write(bytes(event.data))
        if incoming.size > self._limit:
            raise TooLong(f"a part of more than {self._limit} bytes (--max-blob)")
        if incoming.size + self._held > _HELD_BYTES and incoming.size < LARGE_BLOB:
            raise TooLong(f"small parts of more than {_HELD_BYTES} bytes; use several uploads")
        if event.more_data:
            return
        item = await incoming.finish()
        if item.digest != self._name:
            raise WrongName(f"a part's bytes are blob {item.digest.hex()}, not the one named")
        if item.size < LARGE_BLOB:
            self._held += item.size
        self.items.append(item)
        self._incoming = None
