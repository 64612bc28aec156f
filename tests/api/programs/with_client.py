"""A program that talks to a node."""

import sys
from collections.abc import AsyncIterator

import anyio

import mesh


async def lines() -> AsyncIterator[bytes]:
    for number in range(3):
        yield b"line %d\n" % number


async def main(url: str, loop: str) -> None:
    async with mesh.Client(url) as client:
        digest: str = await client.put(lines())
        async with client.open(digest, range=(5, None)) as stream:
            sizes = [len(chunk) async for chunk in stream]
        names = [blob.digest async for blob in client.list(digest[:8])]
        answer: mesh.WaitAnswer = await client.wait(timeout=1)
        print(loop, digest in await client.has(names), sum(sizes), stream.size, answer.level)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], backend=sys.argv[2])
