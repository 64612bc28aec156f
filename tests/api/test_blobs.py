"""What `mesh.Blobs` promises, of a client and of a node in this process, on both loops."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

import mesh
from mesh.core.digest import digest_of
from tests.api.loops import on_both_loops
from tests.processes import NodeProcess, nodes

LIMIT = 8 * 2**20
SIZES = [0, 1, 200_000, 4 * 2**20 - 1, 5_000_001]


def named(data: bytes) -> str:
    return digest_of(data).hex()


def data_of(size: int) -> bytes:
    return (b"%d bytes " % size * (size // 8 + 1))[:size]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with nodes() as start:
        yield start(tmp_path_factory.mktemp("api") / "data", "--max-blob", str(LIMIT))


@contextlib.asynccontextmanager
async def each(kind: str, served: NodeProcess, path: Path) -> AsyncIterator[mesh.Blobs]:
    """A client of a running node, or a node of our own without a server."""
    if kind == "client":
        async with mesh.Client(served.url) as client:
            yield client
        return
    config = mesh.Config(data=str(path / "node"), max_blob_bytes=LIMIT)
    async with mesh.Node(config, serve=False) as node:
        yield node


KINDS = pytest.mark.parametrize("kind", ["client", "node"])


@KINDS
@on_both_loops
async def test_what_is_put_is_got(kind: str, served: NodeProcess, tmp_path: Path) -> None:
    async def made(data: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(data), 70_000):
            await anyio.lowlevel.checkpoint()
            yield data[at : at + 70_000]

    async with each(kind, served, tmp_path) as blobs:
        for number, size in enumerate(SIZES):
            data = data_of(size)
            file = tmp_path / f"{size}"
            file.write_bytes(data)
            sources: list[Any] = [data, file, made(data), bytearray(data)]
            for source in [sources[number % 4], sources[(number + 1) % 4]]:
                assert await blobs.put(source) == named(data)
            assert await blobs.get(named(data)) == data
            assert await blobs.size(named(data)) == size


@KINDS
@on_both_loops
async def test_many_at_once(kind: str, served: NodeProcess, tmp_path: Path) -> None:
    async with each(kind, served, tmp_path) as blobs:
        data = [b"one of many, %d" % n for n in range(1100)]
        data[3:3] = [bytes(4 * 2**20 + n) for n in range(2)]
        data += [data[7], b"", b"x" * (4 * 2**20 - 1)] * 2
        digests = await blobs.put_all(iter(data))
        assert digests == [named(each) for each in data]
        assert [pair async for pair in blobs.get_all(digests)] == list(
            zip(digests, data, strict=True)
        )
        assert await blobs.put_all([]) == []
        absent = named(b"nobody has this")
        got: list[str] = []
        with pytest.raises(mesh.NotFound, match=absent):  # noqa: PT012 - the loop is the call
            async for digest, _ in blobs.get_all([digests[0], absent, digests[1]]):
                got.append(digest)
        assert got == digests[:1]
        with pytest.raises(mesh.InputError, match="str"):
            await blobs.put_all(["text"])  # type: ignore[list-item]
        with pytest.raises(mesh.TooMuch):
            await blobs.put_all([b"small", bytes(LIMIT + 1)])


@KINDS
@on_both_loops
async def test_a_range_is_a_slice(kind: str, served: NodeProcess, tmp_path: Path) -> None:
    async with each(kind, served, tmp_path) as blobs:
        for size, inner in ((0, 0), (10, 7), (4 * 2**20 + 5, 2**20)):
            data = data_of(size)
            digest = await blobs.put(data)
            ends = [0, inner, size - 1, size, size + 10**6]
            for start in {end for end in ends if end >= 0}:
                for stop in [None, *(end for end in ends if end >= start)]:
                    got = await blobs.get(digest, range=(start, stop))
                    assert got == data[start:stop], (size, start, stop)
        assert await blobs.get(digest, range=(10**99, None)) == b""
        for wrong in ((-1, 3), (3, 2), (1.5, 3), ("1", None), (1,), 5):
            with pytest.raises(mesh.InputError, match="range"):
                await blobs.get(digest, range=wrong)  # type: ignore[arg-type]


@KINDS
@on_both_loops
async def test_a_stream_says_what_it_is(kind: str, served: NodeProcess, tmp_path: Path) -> None:
    data = data_of(SIZES[-1])
    async with each(kind, served, tmp_path) as blobs:
        digest = await blobs.put(data)
        async with blobs.open(digest, range=(5, None)) as stream:
            assert (stream.digest, stream.size) == (digest, len(data))
            assert (stream.start, stream.stop) == (5, len(data))
            first = await anext(stream)
            assert first + await stream.read() == data[5:]
        async with blobs.open(digest) as stream:
            await anext(stream)  # and leave the rest
        assert await blobs.get(digest) == data


@KINDS
@on_both_loops
async def test_a_listing_and_has(kind: str, served: NodeProcess, tmp_path: Path) -> None:
    async with each(kind, served, tmp_path) as blobs:
        here = {await blobs.put(b"listed %d" % n): len(b"listed %d" % n) for n in range(40)}
        found = {blob.digest: blob.size async for blob in blobs.list()}
        assert found.items() >= here.items()
        assert sorted(found) == list(found)
        one = min(here)
        assert [blob.digest async for blob in blobs.list(one[:40])] == [one]
        absent = named(b"nobody has this")
        assert await blobs.has([*here, absent]) == set(here)
        assert await blobs.has([]) == set()
        with pytest.raises(mesh.InputError, match="not a digest"):
            await blobs.has(["xyz"])


@KINDS
@on_both_loops
async def test_what_goes_wrong_is_told_apart(
    kind: str, served: NodeProcess, tmp_path: Path
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"some bytes"
        raise ZeroDivisionError

    async with each(kind, served, tmp_path) as blobs:
        absent = named(b"nobody has this")
        for failing in (blobs.get(absent), blobs.size(absent), blobs.get(absent, range=(1, 2))):
            with pytest.raises(mesh.NotFound, match=absent):
                await failing
        with pytest.raises(mesh.TooMuch, match=str(LIMIT)):
            await blobs.put(bytes(LIMIT + 1))
        with pytest.raises(mesh.InputError, match="str"):
            await blobs.put("text")  # type: ignore[arg-type]
        with pytest.raises(mesh.InputError, match="no-such"):
            await blobs.put(tmp_path / "no-such")
        with pytest.raises(ZeroDivisionError):
            await blobs.put(broken())
        with pytest.raises(mesh.InputError, match="no peer"):
            await blobs.sync("nobody")
        assert await blobs.put(b"and it goes on") == named(b"and it goes on")


@KINDS
@on_both_loops
async def test_a_node_without_peers_says_so(kind: str, served: NodeProcess, tmp_path: Path) -> None:
    async with each(kind, served, tmp_path) as blobs:
        status = await blobs.status()
        assert (status.state, status.peers) == ("ready", [])
        assert not (await blobs.wait(timeout=5)).level
        assert list(await blobs.sync()) == []


@KINDS
@on_both_loops
async def test_a_file_that_changes_is_not_put(
    kind: str, served: NodeProcess, tmp_path: Path
) -> None:
    file = tmp_path / "growing"
    file.write_bytes(data_of(3 * 2**20))

    async def write() -> None:
        with file.open("ab") as out:
            out.write(b"more")

    async with each(kind, served, tmp_path) as blobs, anyio.create_task_group() as group:
        # The writer gets its turn at the first await of the put, which is after the open.
        group.start_soon(write)
        with pytest.raises(mesh.InputError, match="changed while it was read"):
            await blobs.put(file)


@on_both_loops
async def test_a_whole_blob_that_is_another_one_is_corrupt() -> None:
    async def wrong() -> AsyncIterator[bytes]:
        yield b"these are "
        yield b"other bytes"

    name = digest_of(b"twenty-one good bytes")
    with pytest.raises(mesh.Corrupt, match=name.hex()):
        await mesh.Stream(name, 21, 0, 21, wrong()).read()
    # A part has no name by which it could be checked.
    assert await mesh.Stream(name, 90, 5, 26, wrong()).read() == b"these are other bytes"


@KINDS
@on_both_loops
async def test_a_part_is_never_taken_for_the_whole(
    kind: str, served: NodeProcess, tmp_path: Path
) -> None:
    async with each(kind, served, tmp_path) as blobs:
        digest = await blobs.put(data_of(SIZES[-1]))
        for part in (None, (1, None)):
            async with blobs.open(digest, range=part) as stream:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await stream.read()
                assert scope.cancelled_caught
                with pytest.raises(mesh.InputError, match="cancelled, or failed; open it again"):
                    await stream.read()
            async with blobs.open(digest, range=part) as stream:
                await anext(stream)
            with pytest.raises(mesh.InputError, match="is left; open it again"):
                await stream.read()


@KINDS
@on_both_loops
async def test_what_the_caller_raises_comes_out_as_it_is(
    kind: str, served: NodeProcess, tmp_path: Path
) -> None:
    mine = ExceptionGroup("of the caller", [ValueError()])
    declined = mesh.Refused("by another node", None, 404)

    async def broken(error: Exception) -> AsyncIterator[bytes]:
        yield b"some bytes"
        raise error

    async def wrong() -> AsyncIterator[Any]:
        yield b"some bytes"
        yield None

    async with each(kind, served, tmp_path) as blobs:
        digest = await blobs.put(b"to be opened")
        for error in (mine, declined):
            with pytest.raises(type(error)) as raised:
                async with blobs.open(digest):
                    raise error
            assert raised.value is error
            with pytest.raises(type(error)) as raised:
                await blobs.put(broken(error))
            assert raised.value is error
        with pytest.raises(mesh.InputError, match="NoneType"):
            await blobs.put(wrong())


@KINDS
@on_both_loops
async def test_no_time_and_no_file(kind: str, served: NodeProcess, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with each(kind, served, tmp_path) as blobs:
        for never in (-1, float("nan"), "3"):
            with pytest.raises(mesh.InputError, match="expected seconds"):
                await blobs.wait(never)  # type: ignore[arg-type]
        assert not (await blobs.wait(float("inf"))).level
        with pytest.raises(mesh.InputError, match="is a pipe"):
            await blobs.put(tmp_path / "pipe")


@on_both_loops
async def test_an_answer_without_the_range_is_not_taken_for_it() -> None:
    async def whole(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as group, mesh.Client(f"127.0.0.1:{port}") as client:
        group.start_soon(listener.serve, whole)
        assert await client.get(named(b"hello"), range=(0, 99)) == b"hello"
        for part in ((1, None), (0, 4), (1, 2), (9, None)):
            with pytest.raises(mesh.PeerError, match="another range"):
                await client.get(named(b"hello"), range=part)
        group.cancel_scope.cancel()
    await listener.aclose()
