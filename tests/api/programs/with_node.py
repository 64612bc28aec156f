"""A program that is a node, and one that does not care whether it is one."""

import sys

import anyio

import mesh


async def keep(blobs: mesh.Blobs, text: str) -> str:
    digest = await blobs.put(text.encode())
    found: bytes = await blobs.get(digest, range=(0, 4))
    return found.decode()


async def main(data: str, loop: str) -> None:
    config = mesh.Config(data=data, listen="127.0.0.1:0", peers=[])
    async with mesh.Node(config) as node, mesh.Client(node.url) as client:
        texts = [await keep(each, f"kept by {loop}") for each in (node, client)]
        status: mesh.Status = await client.status()
        print(loop, texts, status.blobs, status.node_id == node.node_id)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], backend=sys.argv[2])
