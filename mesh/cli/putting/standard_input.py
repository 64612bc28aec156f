"""`put -`: one blob from standard input."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mesh.cli.putting.printing import Printer
from mesh.cli.putting.watching import Watcher
from mesh.cli.streams import Input
from mesh.core.digest import Digest, new_hasher
from mesh.transport.client import NodeClient, checked

STDIN = "-"

# Bytes that are read at a time.
_PIECE = 512 * 1024


async def put_standard_input(client: NodeClient, watcher: Watcher, printer: Printer) -> None:
    """One blob from standard input, however long whoever writes it pauses."""
    hasher = new_hasher()
    size = 0

    async def hashed() -> AsyncIterator[bytes]:
        nonlocal size
        async for chunk in Input(_PIECE):
            hasher.update(chunk)
            watcher.hashed(len(chunk))
            yield chunk
            watcher.sent(len(chunk))
            size += len(chunk)

    stored = await client.put_stream(hashed(), None)
    digest = Digest(hasher.digest())
    checked(stored, digest)
    printer.digests([(digest, STDIN.encode(), size)])
    watcher.done(1, size)
