"""A multipart body that never becomes a part: it is refused before much of it has been read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing

import pytest

from mesh.blobstash.upload import TooLong, take
from mesh.core.digest import Digest, digest_of
from mesh.errors import InputError
from mesh.store.base import Incoming, Item
from mesh.store.memory import MemoryStore

pytestmark = pytest.mark.trio

LIMIT = 1024 * 1024
DATA = b"a part that is good"
PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s' % (
    digest_of(DATA).hex().encode(),
    DATA,
)
NAMELESS = b'--b\r\nContent-Disposition: form-data; name="'

# What comes first, and what is then repeated without an end.
ENDLESS = {
    "before the first boundary": (b"", b"x"),
    "lines before the first boundary": (b"", b"\r\n"),
    "a boundary that is not finished": (b"--b", b" "),
    "a name": (NAMELESS, b"0"),
    "headers": (NAMELESS + b'0"\r\n', b"X-More: 1\r\n"),
    "headers of the second part": (PART + b"\r\n" + NAMELESS, b"0"),
    "behind the last boundary": (PART + b"\r\n--b--\r\n", b"x"),
    "lines behind the last boundary": (PART + b"\r\n--b--\r\n", b"\r\n"),
}


def opens(_name: Digest) -> AbstractAsyncContextManager[Incoming]:
    """Nothing is here yet."""
    return MemoryStore().incoming()


class Commits:
    """Whom the upload hands its parts to."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    async def __call__(self, items: list[Item]) -> object:
        self.items += items
        return None


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("size", [1, 1000, 65536])
async def test_what_belongs_to_no_part_is_bounded(what: str, size: int) -> None:
    first, again = ENDLESS[what]
    piece = again * (size // len(again) or 1)
    read = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal read
        yield first
        while read < LIMIT:
            read += len(piece)
            yield piece

    commits = Commits()
    async with aclosing(endless()) as chunks:
        with pytest.raises(TooLong):
            await take(opens, chunks, b"b", LIMIT, commits)
    assert read <= 16 * 1024 + len(piece)
    assert not commits.items


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_some_lines_before_between_and_behind_do_no_harm(size: int) -> None:
    padding = b"a line\r\n" * 500
    headed = PART.replace(b"\r\n\r\n", b"\r\n" + b"X-More: 1\r\n" * 500 + b"\r\n")
    body = padding + headed + b"\r\n--b--\r\n" + padding
    pieces = [body[at : at + size] for at in range(0, len(body), size)]

    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    commits = Commits()
    await take(opens, chunks(), b"b", LIMIT, commits)
    assert [item.digest for item in commits.items] == [digest_of(DATA)]


async def test_a_boundary_longer_than_any_may_be_is_refused() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        raise AssertionError("nothing need be read")
        yield b""

    with pytest.raises(InputError):
        await take(opens, chunks(), b"b" * 71, LIMIT, Commits())
