"""Three real nodes on this machine, a directory of real files put into one of them.

    python examples/three_nodes.py [DIRECTORY] [--backend asyncio|trio]

Starts three node processes on free loopback ports with temporary data directories, puts DIRECTORY
(by default the files of Python's standard library) into the first, shows progress while they
converge, fetches every blob from every node and checks it, and prints roots, counts, time and
rate. Exit code 0 when all three hold everything and have equal Merkle roots; 1 otherwise.
"""

from __future__ import annotations

import argparse
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, nullcontext
from pathlib import Path

import anyio
from rich.console import Console
from rich.live import Live
from rich.table import Table

from mesh.config import parse_peer
from mesh.core.digest import Digest, digest_of, parse_digest
from mesh.errors import MeshError
from mesh.status import Status, WaitAnswer
from mesh.transport.client import NodeClient, node_client
from mesh.wire.frames import Kind

NAMES = ("n1", "n2", "n3")
DEADLINE = 300.0  # seconds for the nodes to converge; a minute is usual for a gigabyte
WINDOW = 1000

console = Console()


def say(line: str) -> None:
    """A line as it is, however narrow the terminal."""
    console.print(line, highlight=False, soft_wrap=True)


class Failed(Exception):
    """What went wrong, for the last line of output."""


@contextmanager
def node(place: str, peers: list[str], name: str, data: Path, backend: str) -> Iterator[str]:
    """A node process; its URL. It is asked to stop at the end, and must do so cleanly."""
    command = [sys.executable, "-m", "mesh", "run", "--name", name, "--listen", place]
    command += ["--data", str(data), "--backend", backend, "--log-level", "error"]
    command += ["--peers", ",".join(peers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"listening on (\S+),", line)
        if match is None:
            raise Failed(f"node {name} did not start")
        yield match[1]
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
        process.stdout.close()
    if code:
        raise Failed(f"node {name} ended with {code}")


def free_places(count: int) -> list[str]:
    """Loopback ports that were free a moment ago: each node has to know the others' first."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def what_to_put(directory: Path | None) -> list[str]:
    """DIRECTORY, or the standard library without what was installed into it."""
    if directory is not None:
        if not any(path.is_file() for path in directory.rglob("*")):
            raise Failed("there is no file to put")
        return [str(directory)]
    library = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "__pycache__"}
    return [str(path) for path in sorted(library.iterdir()) if path.name not in left_out]


def put(url: str, paths: list[str]) -> list[tuple[Digest, str]]:
    """`mesh put`, and what it printed: a digest and a path for each file."""
    command = [sys.executable, "-m", "mesh", "put", "--node", url, "--", *paths]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    lines = done.stdout.decode("utf-8", "surrogateescape").splitlines()
    if done.returncode:
        raise Failed("not everything could be put; see above")
    pairs = (line.lstrip("\\").split("  ", 1) for line in lines)
    return [(parse_digest(digest), path) for digest, path in pairs]


def table_of(statuses: list[Status]) -> Table:
    """Where the nodes are."""
    table = Table("node", "blobs", "bytes", "root", "in sync with")
    for status in statuses:
        level = [peer.name for peer in status.peers if peer.in_sync]
        root = status.root[:16] + "…" if status.root else "being built"
        table.add_row(
            status.name, f"{status.blobs:,}", f"{status.bytes:,}", root, ", ".join(level) or "-"
        )
    return table


def level(status: Status) -> bool:
    """Whether a node has seen of each peer that it is equal."""
    return all(peer.in_sync for peer in status.peers)


async def converge(clients: list[NodeClient], blobs: int) -> list[Status]:
    """Show how the nodes become equal; Failed when they do not."""
    # In a log file, only the last table is of use.
    live = Live(console=console, transient=True) if console.is_terminal else nullcontext()
    with anyio.move_on_after(DEADLINE), live:
        async with anyio.create_task_group() as group:
            for client in clients:
                # Each looks at its peers now. By itself it would with its next round, 30 s later.
                group.start_soon(client.wait, DEADLINE, WaitAnswer)
            while True:
                statuses = [await client.status(Status) for client in clients]
                if isinstance(live, Live):
                    live.update(table_of(statuses))
                roots = {status.root for status in statuses}
                if len(roots) == 1 and all(map(level, statuses)) and statuses[0].blobs == blobs:
                    group.cancel_scope.cancel()
                    return statuses
                await anyio.sleep(0.1)
    raise Failed(f"the nodes were not equal within {DEADLINE:.0f} s")


async def check(client: NodeClient, name: str, digests: list[Digest]) -> int:
    """Fetch every blob from one node and hash it; the bytes that were read."""
    size = 0
    for at in range(0, len(digests), WINDOW):
        left = digests[at : at + WINDOW]
        while left:
            later: list[Digest] = []
            async with client.batch(left) as groups:
                async for frames in groups:
                    for frame in frames:
                        if frame.kind == Kind.LATER:
                            later.append(frame.digest)
                        elif frame.kind == Kind.LARGE:
                            size += await check_large(client, name, frame.digest)
                        elif frame.kind != Kind.BLOB or digest_of(frame.data) != frame.digest:
                            raise Failed(f"{name} has no good copy of {frame.digest.hex()}")
                        size += len(frame.data)
            left = later
    return size


async def check_large(client: NodeClient, name: str, digest: Digest) -> int:
    """The same for a blob that does not fit a batch."""
    async with client.get(digest) as chunks:
        data = b"".join([chunk async for chunk in chunks])
    if digest_of(data) != digest:
        raise Failed(f"{name} has no good copy of {digest.hex()}")
    return len(data)


async def watch_and_check(urls: list[str], put_digests: list[Digest], began: float) -> None:
    """From the end of the put to the verdict."""
    digests = sorted(set(put_digests))
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(node_client(parse_peer(url))) for url in urls]
        statuses = await converge(clients, len(digests))
        seconds = time.perf_counter() - began
        console.print(table_of(statuses))
        sizes = [
            await check(client, name, digests) for client, name in zip(clients, NAMES, strict=True)
        ]
    if len(set(sizes)) != 1:
        raise Failed(f"the nodes served different amounts of bytes: {sizes}")
    for status in statuses:
        say(f"{status.name} root {status.root}")
    rate = len(digests) / seconds
    say(
        f"{len(put_digests):,} files, {len(digests):,} blobs, {sizes[0]:,} bytes: put and on all "
        f"three nodes in {seconds:.1f} s ({rate:,.0f} blobs/s, {sizes[0] / seconds / 1e6:.1f} MB/s)"
    )
    say("every blob was fetched from every node and has the right hash")


def start(stack: ExitStack, backend: str, base: Path) -> list[str]:
    """Three nodes that list each other; their URLs. The stack stops them."""
    for tries_left in range(4, -1, -1):
        places = free_places(len(NAMES))
        with ExitStack() as attempt:
            try:
                urls = [
                    attempt.enter_context(
                        node(place, [p for p in places if p != place], name, base / name, backend)
                    )
                    for name, place in zip(NAMES, places, strict=True)
                ]
            except Failed:
                # Somebody else may have taken a port that was free a moment ago.
                if not tries_left:
                    raise
                continue
            stack.push(attempt.pop_all())
            return urls
    raise Failed("the nodes did not start")


def run(directory: Path | None, backend: str, base: Path) -> None:
    """Everything."""
    paths = what_to_put(directory)
    with ExitStack() as stack:
        urls = start(stack, backend, base)
        say(f"three nodes ({backend}): {', '.join(urls)}")
        say(f"putting files into {NAMES[0]} …")
        began = time.perf_counter()
        digests = [digest for digest, _ in put(urls[0], paths)]
        say(f"put {len(digests):,} files into {NAMES[0]}")
        anyio.run(watch_and_check, urls, digests, began)


def main() -> int:
    """0 when all is well, 1 saying what is wrong, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path, nargs="?", help="default: the standard library")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    options = parser.parse_args()
    if options.directory is not None and not options.directory.is_dir():
        parser.error(f"{options.directory} is not a directory")
    code = 0
    with tempfile.TemporaryDirectory(prefix="mesh-three-nodes-") as base:
        try:
            run(options.directory, options.backend, Path(base))
        except* KeyboardInterrupt:
            code = 130
        except* (Failed, MeshError) as errors:
            first: BaseException = errors
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            print(f"three_nodes: {first}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
