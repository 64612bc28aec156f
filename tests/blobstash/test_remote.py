"""The package's surface, in process, against a server that behaves as recorded."""

from __future__ import annotations

import http.client
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest

from mesh.blobstash import LeafState, State, StateTree, Sync, SyncClient
from mesh.blobstash.client import OneWayConflict
from mesh.blobstash.peer import BlobstashPeer
from mesh.blobstash.remote import Remote
from mesh.config import parse_peer
from mesh.core.digest import Digest, digest_of, parse_digest
from mesh.core.tree import Tree
from mesh.errors import InputError, Misbehaved, PeerError, Refused, StoreError, Unreachable
from mesh.offload import Inline
from mesh.transport.http import Http, credentials, new_client
from tests.blobstash.fake_server import KEY, FakeServer, hash_of, name_of
from tests.blobstash.test_exchanges import (
    BLOBS,
    DIGESTS,
    EXCHANGES,
    HEADERS,
    STATES,
    ask,
    expect,
    multipart,
)

# httpx leaves its own generators to the collector when an answer is not read to its end.
pytestmark = pytest.mark.filterwarnings(r"ignore:Async generator 'http(x|core)\.:ResourceWarning")

NOTHING = "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"
ABSENT = "0" * 64


class Memory:
    """See blobstash.client.LocalBlobs. Counts what is written."""

    def __init__(self, *blobs: bytes) -> None:
        self.blobs = {digest_of(data): data for data in blobs}
        self.written = 0

    async def tree(self) -> Tree:
        return Tree(self.blobs)

    @asynccontextmanager
    async def read(self, digest: bytes) -> AsyncIterator[tuple[int, AsyncIterator[bytes]] | None]:
        data = self.blobs.get(digest)
        yield None if data is None else (len(data), _pieces(data))

    async def write(self, digest: bytes, chunks: AsyncIterator[bytes]) -> tuple[bool, int]:
        data = b"".join([chunk async for chunk in chunks])
        if digest_of(data) != digest:
            raise Misbehaved("another blob")
        fresh = digest not in self.blobs
        self.blobs[digest] = data
        self.written += 1
        return fresh, len(data)


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


Use = Callable[[SyncClient], Awaitable[Any]]


def with_client(
    server: FakeServer,
    local: Memory,
    use: Use,
    *,
    one_way: bool = False,
    backend: str = "asyncio",
    key: str = KEY,
) -> Any:
    """What `use` makes of a client between `local` and the server."""

    async def main() -> Any:
        address = parse_peer(f"blobstash+http://:{key}@{server.place}")
        async with new_client() as client:

            def connect(url: str, api_key: str) -> Remote:
                assert (url, api_key) == (server.url, key)
                return Remote(Http(client, address.url, credentials(address)), address.place)

            sync = Sync(local, connect, Inline())
            return await use(sync.client(server.url, key, one_way))

    return anyio.run(main, backend=backend)


async def state_of(client: SyncClient) -> State:
    return await client.remote_state()


async def leaf_of(prefix: str, client: SyncClient) -> LeafState:
    return await client.remote_leaf(prefix)


async def synced(client: SyncClient) -> Any:
    return await client.sync()


def failed(server: FakeServer, local: Memory, use: Use, kind: type[PeerError]) -> str:
    """The one line that `use` fails with; the server is an honest one again afterwards."""
    with pytest.raises(kind) as caught:
        with_client(server, local, use)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the fake server is what was recorded ---------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*EXCHANGES, *STATES}))
def test_the_fake_server_answers_as_recorded(name: str) -> None:
    exchange = EXCHANGES.get(name) or STATES[name]
    method, path = exchange["request"]["method"], exchange["request"]["path"]
    headers: Any = HEADERS.get(name, {})
    body = BLOBS[0] if "post blob plain" in name else b"something else"
    if "multipart" in name:
        body, headers = multipart({name_of(body): body, name_of(b""): b""})
    with FakeServer([] if "empty" in name else BLOBS) as server:
        if exchange["response"] == "connection closed without a response":
            with pytest.raises(http.client.RemoteDisconnected):
                ask(server, method, path)  # type: ignore[arg-type]
            return
        if name == "enumerate":
            path += f"?limit={exchange['response']['json']['pagination']['per_page']}"
        got = ask(server, method, path, body if method == "POST" else b"", headers)  # type: ignore[arg-type]
        if "does not match" in name:
            # The recording does not have the body that was sent.
            told = exchange["response"]["json"]["error"].rpartition(" ")[0]
            assert got[0] == exchange["response"]["status"]
            assert json.loads(got[2])["error"] == f"{told} {name_of(body)}"
            assert len(got[2]) == int(exchange["response"]["headers"]["content-length"])
            return
        expect(exchange, got)


# --- states and leaves ----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_remote_state_is_the_recorded_one(backend: str) -> None:
    with FakeServer(BLOBS) as server:
        state = with_client(server, Memory(), state_of, backend=backend)
    recorded = STATES["state"]["response"]["json"]
    assert (state.root, state.count, state.leaves) == tuple(recorded.values())


def test_a_remote_leaf_is_cut_to_its_prefix() -> None:
    with FakeServer(BLOBS) as server:
        assert len(server.leaf("27")["hashes"]) == 254  # as recorded
        leaf = with_client(server, Memory(), partial(leaf_of, "27"))
        mine = [digest for digest in sorted(DIGESTS) if digest.startswith("27")]
        assert leaf == LeafState("27", 1, mine)
        every = {
            prefix: with_client(server, Memory(), partial(leaf_of, prefix)).hashes
            for prefix in ("00", "02", "fd", "ff")
        }
    for prefix, hashes in every.items():
        mine = [digest for digest in sorted(DIGESTS) if digest.startswith(prefix)]
        assert hashes == (mine or None)


def test_null_stands_for_no_hashes() -> None:
    with FakeServer() as server:
        assert server.leaf("27")["hashes"] is None
        assert with_client(server, Memory(), partial(leaf_of, "27")) == LeafState("27", 0, None)
        state = with_client(server, Memory(), state_of)
    assert state == State(NOTHING, 0, {})


def test_a_listing_of_ten_million_is_not_read_beyond_its_prefix() -> None:
    with FakeServer(BLOBS) as server:
        server.faults.flood = 10_000_000
        leaf = with_client(server, Memory(), partial(leaf_of, "27"))
        assert leaf.count == 1
        # 670 MB in all; what was sent is what the sockets' buffers hold.
        assert server.leaf_bytes < 16 * 1024 * 1024


def test_a_leaf_that_never_ends_is_misbehaviour() -> None:
    with FakeServer(BLOBS) as server:
        server.faults.flood, server.faults.flood_under = 10_000_000, True
        assert "too much" in failed(server, Memory(), partial(leaf_of, "27"), Misbehaved)
        assert server.leaf_bytes < 100 * 1024 * 1024


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b'{"root":"","count":0,"leaves":{}}',
        b'{"root":"%s","count":0}' % NOTHING.encode(),
        b'{"root":"%s","count":-1,"leaves":{}}' % NOTHING.encode(),
        b'{"root":"%s","count":"0","leaves":{}}' % NOTHING.encode(),
        b'{"root":"%s","count":0,"leaves":[]}' % NOTHING.encode(),
        b'{"root":"%s","count":1,"leaves":{"2":"%s"}}' % (NOTHING.encode(), NOTHING.encode()),
        b'{"root":"%s","count":1,"leaves":{"zz":"%s"}}' % (NOTHING.encode(), NOTHING.encode()),
        b'{"root":"%s","count":1,"leaves":{"27":"%s"}}' % (NOTHING.encode(), b"g" * 64),
        b'{"root":"%s","count":1,"leaves":{"27":"a\\n"}}' % NOTHING.encode(),
        b'{"root":"%s","count":0,"leaves":{}' % NOTHING.encode(),
        b'{"root":"%s","count":0,"leaves":{},"x":"%s"}' % (NOTHING.encode(), b"x" * 2_000_000),
        b"[" * 100_000,
    ],
)
def test_a_state_that_is_none_is_misbehaviour(body: bytes) -> None:
    with FakeServer(BLOBS) as server:
        server.faults.state = body or b" "
        local = Memory(b"mine")
        failed(server, local, state_of, Misbehaved)
        failed(server, local, synced, Misbehaved)
        assert server.uploads.total() == server.downloads.total() == local.written == 0


@pytest.mark.parametrize(
    "body",
    [
        b" ",
        b"[]",
        b'{"prefix":"27","count":0}',
        b'{"prefix":"27","count":1,"hashes":["27',
        b'{"prefix":"27","count":1,"hashes":["27zz"]}',
        b'{"prefix":"27","count":1,"hashes":["%s"]}' % (b"27" + b"A" * 62),
        b'{"prefix":"27","count":1,"hashes":[27]}',
        b'{"prefix":"27","count":1,"hashes":5}',
        b'{"prefix":"27","count":1,"hashes":{}}',
    ],
)
def test_a_leaf_that_is_none_is_misbehaviour(body: bytes) -> None:
    with FakeServer(BLOBS) as server:
        server.faults.leaf = body
        failed(server, Memory(), partial(leaf_of, "27"), Misbehaved)


def test_the_prefix_of_a_leaf_is_two_hex_digits() -> None:
    with FakeServer() as server:
        for prefix in ("2", "2Z", "FD", "", "277"):
            with pytest.raises((InputError, ValueError)):
                with_client(server, Memory(), partial(leaf_of, prefix))
        assert server.requests.total() == 0


# --- single blobs ---------------------------------------------------------------------------------

SIZES = [b"", b"x", bytes(range(256)) * 64, b"5" * 5_000_000, b"17" * 8_500_000]


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("data", SIZES, ids=lambda data: str(len(data)))
def test_blobs_of_every_size_go_both_ways(data: bytes, lengths: bool) -> None:
    async def there(client: SyncClient) -> None:
        assert await client.send(name_of(data)) == len(data)

    async def back(client: SyncClient) -> None:
        assert await client.receive(name_of(data)) == len(data)

    with FakeServer() as server:
        server.faults.lengths = lengths
        with_client(server, Memory(data), there)
        assert server.blobs == {name_of(data): data}
        empty = Memory()
        with_client(server, empty, back)
        assert empty.blobs == {digest_of(data): data}


def test_what_is_not_here_is_not_sent_and_what_is_not_there_not_received() -> None:
    async def send(client: SyncClient) -> None:
        await client.send(ABSENT)

    async def receive(client: SyncClient) -> None:
        await client.receive(ABSENT)

    async def malformed(client: SyncClient) -> None:
        await client.send("zz")

    with FakeServer() as server:
        with pytest.raises(InputError, match=ABSENT):
            with_client(server, Memory(), send)
        with pytest.raises(InputError):
            with_client(server, Memory(), malformed)
        assert ABSENT in failed(server, Memory(), receive, Refused)


@pytest.mark.parametrize("fault", ["close", "cut", "wrong"])
def test_a_blob_that_does_not_arrive_whole_is_not_stored(fault: str) -> None:
    data = b"some blob" * 1000
    local = Memory()

    async def receive(client: SyncClient) -> None:
        await client.receive(name_of(data))

    with FakeServer([data]) as server:
        if fault == "close":
            server.faults.close.add("get")
        else:
            getattr(server.faults, fault).add(name_of(data))
        failed(server, local, receive, Misbehaved if fault == "wrong" else Unreachable)
        failed(server, local, synced, Misbehaved if fault == "wrong" else Unreachable)
    assert not local.blobs


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_a_connection_that_is_reset_at_once_is_unreachable(loop: str) -> None:
    """Also when the loop learns of the reset before it has looked at the connection."""

    async def ask(remote: Remote) -> None:
        for _ in range(150):
            with pytest.raises(Unreachable):
                await remote.state()

    async def main() -> None:
        async with new_client() as client, anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(ask, Remote(Http(client, server.url), server.place))

    with FakeServer() as server:
        server.faults.hang_up = True
        if loop == "trio":
            anyio.run(main, backend="trio")
        else:
            anyio.run(main, backend_options={"use_uvloop": loop == "uvloop"})


def test_a_wrong_key_is_said_in_words() -> None:
    with FakeServer(key="another") as server:
        assert "Unauthorized" in failed(server, Memory(), state_of, Refused)


# --- syncs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_sync_levels_both_sides_and_counts_right(backend: str) -> None:
    here = [b"here %d" % i for i in range(40)]
    there = [b"there, longer %d" % i for i in range(60)]
    both = [b"both %d" % i for i in range(300)]
    local = Memory(*here, *both)
    with FakeServer(there + both) as server:
        stats = with_client(server, local, synced, backend=backend)
        assert {digest.hex(): data for digest, data in local.blobs.items()} == server.blobs
        assert len(server.blobs) == 400
        assert (stats.uploaded, stats.uploaded_size) == (40, sum(map(len, here)))
        assert (stats.downloaded, stats.downloaded_size) == (60, sum(map(len, there)))
        assert not stats.already_synced
        assert not stats.one_way
        assert set(server.uploads.values()) == set(server.downloads.values()) == {1}
        assert server.requests["head"] == 0
        server.forget()
        stats = with_client(server, local, synced, backend=backend)
        assert stats.already_synced
        assert stats.downloaded == stats.uploaded == 0
        assert server.requests == {"state": 1}


def test_several_blobs_are_on_their_way_at_a_time() -> None:
    numbered = [b"number %d" % i for i in range(4000)]
    together = [data for data in numbered if name_of(data).startswith("27")]
    with FakeServer(together[::2]) as server:
        server.faults.delay = 0.02
        with_client(server, Memory(*together[1::2]), synced)
        assert 1 < server.at_once["get"] <= 16
        assert 1 < server.at_once["post"] <= 16


def test_a_one_way_sync_takes_everything_and_gives_nothing() -> None:
    there = [b"there %d" % i for i in range(50)]
    with FakeServer(there) as server:
        local = Memory(*there[:20])
        stats = with_client(server, local, synced, one_way=True)
        assert (stats.downloaded, stats.uploaded, stats.one_way) == (30, 0, True)
        assert len(local.blobs) == 50
        assert server.requests["post"] == 0


def test_a_one_way_sync_that_finds_something_only_here_transfers_nothing() -> None:
    there = [b"there %d" % i for i in range(50)]
    with FakeServer(there) as server:
        local = Memory(*there[:20], *(b"here %d" % i for i in range(7)))
        with pytest.raises(OneWayConflict) as caught:
            with_client(server, local, synced, one_way=True)
        assert caught.value.only_here == 7
        assert str(caught.value).startswith("7 ")
        assert local.written == server.uploads.total() == server.downloads.total() == 0


def test_only_leaves_that_differ_are_fetched() -> None:
    there = [b"there %d" % i for i in range(2000)]
    with FakeServer(there) as server:
        local = Memory(*there[:-1], b"here")
        with_client(server, local, synced)
        prefixes = {name_of(data)[:2] for data in (there[-1], b"here")}
        assert server.requests == {"state": 1, "leaf": len(prefixes), "get": 1, "post": 1}


def test_a_leaf_that_only_is_here_is_not_asked_for() -> None:
    with FakeServer() as server:
        with_client(server, Memory(*(b"here %d" % i for i in range(20))), synced)
        assert server.requests == {"state": 1, "post": 20}


class Prompt(Remote):
    """A server that answers at once."""

    def __init__(self) -> None:
        pass

    @asynccontextmanager
    async def get(
        self, digest: Digest
    ) -> AsyncIterator[tuple[int | None, AsyncIterator[bytes]] | None]:
        yield None


def test_an_error_of_whoever_fetches_leaves_alone() -> None:
    """Also while so much has come that more waits for him."""

    async def main() -> None:
        peer = BlobstashPeer(Prompt(), Tree, Inline())
        async with peer.fetch([digest_of(b"%d" % i) for i in range(100)]) as groups:
            await anext(aiter(groups))
            await anyio.wait_all_tasks_blocked()
            raise StoreError("no room")

    with pytest.raises(StoreError, match="no room"):
        anyio.run(main)


# --- this side of it ------------------------------------------------------------------------------


def surface(*blobs: bytes, exact: bool = False) -> Sync:
    def connect(url: str, key: str) -> Remote:
        raise AssertionError("nobody is asked")

    return Sync(Memory(*blobs), connect, Inline(), exact=exact)


async def listed(sync: Sync, prefix: str) -> tuple[int, bytes]:
    size, chunks = await sync.leaf_listing(prefix)
    return size, b"".join([chunk async for chunk in chunks])


def test_the_state_of_a_store_is_the_recorded_one() -> None:
    sync = surface(*BLOBS)
    for _ in range(2):
        state = anyio.run(sync.state)
        assert state.leaves == STATES["state"]["response"]["json"]["leaves"]
        assert state.root == STATES["state"]["response"]["json"]["root"]


def test_a_leaf_state_is_exact() -> None:
    sync = surface(*BLOBS)
    for prefix in ("27", "fd", "00"):
        mine = [digest for digest in sorted(DIGESTS) if digest.startswith(prefix)]
        assert anyio.run(sync.leaf_state, prefix) == LeafState(prefix, len(mine), mine or None)
    for prefix in ("2", "zz", "FD", "", "2\n", "é1"):
        with pytest.raises(InputError):
            anyio.run(sync.leaf_state, prefix)


@pytest.mark.parametrize("exact", [False, True])
def test_a_listing_is_as_long_as_it_says(exact: bool) -> None:
    sync = surface(*BLOBS, exact=exact)
    for prefix in ("00", "27", "fd", "ff"):
        size, body = anyio.run(listed, sync, prefix)
        assert len(body) == size
        expected = sorted(d for d in DIGESTS if d >= prefix)
        if exact:
            expected = [d for d in expected if d.startswith(prefix)]
        value = {"prefix": prefix, "count": len(expected), "hashes": expected or None}
        assert json.loads(body) == value


def test_the_answers_can_be_registered() -> None:
    routes: dict[str, Any] = {}
    sync = surface(*BLOBS)
    sync.register(routes.__setitem__)
    assert set(routes) == {"/api/sync/state", "/api/sync/state/leaf/<prefix>"}
    assert anyio.run(routes["/api/sync/state"]).count == len(BLOBS)


def test_a_state_tree_says_what_a_server_says() -> None:
    tree = StateTree(Tree(parse_digest(digest) for digest in DIGESTS[:100]))
    for digest in DIGESTS[100:]:
        tree.add(digest)
    with FakeServer(BLOBS) as server:
        assert with_client(server, Memory(), state_of) == tree.state()
    assert tree.root() == hash_of(DIGESTS)
