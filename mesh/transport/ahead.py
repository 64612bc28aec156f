"""Reading ahead: the next bytes come while those before them are hashed and written on a thread."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import BrokenResourceError, EndOfStream, create_memory_object_stream, create_task_group
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from mesh.errors import MeshError
from mesh.racing import Ungrouped

# Chunks that wait, of 256 KiB each where they come from a socket: as much as is hashed and written
# at a time.
_CHUNKS = 4


@asynccontextmanager
async def ahead(chunks: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """The same chunks, of which up to four are there before they are asked for.

    An error of `chunks` is raised behind the last chunk that came before it.
    """
    incoming, waiting = create_memory_object_stream[bytes](_CHUNKS)
    taking = _Ahead(waiting)
    with Ungrouped():
        async with create_task_group() as group, waiting:
            group.start_soon(taking.fill, chunks, incoming)
            yield taking
            group.cancel_scope.cancel()


class _Ahead:
    def __init__(self, waiting: MemoryObjectReceiveStream[bytes]) -> None:
        self._waiting = waiting
        self._failure: MeshError | None = None

    async def fill(
        self, chunks: AsyncIterator[bytes], incoming: MemoryObjectSendStream[bytes]
    ) -> None:
        async with incoming:
            try:
                async for chunk in chunks:
                    await incoming.send(chunk)
            except MeshError as error:
                self._failure = error
            except BrokenResourceError:
                pass  # nobody takes them any more

    def __aiter__(self) -> _Ahead:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._waiting.receive()
        except EndOfStream:
            if self._failure is not None:
                raise self._failure from None
            raise StopAsyncIteration from None
