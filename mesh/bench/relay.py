"""A TCP relay that delays what the client sends: a link with latency, on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio import create_memory_object_stream, create_task_group
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketAttribute, SocketStream

_READ = 256 * 1024
# Pieces under way in one direction: at 256 KiB each this is a link of 64 MiB times 20 a second.
_IN_FLIGHT = 256


class Passed:
    """Bytes that a relay brought from the place it leads to."""

    def __init__(self) -> None:
        """None so far."""
        self.bytes = 0


@asynccontextmanager
async def relay(place: str, delay: float, passed: Passed | None = None) -> AsyncIterator[str]:
    """host:port of a relay to `place`; every byte to it is `delay` seconds late.

    `passed` counts the bytes that come back, those that nobody wanted in the end included.
    """
    host, _, port = place.rpartition(":")

    async def serve(near: SocketStream) -> None:
        with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with (
                near,
                await anyio.connect_tcp(host, int(port)) as far,
                create_task_group() as group,
            ):
                group.start_soon(_pass, near, far, delay)
                await _pass(far, near, 0.0, passed)
                group.cancel_scope.cancel()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    async with listener, create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield f"127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610 - not Django's
        group.cancel_scope.cancel()


async def _pass(
    source: ByteReceiveStream, sink: ByteSendStream, delay: float, passed: Passed | None = None
) -> None:
    """Bytes from one side to the other, `delay` seconds later, in order."""
    late_in, late = create_memory_object_stream[tuple[float, bytes]](_IN_FLIGHT)

    async def read() -> None:
        async with late_in:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    data = await source.receive(_READ)
                    if passed is not None:
                        passed.bytes += len(data)
                    await late_in.send((anyio.current_time() + delay, data))

    async with create_task_group() as group:
        group.start_soon(read)
        async with late:
            # Who has read enough closes its side, while more is on the way.
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                async for due, data in late:
                    await anyio.sleep_until(due)
                    await sink.send(data)
        group.cancel_scope.cancel()
