"""The two ports below the peer actor.

`Replica` is a peer as a round sees it: something to compare with, fetch from and push to. The
native protocol is one (transport/native.py); another protocol is another Replica.

`Wire` carries bytes between two nodes: three verbs, over HTTP or in memory. Both raise PeerErrors
only: Unreachable, Misbehaved, Refused.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, Protocol

from mesh.core.digest import Digest
from mesh.core.load import Load
from mesh.core.reconcile import Difference
from mesh.core.shortcut import Moment
from mesh.core.tree import Tree
from mesh.offload import Offload
from mesh.wire.frames import Frame
from mesh.wire.messages import Hello, PartsReply, PartsRequest, StandingReply, StandingRequest


@dataclass(frozen=True, slots=True)
class Meeting:
    """What a peer said when a round began.

    `hello` is None for a peer that has no identity of our kind. `root` is our kind of root, None
    when it is not known. `pulled`: seconds since it last pulled from us, None when never. `ready`
    is false while the peer is still building its tree. `size`: the bytes of all its blobs, None
    when it did not say.
    """

    hello: Hello | None
    root: Digest | None
    count: int
    pulled: float | None
    equal: bool
    ready: bool
    size: int | None = field(default=None, kw_only=True)


class Comparison(Protocol):
    """The differences with a peer, as they are found; iterate once."""

    @property
    def proven(self) -> bool:
        """Whether all that was found explains the root that the peer named."""

    @property
    def root(self) -> Digest | None:
        """The root of the set that was compared with."""

    @property
    def count(self) -> int:
        """How many digests that set has."""

    @property
    def own_count(self) -> int:
        """How many digests our set had when it was compared with that one."""

    @property
    def restarts(self) -> int:
        """How often the peer's set changed so that the comparison began anew."""

    def __aiter__(self) -> AsyncGenerator[Difference, None]:
        """Pieces of what differs; after a restart, some of them again. Close it when leaving."""


class Offered(NamedTuple):
    """What a peer said to an offer: what it wants pushed, how it stands, whether it pulls from us.

    One that does not pull cannot follow a hint that there is more: it has to be pushed to.
    `starts`: of large blobs of which it has the beginning, how many bytes.
    """

    wants: list[Digest]
    hello: Hello | None
    pulls: bool
    starts: Mapping[Digest, int] = MappingProxyType({})


class Pushed(NamedTuple):
    """What became of pushed blobs, and how the peer stands now."""

    stored: int
    rejected: int
    hello: Hello | None


class Replica(Protocol):
    """One peer. Safe to use from several tasks."""

    @property
    def load(self) -> Load:
        """How much may be sent to it at once, as far as is known."""

    async def meet(self, hello: Hello) -> Meeting:
        """One small request: are we equal?"""

    def compare(self, ours: Callable[[], Tree], meeting: Meeting) -> Comparison:
        """Find what differs from the set of the meeting; `ours` is asked at every (re)start."""

    def fetch(
        self, digests: Sequence[Digest]
    ) -> AbstractAsyncContextManager[AsyncIterator[list[Frame]]]:
        """Ask for up to MAX_BATCH blobs; the frames come in groups, maybe empty, in any order."""

    def fetch_large(
        self, digest: Digest, start: int
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes of one blob from `start` on."""

    async def parts(self, request: PartsRequest) -> PartsReply | None:
        """How far it is with a large blob; None when its protocol has no such question."""

    def fetch_part(
        self, digest: Digest, start: int, stop: int
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes [start, stop) of a blob that it has, or fetches; of one that answers `parts`.

        Refused when they do not come there soon.
        """

    def brought(self, digest: Digest, size: int | None) -> None:
        """Of a blob that is fetched from it `size` bytes have come, from it and from others.

        None when that is over. For whoever shows how far it is.
        """

    async def offer(self, hello: Hello, digests: Sequence[Digest], *, more: bool) -> Offered:
        """Name blobs that the peer may lack, or say that there are more."""

    async def push(self, frames: AsyncIterator[bytes]) -> Pushed:
        """Send BLOB frames; returns when what was good is durable there."""

    async def push_large(
        self, digest: Digest, size: int, data: AsyncIterator[bytes], start: int
    ) -> Pushed:
        """Send one large blob of `size` bytes; `data` has those from `start` on."""

    async def standing(self, request: StandingRequest) -> StandingReply | None:
        """How the peer stands with its own peers; None when its protocol has no such question."""

    async def holding(self, hello: Hello, digests: Sequence[Digest]) -> set[Digest] | None:
        """Those of `digests`, MAX_PREFIXES at most, that the peer has.

        None when its protocol has no such question.
        """

    async def close(self) -> None:
        """Let go of connections."""


class Sketches(Protocol):
    """The sketch of our set, and where long work is done; see actors.sketcher."""

    @property
    def work(self) -> Offload:
        """Runs what takes long."""

    async def present(self) -> Moment | None:
        """Our tree and its sketch; None while there is none."""


class Wire(Protocol):
    """Bytes to one node and back. `path` is what follows the protocol's base."""

    async def call(self, path: str, body: bytes) -> bytes:
        """A small message for a small answer (MAX_MESSAGE)."""

    def download(self, path: str, body: bytes) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A small message for a stream."""

    async def upload(self, path: str, chunks: AsyncIterator[bytes]) -> bytes:
        """A stream for a small answer."""

    async def close(self) -> None:
        """Let go of connections."""
