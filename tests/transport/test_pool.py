"""Connections that uvloop has closed by the time that httpcore asks about them."""

from __future__ import annotations

from typing import Any

import anyio
import httpcore
import pytest

from mesh.transport.repairs.pool import WideBackend


async def _ended() -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener:
        stream = await WideBackend().connect_tcp("127.0.0.1", port)
        await stream.aclose()
        # uvloop lets go of the socket in its next round.
        await anyio.wait_all_tasks_blocked()
        await anyio.lowlevel.checkpoint()
        assert stream.get_extra_info("ssl_object") is None
        assert stream.get_extra_info("is_readable") is True
        with pytest.raises(httpcore.WriteError):
            await stream.write(b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize("uvloop", [True, False])
def test_a_closed_connection_is_one_that_has_ended(uvloop: bool) -> None:
    anyio.run(_ended, backend="asyncio", backend_options={"use_uvloop": uvloop})


class Mistaken(httpcore.AsyncNetworkStream):
    def get_extra_info(self, info: str) -> Any:
        return info.colour  # type: ignore[attr-defined]


class Backend(httpcore.AsyncNetworkBackend):
    async def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        return Mistaken()


def test_a_mistake_is_not_taken_for_one() -> None:
    async def ask() -> None:
        stream = await WideBackend(Backend()).connect_tcp("127.0.0.1", 1)
        with pytest.raises(AttributeError, match="colour"):
            stream.get_extra_info("ssl_object")

    anyio.run(ask)
