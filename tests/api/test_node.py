"""A node inside of a program: what it takes from its process, its end, and its mounting."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import mesh
from mesh.core.digest import digest_of
from tests.api.loops import on_both_loops
from tests.processes import free_places


def config(path: Path, **settings: object) -> mesh.Config:
    values = {"data": str(path), "listen": "127.0.0.1:0", "interval_seconds": 0.2, **settings}
    return mesh.Config(**values)  # type: ignore[arg-type]


@on_both_loops
async def test_two_nodes_and_a_client_in_one_program(tmp_path: Path) -> None:
    here, there = free_places(2)
    one = mesh.Node(config(tmp_path / "one", listen=here, peers=[there], name="one"))
    other = mesh.Node(config(tmp_path / "other", listen=there, peers=[here]))
    async with one, other:
        assert one.url == f"http://{here}"
        digest = await one.put(b"from one to the other")
        assert (await one.wait(timeout=30)).level
        assert await other.has([digest]) == {digest}
        (stats,) = await one.sync()
        assert stats.level
        async with mesh.Client(one.url) as client:
            assert await client.get(digest) == b"from one to the other"
            assert (await client.status()).name == one.name == "one"
            assert (await client.status()).node_id == one.node_id
            (stats,) = await client.sync()
            assert stats.level
            assert (await client.wait(timeout=30, whole=True)).level


@on_both_loops
async def test_the_process_stays_as_it_was(tmp_path: Path) -> None:
    def state() -> list[object]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        loggers = [logging.getLogger(name) for name in (None, "mesh", "mesh.http")]
        return [
            *(signal.getsignal(number) for number in numbers),
            sys.getswitchinterval(),
            gc.get_threshold(),
            gc.get_freeze_count(),
            *((logger.level, tuple(logger.handlers)) for logger in loggers),
        ]

    before = state()
    async with mesh.Node(config(tmp_path / "data")) as node:
        await node.put(b"x")
        assert state() == before
    assert state() == before


@on_both_loops
async def test_a_node_that_ended_leaves_its_directory_to_the_next(tmp_path: Path) -> None:
    threads = threading.active_count()
    for serve in (False, True):
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with mesh.Node(config(tmp_path / "data"), serve=serve) as node:
                await node.put(b"%d, and a failure" % serve)
                raise ZeroDivisionError
        with anyio.CancelScope() as scope:
            async with mesh.Node(config(tmp_path / "data"), serve=serve) as node:
                await node.put(b"%d, and cancelled" % serve)
                scope.cancel()
                await anyio.sleep_forever()
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with mesh.Node(config(tmp_path / "data"), serve=serve):
                raise AssertionError("it was cancelled before it had begun")
    async with mesh.Node(config(tmp_path / "data")) as node:
        with pytest.raises(mesh.ConfigError, match="belongs to a running node"):
            async with mesh.Node(config(tmp_path / "data")):
                pass
        assert (await node.status()).blobs == 4
        with pytest.raises(ExceptionGroup) as groups:
            async with mesh.Node(config(tmp_path / "another")):
                raise ExceptionGroup("of the program itself", [ValueError()])
        assert groups.group_contains(ValueError, depth=1)
    assert threading.active_count() < threads + 40


@on_both_loops
async def test_what_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(mesh.ConfigError, match="without a key"):
        mesh.Node(mesh.Config(data=str(tmp_path / "data"), listen="0.0.0.0:0"))
    async with mesh.Node(config(tmp_path / "data")) as node:
        place = node.url.partition("://")[2]
        with pytest.raises(mesh.ConfigError, match="in use"):
            async with mesh.Node(config(tmp_path / "other", listen=place)):
                pass
        with pytest.raises(mesh.InputError, match="runs once"):
            await node.__aenter__()
    with pytest.raises(mesh.InputError, match="async with"):
        await node.put(b"too late")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "segments").write_text("a file where a directory has to be")
    with pytest.raises((mesh.StoreError, OSError)):
        async with mesh.Node(config(tmp_path / "broken")):
            pass


@on_both_loops
async def test_a_node_is_mounted_in_an_application_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a-key-of-ours\n")
    node = mesh.Node(
        mesh.Config(data=str(tmp_path / "data"), key_file=str(tmp_path / "key")), serve=False
    )

    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{(await node.status()).blobs} blobs")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with node:
            yield

    routes = [Route("/hello", hello), Mount("/blobs", app=node.asgi_app)]
    app = Starlette(routes=routes, lifespan=lifespan)
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    headers = {"authorization": "Bearer a-key-of-ours"}
    data = bytes(6_000_000)
    path = f"/blobs/v1/blobs/{digest_of(data).hex()}"
    async with httpx.AsyncClient(transport=transport, base_url="http://an.app") as client:
        early = await client.get("/blobs/v1/status", headers=headers)
        assert (early.status_code, early.json()) == (503, {"error": "the node does not run"})
        async with lifespan(app):
            assert (await client.get("/blobs/v1/status")).status_code == 401
            stored = await client.put(path, content=data, headers=headers)
            assert (stored.status_code, stored.json()["size"]) == (201, len(data))
            assert (await client.get("/hello")).text == "1 blobs"
            got = await client.get(path, headers={**headers, "range": "bytes=10-19"})
            assert (got.status_code, got.content) == (206, data[10:20])
        assert (await client.get(path, headers=headers)).status_code == 503


@on_both_loops
async def test_a_mounted_node_takes_no_more_of_a_body_than_it_can_store(tmp_path: Path) -> None:
    asked = [0] * 13
    chunk = bytes(64 * 1024)
    going_on = anyio.Event()

    async with mesh.Node(config(tmp_path / "data"), serve=False) as node:
        answers: list[int] = []

        async def upload(number: int) -> None:
            """Twelve take all places and stand still; a thirteenth would bring without end."""

            async def receive() -> dict[str, object]:
                await anyio.lowlevel.checkpoint()
                if asked[number] >= (16 * 2**20 if number == 12 else 4 * len(chunk)):
                    await going_on.wait()
                asked[number] += len(chunk)
                more = asked[number] < 16 * 2**20 and not going_on.is_set()
                return {"type": "http.request", "body": chunk, "more_body": more}

            async def send(message: dict[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    answers.append(message["status"])

            scope = {
                "type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/blobs",
                "raw_path": b"/v1/blobs", "scheme": "http", "query_string": b"", "root_path": "",
                "headers": [(b"host", b"127.0.0.1")], "server": None, "client": None,
            }  # fmt: skip
            await node.asgi_app(scope, receive, send)

        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(upload, number)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(upload, 12)
            await anyio.wait_all_tasks_blocked()
            assert asked[12] < 2**20
            going_on.set()
        assert len(answers) == 13
        assert set(answers) <= {200, 201}


@on_both_loops
async def test_leaving_a_node_ends_what_other_tasks_wait_for(tmp_path: Path) -> None:
    node = mesh.Node(config(tmp_path / "node", peers=free_places(1)), serve=False)
    ended: list[str] = []
    begun = [anyio.Event(), anyio.Event()]

    async def pausing() -> AsyncIterator[bytes]:
        yield b"a part"
        begun[0].set()
        await anyio.sleep_forever()

    async def ends(work: Callable[[], Awaitable[object]], last: anyio.Event | None) -> None:
        if last is not None:
            last.set()
        with pytest.raises(mesh.StoreError, match="stopping"):
            await work()
        ended.append("ended")

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group, node:
            group.start_soon(ends, lambda: node.put(pausing()), None)
            group.start_soon(ends, node.wait, begun[1])
            for event in begun:
                await event.wait()
    assert ended == ["ended", "ended"]
