"""A peer whose traffic is measured: what a round, an announcement or a read moves counts alike."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

import anyio

from mesh.core.digest import Digest
from mesh.core.load import Load
from mesh.core.meter import Meter
from mesh.core.tree import Tree
from mesh.transport.base import Comparison, Meeting, Offered, Pushed, Replica
from mesh.wire.frames import Frame
from mesh.wire.messages import Hello, PartsReply, PartsRequest, StandingReply, StandingRequest


class Metered:
    """See transport.base.Replica. `here` measures what comes, `there` what is sent."""

    def __init__(self, replica: Replica) -> None:
        self.here = Meter()
        self.there = Meter()
        self._replica = replica

    @property
    def load(self) -> Load:
        """See Replica."""
        return self._replica.load

    async def meet(self, hello: Hello) -> Meeting:
        """See Replica."""
        return await self._replica.meet(hello)

    def compare(self, ours: Callable[[], Tree], meeting: Meeting) -> Comparison:
        """See Replica."""
        return self._replica.compare(ours, meeting)

    @asynccontextmanager
    async def fetch(self, digests: Sequence[Digest]) -> AsyncIterator[AsyncIterator[list[Frame]]]:
        """See Replica."""
        async with (
            self._replica.fetch(digests) as groups,
            aclosing(self._frames(groups)) as measured,
        ):
            yield measured

    async def _frames(
        self, groups: AsyncIterator[list[Frame]]
    ) -> AsyncGenerator[list[Frame], None]:
        async for frames in groups:
            self.here.moved(sum(len(frame.data) for frame in frames), anyio.current_time())
            yield frames

    @asynccontextmanager
    async def fetch_large(self, digest: Digest, start: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """See Replica."""
        async with (
            self._replica.fetch_large(digest, start) as chunks,
            aclosing(_measured(self.here, chunks, digest, start)) as measured,
        ):
            yield measured

    async def parts(self, request: PartsRequest) -> PartsReply | None:
        """See Replica."""
        return await self._replica.parts(request)

    @asynccontextmanager
    async def fetch_part(
        self, digest: Digest, start: int, stop: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See Replica."""
        async with (
            self._replica.fetch_part(digest, start, stop) as chunks,
            aclosing(_measured(self.here, chunks)) as measured,
        ):
            yield measured

    def brought(self, digest: Digest, size: int | None) -> None:
        """See Replica."""
        if size is None:
            self.here.ended(digest)
        else:
            self.here.part(digest, size)
        self._replica.brought(digest, size)

    async def offer(self, hello: Hello, digests: Sequence[Digest], *, more: bool) -> Offered:
        """See Replica."""
        return await self._replica.offer(hello, digests, more=more)

    async def push(self, frames: AsyncIterator[bytes]) -> Pushed:
        """See Replica."""
        async with aclosing(_measured(self.there, frames)) as measured:
            return await self._replica.push(measured)

    async def push_large(
        self, digest: Digest, size: int, data: AsyncIterator[bytes], start: int
    ) -> Pushed:
        """See Replica."""
        async with aclosing(_measured(self.there, data, digest, start)) as measured:
            return await self._replica.push_large(digest, size, measured, start)

    async def standing(self, request: StandingRequest) -> StandingReply | None:
        """See Replica."""
        return await self._replica.standing(request)

    async def holding(self, hello: Hello, digests: Sequence[Digest]) -> set[Digest] | None:
        """See Replica."""
        return await self._replica.holding(hello, digests)

    async def close(self) -> None:
        """See Replica."""
        await self._replica.close()


async def _measured(
    meter: Meter, chunks: AsyncIterator[bytes], digest: Digest | None = None, start: int = 0
) -> AsyncGenerator[bytes, None]:
    """The same chunks; of one large blob, which begins at `start`, or of many small ones."""
    try:
        async for chunk in chunks:
            meter.moved(len(chunk), anyio.current_time())
            if digest is not None:
                start += len(chunk)
                meter.part(digest, start)
            yield chunk
    finally:
        if digest is not None:
            meter.ended(digest)
