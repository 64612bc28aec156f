"""Whole nodes in one process and in virtual time, on a network that can be broken.

    async with a_world() as world:
        a = await world.start("a", peers=["b"])
        b = await world.start("b", peers=["a"])
        await a.put(b"one", b"two")
        await world.level(within=5.0)

A World ends by stopping its nodes and by looking at what they leave behind: every blob that was
acknowledged is there, every blob is what its name says, no task is left, and no actor crashed.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from random import Random
from typing import Any

import trio
import trio.testing

from mesh.config import Address, Changes, Config, PeerEntry
from mesh.core.digest import Digest, digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.core.tree import Tree
from mesh.errors import PeerError, Refused, Unreachable
from mesh.node import Identity, Node
from mesh.offload import Inline
from mesh.status import PeerStatus
from mesh.store.base import Blob, BlobStore, Item
from mesh.store.memory import MemoryStore
from mesh.transport.base import Replica, Sketches, Wire
from mesh.transport.memory import Handler, MemoryNetwork, MemoryWire, Traffic
from mesh.transport.native import NativePeer
from mesh.wire.frames import FrameReader, Kind

HOUR = 3600.0

Wrap = Callable[[Any], Any]


# --- blobs -----------------------------------------------------------------------------------


def blob(number: int, size: int | None = None) -> bytes:
    """Blob number so-and-so; no two of them are alike."""
    head = b"blob %d." % number
    if size is None:
        return head
    assert size >= len(head)
    return head.ljust(size, b"%d" % (number % 10))


def blobs(first: int, end: int, size: int | None = None) -> list[bytes]:
    """Blobs number `first` to `end`."""
    return [blob(number, size) for number in range(first, end)]


def large(number: int, size: int = LARGE_BLOB) -> bytes:
    """A blob that travels alone."""
    return blob(number, size)


async def filled(*data: bytes, store: BlobStore | None = None) -> MemoryStore:
    """A store that holds these blobs before any node runs on it."""
    store = store or MemoryStore()
    await store.commit([await _item(store, piece) for piece in data])
    return store


async def _item(store: BlobStore, data: bytes) -> Item:
    if len(data) < LARGE_BLOB:
        return Blob(digest_of(data), data)
    async with store.incoming() as incoming:
        await incoming.write(data)
        return await incoming.finish()


async def holdings(store: BlobStore) -> list[Digest]:
    """The names of all blobs in a store."""
    return [digest for digest, _ in await store.listing("", b"", 10**9)]


# --- nodes -----------------------------------------------------------------------------------


class Member:
    """One node of a world: its configuration and its store, and the Node while it runs."""

    def __init__(
        self,
        world: World,
        name: str,
        config: Config,
        node_id: bytes,
        store: BlobStore,
        wires: Mapping[str, Wrap],
        replicas: Mapping[str, Wrap],
    ) -> None:
        self.name = name
        self.config = config
        self.store = store
        self.node_id = node_id
        self.urls = [url_of(name)]
        self.acknowledged: set[Digest] = set()
        self.ended = trio.Event()
        self._world = world
        self._wraps = wires
        self._replicas = replicas
        self._wires: dict[str, tuple[MemoryWire, Any]] = {}
        self._node: Node | None = None
        self._door: Door | None = None
        self._scope = trio.CancelScope()
        self._starts = 0
        self.changes = Changes()

    async def keep(self, changes: Changes) -> None:
        """What was ordered about its peers; kept over restarts, as a data directory does."""
        await trio.lowlevel.checkpoint()
        self.changes = changes

    async def start(self) -> Node:
        """Run it; returns when its tree is built, and what follows from that at once is done."""
        assert self._node is None, "it runs already"
        self._starts += 1
        instance = digest_of(b"%s %d" % (self.name.encode(), self._starts))[:8]
        random = Random(f"{self._world.seed} {self.name} {self._starts}")
        self._node = node = Node(
            self.config,
            Identity(self.node_id, instance, self.name),
            self.store,
            self._connect,
            Inline(),
            random,
            self.changes,
            self.keep,
        )
        self._scope, self.ended = trio.CancelScope(), trio.Event()
        self._door = Door(node.service)
        for url in self.urls:
            self._world.network.attach(url, self._door)
        self._world.nursery.start_soon(self._run, node, self._scope, self.ended)
        await node.keeper.built()
        await trio.testing.wait_all_tasks_blocked()
        return node

    async def _run(self, node: Node, scope: trio.CancelScope, ended: trio.Event) -> None:
        try:
            with scope:
                await node.run()
        finally:
            ended.set()

    async def stop(self) -> None:
        """End it as a signal does: its connections first, then its actors; the store stays."""
        if self._node is None:
            return
        for url in self.urls:
            self._world.network.detach(url)
        assert self._door is not None
        await self._door.close()
        self.cut_off()
        await self.ended.wait()
        self._node = self._door = None

    def cut_off(self) -> None:
        """Cancel its scope, and nothing else."""
        self._scope.cancel()

    async def restart(self) -> Node:
        """Stop and start on the same store."""
        await self.stop()
        return await self.start()

    @property
    def running(self) -> bool:
        return self._node is not None

    @property
    def node(self) -> Node:
        """The node that runs now."""
        assert self._node is not None, f"{self.name} does not run"
        return self._node

    @property
    def root(self) -> str | None:
        """As its status says."""
        return self.node.status().root

    @property
    def count(self) -> int:
        """How many blobs it has."""
        return self.node.status().blobs

    def peer(self, name: str) -> PeerStatus:
        """How it sees the peer that it lists as `name`."""
        (found,) = [p for p in self.node.status().peers if p.url == url_of(name)]
        return found

    def wire(self, name: str) -> Any:
        """Its present wire to a peer, as wrapped by the test."""
        return self._wires[name][1]

    def traffic(self, name: str) -> Traffic:
        """What crossed its present wire to a peer."""
        return self._wires[name][0].traffic

    async def put(self, *data: bytes) -> list[Digest]:
        """What a client does; each of the blobs is acknowledged on return."""
        items = [await _item(self.store, piece) for piece in data]
        await self.node.keeper.put(items)
        digests = [item.digest for item in items]
        self.acknowledged.update(digests)
        return digests

    def has(self, *digests: Digest) -> bool:
        """Whether all of them are in its tree."""
        tree = self.node.keeper.ready_tree()
        return all(digest in tree for digest in digests)

    def _connect(self, address: Address, ours: Callable[[], Tree], sketches: Sketches) -> Replica:
        name = name_of(address.url)
        plain = self._world.network.wire(self.urls[0], address.url)
        wire = self._wraps.get(name, _same)(plain)
        self._wires[name] = plain, wire
        peer = NativePeer(wire, address.place, self.node_id, sketches)
        return self._replicas.get(name, _same)(peer)


class World:
    """The network and the nodes on it. Make one with `a_world`."""

    def __init__(self, nursery: trio.Nursery, seed: int) -> None:
        self.nursery = nursery
        self.seed = seed
        self.network = MemoryNetwork()
        self.members: list[Member] = []

    def add(
        self,
        name: str,
        peers: Iterable[str] = (),
        *,
        store: BlobStore | None = None,
        wires: Mapping[str, Wrap] | None = None,
        replicas: Mapping[str, Wrap] | None = None,
        node_id: bytes | None = None,
        interval: float = 30.0,
        direction: str = "both",
        **config: Any,
    ) -> Member:
        """A node that does not run yet. `wires` and `replicas` wrap its way to a peer.

        `direction` is that of all its peers.
        """
        listed = tuple(PeerEntry(f"{peer}:7280", direction=direction) for peer in peers)
        member = Member(
            self,
            name,
            Config(peers=listed, interval_seconds=interval, **config),
            node_id or digest_of(name.encode())[:16],
            store or MemoryStore(),
            wires or {},
            replicas or {},
        )
        self.members.append(member)
        return member

    def named(self, name: str) -> Member:
        """The node of that name."""
        return next(member for member in self.members if member.name == name)

    async def start(self, name: str, peers: Iterable[str] = (), **options: Any) -> Member:
        """A node that runs; see `add`."""
        member = self.add(name, peers, **options)
        await member.start()
        return member

    async def level(self, within: float, *members: Member) -> float:
        """Wait until all nodes that run (or just `members`) have one root; how long it took."""
        some = members or tuple(member for member in self.members if member.running)

        def equal() -> bool:
            roots = {member.root for member in some}
            return len(roots) == 1 and None not in roots

        try:
            return await until(equal, within)
        except AssertionError:
            counts = ", ".join(f"{member.name} {member.count}" for member in some)
            raise AssertionError(f"not level within {within:g} s: {counts}") from None

    def cut(self, one: str, other: str) -> None:
        """Let nothing through between two nodes."""
        self.network.cut(url_of(one), url_of(other))
        self.network.cut(url_of(other), url_of(one))

    def heal(self, one: str, other: str) -> None:
        """Undo a cut."""
        self.network.heal(url_of(one), url_of(other))
        self.network.heal(url_of(other), url_of(one))

    async def end(self) -> None:
        """Stop what runs, and look at what is left."""
        for member in self.members:
            await member.stop()
        for member in self.members:
            names = await holdings(member.store)
            lost = member.acknowledged - set(names)
            assert not lost, f"{member.name} lost {len(lost)} acknowledged blobs"
            assert await sound(member.store, names), f"{member.name} has a bad blob"
        assert not self.nursery.child_tasks, "a node left tasks behind"


async def sound(store: BlobStore, names: Sequence[Digest]) -> bool:
    """Whether the bytes of all these blobs are what their names say."""
    left = list(names)
    while left:
        entries = await store.batch(left, LARGE_BLOB)
        left = left[len(entries) :]
        for digest, size, data in entries:
            if data is None:
                assert size is not None
                data = b"".join([piece async for piece in store.stream(digest, 0, size)])
            if digest_of(data) != digest:
                return False
    return True


@asynccontextmanager
async def a_world(seed: int = 0, *, crashes: int | None = 0) -> AsyncIterator[World]:
    """A world, in which actors crash `crashes` times, or as often as they like."""
    failure: Exception | None = None
    with _seeded(seed), watched() as log:
        async with trio.open_nursery() as nursery:
            world = World(nursery, seed)
            try:
                yield world
                await world.end()
            except Exception as error:  # noqa: BLE001 - raised again below, outside of the nursery
                failure = error
                nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    crashed = [record.getMessage() for record in log if record.exc_info]
    assert crashes in (None, len(crashed)), crashed


@contextmanager
def watched() -> Iterator[list[logging.LogRecord]]:
    """What mesh logs meanwhile."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Keep(logging.DEBUG)
    logger = logging.getLogger("mesh")
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


async def until(what: Callable[[], Any], within: float) -> float:
    """Look again in virtual time until the answer is true; how long it took, give or take 2 %."""
    began = trio.current_time()
    while not what():
        waited = trio.current_time() - began
        assert waited < within, f"not within {within:g} s"
        await trio.sleep(min(max(0.02, waited / 50), within - waited + 1e-6))
    return trio.current_time() - began


def url_of(name: str) -> str:
    return f"http://{name}:7280"


def name_of(url: str) -> str:
    match = re.fullmatch(r"http://(\w+):7280", url)
    assert match is not None
    return match[1]


def _same(wire: Any) -> Any:
    return wire


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Make trio's schedule reproducible. Its names for that are private: they are checked."""
    run = trio._core._run
    before = run._ALLOW_DETERMINISTIC_SCHEDULING
    assert before in (True, False)
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(seed)
    try:
        yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = before


class Door:
    """A node's handler as a socket shows it: when the node stops, its connections break."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._closed = False
        self._under_way: dict[trio.CancelScope, None] = {}  # a set has no order to repeat
        self._idle = trio.Event()

    async def call(self, path: str, body: bytes) -> bytes:
        with self._connection():
            return await self._handler.call(path, body)
        raise Unreachable("connection reset")

    async def download(self, path: str, body: bytes) -> AsyncIterator[bytes]:
        # A stream lives in its reader's task: it is broken between two chunks.
        async with aclosing(self._handler.download(path, body)) as chunks:
            async for chunk in chunks:
                if self._closed:
                    raise Unreachable("connection reset")
                yield chunk

    async def upload(self, path: str, chunks: AsyncIterator[bytes]) -> bytes:
        with self._connection():
            return await self._handler.upload(path, chunks)
        raise Unreachable("connection reset")

    async def close(self) -> None:
        """Break what is under way, and wait until it has ended."""
        self._closed = True
        for scope in self._under_way:
            scope.cancel()
        while self._under_way:
            self._idle = trio.Event()
            await self._idle.wait()

    @contextmanager
    def _connection(self) -> Iterator[None]:
        if self._closed:
            raise Unreachable("connection refused")
        with trio.CancelScope() as scope:
            self._under_way[scope] = None
            try:
                yield
            finally:
                del self._under_way[scope]
                self._idle.set()


# --- faults ----------------------------------------------------------------------------------


class Through:
    """A wire that changes nothing. The faults override what they change."""

    def __init__(self, wire: Wire) -> None:
        self.inner = wire

    async def call(self, path: str, body: bytes) -> bytes:
        await self.before(path)
        return await self.inner.call(path, body)

    @asynccontextmanager
    async def download(self, path: str, body: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
        await self.before(path)
        async with (
            self.inner.download(path, body) as chunks,
            aclosing(self.received(path, chunks)) as changed,
        ):
            yield changed

    async def upload(self, path: str, chunks: AsyncIterator[bytes]) -> bytes:
        await self.before(path)
        async with aclosing(self.sent(path, chunks)) as changed:
            return await self.inner.upload(path, changed)

    async def close(self) -> None:
        await self.inner.close()

    async def before(self, path: str) -> None:
        """A request begins."""

    async def received(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """What comes down."""
        async for chunk in chunks:
            yield chunk

    async def sent(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """What goes up."""
        async for chunk in chunks:
            yield chunk


class Faulty(Through):
    """A fault in the requests whose path begins with `path`, while `broken` is true."""

    def __init__(self, wire: Wire, path: str = "") -> None:
        super().__init__(wire)
        self.path = path
        self.broken = True
        self.met = 0

    def hits(self, path: str) -> bool:
        """Whether the fault strikes now; counted."""
        struck = self.broken and path.startswith(self.path)
        self.met += struck
        return struck


class Hanging(Faulty):
    """Requests are never answered."""

    async def before(self, path: str) -> None:
        if self.hits(path):
            await trio.sleep_forever()


class HangingStream(Faulty):
    """Streams begin, and then nothing comes."""

    async def received(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        if self.hits(path):
            await trio.sleep_forever()
        async for chunk in chunks:
            yield chunk


class NotTaking(Faulty):
    """What we send is not taken."""

    async def upload(self, path: str, chunks: AsyncIterator[bytes]) -> bytes:
        if self.hits(path):
            await anext(chunks, b"")
            await trio.sleep_forever()
        return await super().upload(path, chunks)


class Dripping(Faulty):
    """A byte a second."""

    async def received(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        drips = self.hits(path)
        async for chunk in chunks:
            for at in range(len(chunk) if drips else 0):
                await trio.sleep(1.0)
                yield chunk[at : at + 1]
            if not drips:
                yield chunk


class Corrupting(Faulty):
    """A bit of `needle` is flipped, wherever it comes by."""

    def __init__(self, wire: Wire, needle: bytes, path: str = "") -> None:
        super().__init__(wire, path)
        self.needle = needle

    async def received(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield self._changed(path, chunk)

    async def sent(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield self._changed(path, chunk)

    def _changed(self, path: str, chunk: bytes) -> bytes:
        if self.needle in chunk and self.hits(path):
            return chunk.replace(self.needle, bytes((self.needle[0] ^ 1,)) + self.needle[1:])
        return chunk


class Cutting(Faulty):
    """A stream ends after `after` bytes: with an error, or as if it were whole."""

    def __init__(self, wire: Wire, after: int, path: str = "", *, silently: bool = False) -> None:
        super().__init__(wire, path)
        self.after = after
        self.silently = silently

    async def received(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        left = self.after
        cuts = self.hits(path)
        async for chunk in chunks:
            if not cuts:
                yield chunk
                continue
            if piece := chunk[:left]:
                yield piece
            left -= len(piece)
            if not left:
                if self.silently:
                    return
                raise Unreachable("connection reset")


class Refusing(Faulty):
    """Declines, as a status 429 or 409 does."""

    def __init__(self, wire: Wire, path: str = "", retry_after: float | None = 1.0) -> None:
        super().__init__(wire, path)
        self.retry_after = retry_after

    async def before(self, path: str) -> None:
        if self.hits(path):
            raise Refused("busy with other transfers", self.retry_after)


class Failing(Faulty):
    """Requests fail with an error of the test's choice."""

    def __init__(self, wire: Wire, path: str = "", error: PeerError | None = None) -> None:
        super().__init__(wire, path)
        self.error = error or Unreachable("connection reset")

    async def before(self, path: str) -> None:
        if self.hits(path):
            raise self.error


class Slow(Through):
    """A link of `rate` bytes a second, shared by all that goes over it, in pieces as TCP's.

    Whoever sends gets rid of a chunk no faster than the link takes it.
    """

    PIECE = 16 * 1024

    def __init__(self, wire: Wire, rate: float) -> None:
        super().__init__(wire)
        self.rate = rate
        self._free = 0.0

    async def call(self, path: str, body: bytes) -> bytes:
        await self._pass(len(body))
        answer = await self.inner.call(path, body)
        await self._pass(len(answer))
        return answer

    async def received(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            for at in range(0, len(chunk), self.PIECE):
                piece = chunk[at : at + self.PIECE]
                await self._pass(len(piece))
                yield piece

    async def sent(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            for at in range(0, len(chunk), self.PIECE):
                await self._pass(len(chunk[at : at + self.PIECE]))
            yield chunk

    async def _pass(self, size: int) -> None:
        now = trio.current_time()
        self._free = max(now, self._free) + size / self.rate
        await trio.sleep_until(self._free)


class Tap(Through):
    """Counts how often each blob came down in frames, or alone, and which were sent up."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.came: Counter[Digest] = Counter()
        self.went: Counter[Digest] = Counter()
        self.offered: list[bytes] = []

    async def call(self, path: str, body: bytes) -> bytes:
        if path == "offer":
            self.offered.append(body)
        return await super().call(path, body)

    async def received(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        kind, *rest = path.split("/")
        if kind == "blob":
            self.came[Digest(bytes.fromhex(rest[0]))] += 1
        reader = FrameReader() if kind == "batch" else None
        async for chunk in chunks:
            if reader is not None:
                self.came.update(f.digest for f in reader.feed(chunk) if f.kind == Kind.BLOB)
            yield chunk

    async def sent(self, path: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        parts = path.split("/")
        if len(parts) == 4:
            self.went[Digest(bytes.fromhex(parts[2]))] += 1
        reader = FrameReader() if len(parts) == 2 else None
        async for chunk in chunks:
            if reader is not None:
                self.went.update(f.digest for f in reader.feed(chunk) if f.kind == Kind.BLOB)
            yield chunk


class Watching(Through):
    """Runs the test's own code before each request."""

    def __init__(self, wire: Wire, watch: Callable[[str], Any]) -> None:
        super().__init__(wire)
        self._watch = watch

    async def before(self, path: str) -> None:
        await self._watch(path)
