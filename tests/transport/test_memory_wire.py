from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mesh.errors import Unreachable
from mesh.node import Node
from mesh.transport.base import Wire
from mesh.transport.memory import MemoryNetwork, MemoryWire
from mesh.wire.messages import encode
from tests.contracts.wire_contract import (
    PUSH,
    STRANGER,
    WireContract,
    batch,
    blobs,
    content,
    framed,
    names,
    pieces,
    upload,
)

HERE, THERE = "http://here:7280", "http://there:7280"


class TestMemoryWire(WireContract):
    @asynccontextmanager
    async def reach(self, node: Node, backend: str) -> AsyncIterator[Wire]:
        network = MemoryNetwork()
        network.attach(THERE, node.service)
        yield network.wire(HERE, THERE)

    @asynccontextmanager
    async def nowhere(self) -> AsyncIterator[Wire]:
        yield MemoryNetwork().wire(HERE, THERE)

    async def test_a_link_that_is_cut_breaks_streams_under_way(
        self, anyio_backend_name: str
    ) -> None:
        data = bytes(5_000_000)
        async with self.meeting(anyio_backend_name, data) as (node, _):
            network = MemoryNetwork()
            network.attach(THERE, node.service)
            wire = network.wire(HERE, THERE)
            async with wire.download(f"blob/{names([data])[0].hex()}/0", b"") as chunks:
                await anext(chunks)
                network.cut(HERE, THERE)
                with pytest.raises(Unreachable):
                    await anext(chunks)
            with pytest.raises(Unreachable):
                await wire.call("root", encode(STRANGER))
            network.heal(HERE, THERE)
            assert len(await wire.call("root", encode(STRANGER))) > 50

    async def test_a_cut_has_a_direction(self, anyio_backend_name: str) -> None:
        async with self.meeting(anyio_backend_name) as (node, _):
            network = MemoryNetwork()
            network.attach(THERE, node.service)
            network.cut(THERE, HERE)
            assert len(await network.wire(HERE, THERE).call("root", encode(STRANGER))) > 50

    async def test_a_node_that_is_taken_away_is_unreachable(self, anyio_backend_name: str) -> None:
        async with self.meeting(anyio_backend_name) as (node, _):
            network = MemoryNetwork()
            network.attach(THERE, node.service)
            wire = network.wire(HERE, THERE)
            network.detach(THERE)
            with pytest.raises(Unreachable):
                await wire.call("root", encode(STRANGER))

    async def test_traffic_is_counted_byte_for_byte(self, anyio_backend_name: str) -> None:
        some = blobs(0, 50)
        async with self.meeting(anyio_backend_name, *some) as (_, wire):
            assert isinstance(wire, MemoryWire)
            answer = await wire.call("root", encode(STRANGER))
            traffic = wire.traffic
            assert (traffic.up, traffic.down) == (len(encode(STRANGER)), len(answer))
            await batch(wire, names(some))
            assert traffic.down == len(answer) + len(framed(*some))
            up = traffic.up
            await upload(wire, PUSH, pieces(framed(b"one"), b""))
            assert traffic.up - up == len(framed(b"one"))
            assert traffic.requests == ["root", "batch", PUSH]
            await content(wire, f"blob/{names(some)[0].hex()}/3")
