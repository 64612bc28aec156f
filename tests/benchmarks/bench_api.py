"""Many small blobs and a large one: through mesh.Client, in a node of our own, and by the commands.

python -m tests.benchmarks.bench_api [--count 10000] [--large 1073741824] [--loop trio]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import anyio

import mesh
from tests.processes import NodeProcess, environment, nodes

SIZE = 4096
TASKS = 16  # at a time, where there are several
SINGLE = 500  # blobs that are moved by a call each, which takes some ms


def say(what: str, count: int, size: int, seconds: float) -> None:
    print(
        f"{what:42} {seconds:7.2f} s  {count / seconds:8,.0f}/s  {size / seconds / 1e6:7.1f} MB/s"
    )


async def each(items: Iterable[str | bytes], work: Callable[..., object], tasks: int) -> None:
    """`work` on all of them, by so many tasks."""
    left = iter(items)

    async def one() -> None:
        for item in left:
            await work(item)  # type: ignore[misc]

    async with anyio.create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(one)


async def measured(blobs: mesh.Blobs, name: str, count: int, large: Path) -> None:
    for tasks in (1, TASKS):
        data = [os.urandom(SIZE) for _ in range(SINGLE)]
        digests: list[str] = []

        async def put(one: bytes, digests: list[str] = digests) -> None:
            digests.append(await blobs.put(one))

        began = time.perf_counter()
        await each(data, put, tasks)
        say(f"{name}: put, {tasks} at a time", SINGLE, SINGLE * SIZE, time.perf_counter() - began)
        began = time.perf_counter()
        await each(digests, blobs.get, tasks)
        say(f"{name}: get, {tasks} at a time", SINGLE, SINGLE * SIZE, time.perf_counter() - began)
    data = [os.urandom(SIZE) for _ in range(count)]
    began = time.perf_counter()
    names = await blobs.put_all(data)
    say(f"{name}: put_all", count, count * SIZE, time.perf_counter() - began)
    began = time.perf_counter()
    got = [one async for _, one in blobs.get_all(names)]
    say(f"{name}: get_all", count, count * SIZE, time.perf_counter() - began)
    assert got == data
    began = time.perf_counter()
    digest = await blobs.put(large)
    size = await blobs.size(digest)
    say(f"{name}: put one file", 1, size, time.perf_counter() - began)
    began = time.perf_counter()
    async with blobs.open(digest) as stream:
        async for _ in stream:
            pass
    say(f"{name}: get it, streamed", 1, size, time.perf_counter() - began)


def command(*args: str | Path) -> float:
    began = time.perf_counter()
    words = [sys.executable, "-m", "mesh", *map(str, args)]
    subprocess.run(words, check=True, stdout=subprocess.PIPE, env=environment())
    return time.perf_counter() - began


def commands(node: NodeProcess, base: Path, count: int, large: Path) -> None:
    small = base / "small"
    small.mkdir()
    for number in range(count):
        (small / str(number)).write_bytes(os.urandom(SIZE))
    to = ("--node", node.url)
    seconds = command("put", *to, "--tree", small)
    say("mesh put --tree DIR", count, count * SIZE, seconds)
    with mesh.sync.Client(node.url) as client:
        (tree,) = [
            each.digest
            for each in client.list()
            if client.get(each.digest, range=(0, 12)) == b'{"entries":['
        ]
    seconds = command("get", *to, "--tree", tree, base / "back")
    say("mesh get --tree DIGEST DIR", count, count * SIZE, seconds)
    size = large.stat().st_size
    say("mesh put FILE", 1, size, command("put", *to, large))
    with mesh.sync.Client(node.url) as client:
        (digest,) = [blob.digest for blob in client.list() if blob.size == size]
    say("mesh get DIGEST -o FILE", 1, size, command("get", *to, digest, "-o", base / "large back"))


async def in_process(base: Path, count: int, large: Path) -> None:
    async with mesh.Node(mesh.Config(data=str(base / "own")), serve=False) as node:
        await measured(node, "mesh.Node", count, large)


async def by_client(url: str, count: int, large: Path) -> None:
    async with mesh.Client(url) as client:
        await measured(client, "mesh.Client", count, large)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=2**30)
    parser.add_argument("--loop", default="asyncio")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, nodes() as start:
        base = Path(temporary)
        large = base / "large"
        with large.open("wb") as out:
            for _ in range(0, options.large, 2**20):
                out.write(os.urandom(min(2**20, options.large)))
        loop = options.loop
        commands(start(base / "one", backend=loop), base, options.count, large)
        node = start(base / "two", backend=loop)
        anyio.run(by_client, node.url, options.count, large, backend=loop)
        node.stop()
        anyio.run(in_process, base, options.count, large, backend=loop)


if __name__ == "__main__":
    main()
