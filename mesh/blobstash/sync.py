"""Sync: a store's side of BlobStash's sync; what it answers, and syncs that it begins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice

from mesh.blobstash.client import LocalBlobs, SyncClient
from mesh.blobstash.remote import Remote
from mesh.blobstash.stats import SyncStats
from mesh.blobstash.tree import PREFIXES, LeafState, State, StateTree
from mesh.core.digest import Digest
from mesh.core.tree import Tree
from mesh.errors import InputError
from mesh.offload import Offload

# Digests of a listing that become one chunk: 67 bytes each in JSON, so 270 kB.
_CHUNK = 4096


class Sync:
    """State and leaves of what `local` holds, and syncs with servers.

    `exact` lists a leaf's prefix alone. By default a leaf is listed as the real server does it,
    from its prefix upwards. Real clients take their own leaf from the same over-long listing;
    compared with an exact one, they upload nearly their whole store (docs/blobstash.md).
    """

    def __init__(
        self,
        local: LocalBlobs,
        connect: Callable[[str, str], Remote],
        work: Offload,
        *,
        exact: bool = False,
    ) -> None:
        """`connect` makes a Remote from a URL and a key."""
        self._local = local
        self._connect = connect
        self._work = work
        self._exact = exact
        self._states = StateTree()

    def client(self, url: str, api_key: str, one_way: bool) -> SyncClient:
        """A client for one sync with the server at `url`."""
        return self.client_of(self._connect(url, api_key), one_way)

    def client_of(self, remote: Remote, one_way: bool) -> SyncClient:
        """A client for one sync with a server that is connected already."""
        return SyncClient(remote, self._local, self._work, one_way=one_way)

    async def sync(self, url: str, api_key: str, one_way: bool) -> SyncStats:
        """One sync with the server at `url`."""
        return await self.client(url, api_key, one_way).sync()

    async def state(self) -> State:
        """The state of what is here; only what has changed since the last call is hashed."""
        tree = await self._local.tree()
        return await self._work(self._state_of, tree)

    def _state_of(self, tree: Tree) -> State:
        # A tree of its own for each call, with what is cached: calls may overlap on two threads.
        states = self._states.following(tree)
        state = states.state()
        self._states = states
        return state

    async def leaf_state(self, prefix: str) -> LeafState:
        """The digests of one bucket, exactly; InputError for anything but two hex digits."""
        _check(prefix)
        hashes = [digest.hex() for digest in (await self._local.tree()).digests(prefix)]
        return LeafState(prefix, len(hashes), hashes or None)

    async def leaf_listing(self, prefix: str) -> tuple[int, AsyncIterator[bytes]]:
        """What `GET /api/sync/state/leaf/{prefix}` answers: bytes in all, and the JSON in chunks.

        InputError for anything but two hex digits.
        """
        _check(prefix)
        tree = await self._local.tree()
        count, start = _extent(tree, prefix, exact=self._exact)
        head = f'{{"prefix":"{prefix}","count":{count},"hashes":'.encode()
        # 64 digits, two quotes, and a comma before each but the first; or null.
        size = len(head) + (67 * count - 1 + 3 if count else 5)
        digests = tree.digests(prefix if self._exact else "", start) if count else None
        return size, _listed(head, digests)

    def register(self, add: Callable[[str, Callable[..., object]], None]) -> None:
        """Hand the two sync answers to a router: `add(path, answer)` for each of them."""
        add("/api/sync/state", self.state)
        add("/api/sync/state/leaf/<prefix>", self.leaf_listing)


def _extent(tree: Tree, prefix: str, *, exact: bool) -> tuple[int, bytes]:
    """How many digests a leaf's listing has, and after which digest it begins."""
    if exact:
        return tree.bucket(prefix).count, b""
    number = int(prefix, 16)
    below = sum(tree.bucket(p).count for p in PREFIXES[:number])
    # Everything from the prefix upwards is what is greater than the last possible digest below.
    start = bytes((number - 1,)) + b"\xff" * 31 if number else b""
    return len(tree) - below, start


async def _listed(head: bytes, digests: Iterator[Digest] | None) -> AsyncIterator[bytes]:
    yield head
    if digests is None:
        yield b"null}"
        return
    separator = "["
    while group := list(islice(digests, _CHUNK)):
        yield (separator + ",".join(f'"{digest.hex()}"' for digest in group)).encode()
        separator = ","
    yield b"]}"


def _check(prefix: str) -> None:
    if prefix not in PREFIXES:
        raise InputError(f"not a leaf: {prefix[:80]!a}; expected two lower-case hex digits")
