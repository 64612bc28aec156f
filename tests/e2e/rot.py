"""A byte flipped at any place of any file of one of three nodes: what comes of it.

The nodes are whole but for HTTP: real stores on a real disk, real threads, on a network in memory.
`Campaign` does one run a place; tests/e2e/rot_campaign.py does hundreds of them by hand.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

import anyio

from mesh.config import Address, Config
from mesh.core.digest import Digest, digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.core.tree import Tree
from mesh.errors import ConfigError
from mesh.node import Identity, Node
from mesh.offload import Lane, Threads
from mesh.store.care.verify import Finding, check
from mesh.store.directory import DataDirectory
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles
from mesh.store.log.segments import SEGMENT_MAX
from mesh.transport.base import Replica
from mesh.transport.memory import MemoryNetwork
from mesh.transport.native import NativePeer

NAMES = ("a", "b", "c")
SECONDS = 60.0  # one run takes a tenth of one; a slow machine may take its time


class Place(NamedTuple):
    """Where a byte was flipped."""

    file: str
    offset: int
    kind: str


class Outcome(NamedTuple):
    """What came of it."""

    place: Place
    note: str  # "healed", "harmless", or "said" for a node that refused to start

    def __str__(self) -> str:
        return f"{self.place.file} at {self.place.offset}: {self.note}"


class Campaign:
    """Three equal data directories, made once; each run damages a copy of one of them."""

    def __init__(
        self,
        base: Path,
        seed: int,
        *,
        small: int = 150,
        large: int = 2,
        segment_bytes: int = SEGMENT_MAX,
    ) -> None:
        """`segment_bytes`: how large the segments of all nodes are."""
        self.base = base
        self.segment_bytes = segment_bytes
        self.random = random = Random(seed)
        contents = [
            b"%d " % n + random.randbytes(random.choice((0, 50, 700, 5000))) for n in range(small)
        ]
        contents += [random.randbytes(LARGE_BLOB + n * 700_000) for n in range(large)]
        self.contents = {digest_of(data): data for data in contents}
        self.root = Tree(self.contents).root
        self.counts: Counter[str] = Counter()

    async def prepare(self) -> None:
        """Fill the three directories, in batches and in an order of each one's own."""
        for name in NAMES:
            directory = DataDirectory.claim(self.base / name)
            store = open_store(directory, self.segment_bytes)
            await store.open()
            left = list(self.contents.values())
            self.random.shuffle(left)
            for data in left:
                async with store.incoming() as arriving:
                    await arriving.write(data)
                    await store.commit([await arriving.finish()])
            await store.close()
            directory.release()

    async def run(self) -> Outcome:
        """Flip a bit of a byte somewhere in b, start all three, and let them heal."""
        work = self.base / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self.base / "b", work)
        place = self._flip(work)
        self.counts[place.kind] += 1
        try:
            outcome = await self._heal(place, work)
        except ConfigError:
            # An identity cannot be derived from anything: it is said, and what the message asks
            # for is done. Without the file the directory is a node of its own.
            (work / "node.json").unlink()
            await self._heal(place, work)
            outcome = Outcome(place, "said")
        self.counts[outcome.note] += 1
        return outcome

    def _flip(self, work: Path) -> Place:
        """A file of a random kind, a random one of these, and a random place in it."""
        kinds: dict[str, list[Path]] = {}
        for path in sorted(work.rglob("*")):
            if path.is_file() and path.stat().st_size:
                kinds.setdefault(kind_of(path), []).append(path)
        kind = self.random.choice(sorted(kinds))
        path = self.random.choice(kinds[kind])
        offset = self.random.randrange(path.stat().st_size)
        with path.open("r+b") as file:
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ (1 << self.random.randrange(8))]))
        return Place(str(path.relative_to(work)), offset, kind)

    async def _heal(self, place: Place, work: Path) -> Outcome:
        places = {"a": self.base / "a", "b": work, "c": self.base / "c"}
        async with mesh_of(places, self.segment_bytes) as nodes:
            b = nodes["b"]
            with anyio.fail_after(SECONDS):
                some = self.random.sample(sorted(self.contents), 20)
                for digest in some:
                    await self._read(b, digest)
                while not (b.scrubber.status().passes and all(map(self._is_right, nodes.values()))):
                    await b.keeper.wait_for_change(0.05)
            for digest in self.contents:
                await self._read(b, digest)
            assert b.status().wanted_blobs == 0
        found = check(DiskFiles(work), work / "index.sqlite", lambda _: None, read_data=True)
        problems = [each.text for each in found if isinstance(each, Finding) and each.problem]
        assert not problems, f"{place}: {problems}"
        healed = any((work / "damaged").iterdir())
        return Outcome(place, "healed" if healed else "harmless")

    def _is_right(self, node: Node) -> bool:
        tree, totals = node.keeper.tree, node.store.totals
        return tree is not None and tree.root == self.root and totals.blobs == len(self.contents)

    async def _read(self, node: Node, digest: Digest) -> None:
        """What a client gets is the blob, whatever was done to it."""
        size = await node.reader.size(digest)
        data = self.contents[digest]
        if size is None or size != len(data):
            # A damaged index may say so until it is checked; bytes of another blob it never gives.
            assert node.keeper.tree is None or size is None, f"{digest.hex()} has {size} bytes"
            return
        pieces = await node.reader.stream(digest, size, 0, size)
        assert pieces is not None, f"{digest.hex()} is lost, though two peers have it"
        assert b"".join([piece async for piece in pieces]) == data, f"{digest.hex()} is wrong"


def kind_of(path: Path) -> str:
    """What a file is for."""
    if path.parent.name == "segments":
        return "segment"
    if path.suffix == ".sums":
        return "sums"
    return "large" if path.parent.parent.name == "large" else path.name


def open_store(directory: DataDirectory, segment_bytes: int = SEGMENT_MAX) -> DiskStore:
    files, index = DiskFiles(directory.path), directory.path / "index.sqlite"
    return DiskStore(files, index, Lane, Threads(2), segment_bytes=segment_bytes)


@asynccontextmanager
async def mesh_of(
    places: dict[str, Path], segment_bytes: int = SEGMENT_MAX
) -> AsyncIterator[dict[str, Node]]:
    """Nodes on these directories, each of which calls the others; b scrubs at once."""
    network = MemoryNetwork()
    async with AsyncExitStack() as stack:
        claimed: dict[str, DataDirectory] = {}
        for name, path in places.items():
            claimed[name] = DataDirectory.claim(path)
            stack.callback(claimed[name].release)
        nodes = {
            name: node_of(name, each, network, segment_bytes) for name, each in claimed.items()
        }
        group = await stack.enter_async_context(anyio.create_task_group())
        for name, node in nodes.items():
            network.attach(f"http://{name}:7280", node.service)
            group.start_soon(node.run)
        for node in nodes.values():
            await node.keeper.built()
        while nodes["b"].scrubber.status().state == "starting":
            await anyio.lowlevel.checkpoint()
        nodes["b"].scrubber.start()
        yield nodes
        group.cancel_scope.cancel()


def node_of(
    name: str, directory: DataDirectory, network: MemoryNetwork, segment_bytes: int
) -> Node:
    peers = tuple(f"{other}:7280" for other in NAMES if other != name)
    config = Config(peers=peers, interval_seconds=0.5, scrub_bytes_per_second=10**11)

    def connect(address: Address, _ours: object, _sketches: object) -> Replica:
        wire = network.wire(f"http://{name}:7280", address.url)
        return NativePeer(wire, address.place, directory.node_id)

    identity = Identity(directory.node_id, name.encode() * 8, name)
    store = open_store(directory, segment_bytes)
    return Node(config, identity, store, connect, Threads(2), Random(name))


def outcomes(
    places: int, seed: int, base: Path, segment_bytes: int = SEGMENT_MAX
) -> Iterator[Outcome]:
    """So many runs, one after the other."""
    campaign = Campaign(base, seed, segment_bytes=segment_bytes)
    anyio.run(campaign.prepare)
    for _ in range(places):
        yield anyio.run(campaign.run)
