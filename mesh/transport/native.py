"""A peer that speaks mesh's own protocol, over any Wire."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import anyio
import msgspec

from mesh.core.cells import PREFIX
from mesh.core.digest import Digest, split_digests
from mesh.core.load import Load
from mesh.core.reconcile import FULL_HASH, SHORT_HASH, Answer, Ask, Descent, Difference
from mesh.core.shortcut import Find, Found, Moment, MoreCells, Question, Shortcut, named
from mesh.core.tree import Tree
from mesh.errors import InputError, Misbehaved, Refused, TooMuch, one_line
from mesh.offload import Inline
from mesh.transport.ahead import ahead
from mesh.transport.base import Comparison, Meeting, Offered, Pushed, Sketches, Wire
from mesh.transport.pace import CALL, GREETING, Paced, Pulse, begun, within
from mesh.wire.frames import Frame, FrameReader
from mesh.wire.messages import (
    PROTOCOL,
    BatchRequest,
    CellsReply,
    CellsRequest,
    FindReply,
    FindRequest,
    Greeting,
    Hello,
    Offer,
    Offering,
    OfferReply,
    PartsReply,
    PartsRequest,
    PushReply,
    RootReply,
    StandingReply,
    StandingRequest,
    TreeReply,
    TreeRequest,
    decode,
    encode,
)

# A peer keeps its recent sets for us, so its set moves away under a descent only in a storm of
# writes. Then the round ends unproven, with what it found, and the next one goes on.
_RESTARTS = 8

# How often a peer is asked which blobs it has, when its set has moved on between two requests.
_TRIES = 3

# Bytes of cells that are worked on on the event loop: some 400 differences, 10 ms. More than that
# goes to a thread.
_CELLS_AT_ONCE = 8 * 1024
_INLINE = Inline()

# After a refused question about sketches a peer is compared by trees alone for this long: trees
# cost more the more differs, and somebody who mends the proxy sees the effect soon.
_ONLY_TREES = 600.0

log = logging.getLogger("mesh")

T = TypeVar("T")


class NativePeer:
    """See transport.base.Replica."""

    def __init__(
        self, wire: Wire, place: str, node_id: bytes, sketches: Sketches | None = None
    ) -> None:
        """`place`: host:port, as errors name the peer; `node_id`: who we are.

        Without `sketches`, only trees are compared.
        """
        self.load = Load()
        self._wire = wire
        self._sketches = sketches
        self._only_trees_until = float("-inf")
        # The run of the peer that has told us its name; that costs bytes, so it is asked for once.
        self._named: bytes | None = None
        self._place = place
        self._push = f"push/{node_id.hex()}"

    @property
    def sketches(self) -> Sketches | None:
        """Our sketches, unless the peer has refused lately to compare by them."""
        return None if anyio.current_time() < self._only_trees_until else self._sketches

    def only_trees(self) -> None:
        """The peer, or a proxy before it, refused a question about sketches."""
        self._only_trees_until = anyio.current_time() + _ONLY_TREES

    async def meet(self, hello: Hello) -> Meeting:
        """Exchange roots. Refused when the peer speaks another version."""
        sketches = self.sketches
        moment = await sketches.present() if sketches is not None else None
        greeting = Greeting(
            node=hello.node,
            instance=hello.instance,
            root=hello.root,
            count=hello.count,
            name=hello.name if self._named is None else None,
            sketch=_offering(moment) if moment is not None else None,
        )
        reply = await self._call("root", encode(greeting), RootReply)
        theirs = self._theirs(reply, hello)
        if theirs.protocol != PROTOCOL:
            raise Refused(
                f"{self._place} speaks protocol {theirs.protocol}, this node {PROTOCOL}; "
                "run the same version on both"
            )
        root = Digest(theirs.root) if theirs.root is not None else None
        equal = root is not None and root == hello.root
        ready = root is not None
        pulled = reply.pulled / 1000 if reply.pulled is not None else None
        return NativeMeeting(
            theirs,
            root,
            theirs.count,
            pulled,
            equal,
            ready,
            reply.top,
            reply.cells,
            size=reply.size,
        )

    def _theirs(self, reply: RootReply, ours: Hello) -> Hello:
        """How the peer stands, in full; its name is None when it has told that before."""
        theirs = reply.hello
        if theirs.name is not None:
            self._named = theirs.instance
        elif theirs.instance != self._named:
            self._named = None  # it was restarted: the next greeting asks for its name
        if not reply.equal:
            return theirs
        if ours.root is None:
            raise Misbehaved(f"{self._place} has the same root as this node, which named none")
        return msgspec.structs.replace(theirs, root=ours.root, count=ours.count)

    def compare(self, ours: Callable[[], Tree], meeting: Meeting) -> Comparison:
        """By sketches where the peer has one, and otherwise by a descent."""
        return _NativeComparison(self, ours, meeting, self.sketches)

    async def tree(self, request: TreeRequest) -> TreeReply:
        """One request of a descent."""
        return await self._call("tree", encode(request), TreeReply)

    async def answer(self, root: Digest, key: bytes, question: Question) -> bytes | Found | None:
        """One request of a comparison by sketches, about the set of that root."""
        if isinstance(question, MoreCells):
            wanted = CellsRequest(root=root, key=key, start=question.start, stop=question.stop)
            return (await self._call("cells", encode(wanted), CellsReply)).cells
        sought = FindRequest(root=root, prefixes=b"".join(question.prefixes), width=question.width)
        return (await self._call("find", encode(sought), FindReply)).found

    @asynccontextmanager
    async def fetch(self, digests: Sequence[Digest]) -> AsyncIterator[AsyncIterator[list[Frame]]]:
        """Ask for a batch."""
        body = encode(BatchRequest(digests=b"".join(digests)))
        async with (
            begun(self._wire.download("batch", body), f"a batch from {self._place}") as chunks,
            aclosing(self._frames(chunks)) as frames,
        ):
            yield frames

    async def _frames(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[list[Frame], None]:
        reader = FrameReader()
        async for chunk in Paced(chunks, f"a batch from {self._place}"):
            # A list may be empty: it still tells the reader that bytes are coming.
            yield reader.feed(chunk)
        reader.finish()

    @asynccontextmanager
    async def fetch_large(self, digest: Digest, start: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """Ask for one blob, from an offset on."""
        what = f"blob {digest.hex()} from {self._place}"
        asked = self._wire.download(f"blob/{digest.hex()}/{start}", b"")
        async with begun(asked, what) as chunks, ahead(Paced(chunks, what)) as coming:
            yield coming

    async def parts(self, request: PartsRequest) -> PartsReply | None:
        """Ask how far it is with a large blob."""
        return await self._call("parts", encode(request), PartsReply)

    @asynccontextmanager
    async def fetch_part(
        self, digest: Digest, start: int, stop: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Ask for a part of one blob."""
        what = f"a part of blob {digest.hex()} from {self._place}"
        path = f"part/{digest.hex()}/{start}/{stop}"
        async with begun(self._wire.download(path, b""), what) as chunks:
            yield Paced(chunks, what)

    def brought(self, digest: Digest, size: int | None) -> None:
        """Nothing to do: nobody looks here how far a blob is."""

    async def offer(self, hello: Hello, digests: Sequence[Digest], *, more: bool) -> Offered:
        """Offer blobs, or announce that there are more."""
        if self._named is not None:
            hello = msgspec.structs.replace(hello, name=None)
        offer = Offer(hello=hello, digests=b"".join(digests), more=more)
        reply = await self._call("offer", encode(offer), OfferReply)
        if len(reply.wants) % 32:
            raise Misbehaved(f"{self._place} wants pieces of digests")
        offered = set(digests)
        wants = [digest for digest in split_digests(reply.wants) if digest in offered]
        starts = {Digest(each.digest): each.at for each in reply.starts or ()}
        return Offered(wants, reply.hello, reply.pulls, starts)

    async def push(self, frames: AsyncIterator[bytes]) -> Pushed:
        """Send blobs that the peer wants."""
        return await self._upload(self._push, frames)

    async def push_large(
        self, digest: Digest, size: int, data: AsyncIterator[bytes], start: int
    ) -> Pushed:
        """Send one large blob, from `start` on."""
        begun = f"/{start}" if start else ""
        return await self._upload(f"{self._push}/{digest.hex()}/{size}{begun}", data)

    async def standing(self, request: StandingRequest) -> StandingReply | None:
        """Ask how the peer stands with its own peers, or a node behind it with its."""
        hops = 1 + len(request.route)
        with within(GREETING * hops, f"{self._place} (standing)"):
            answer = await self._wire.call("standing", encode(request))
        return self._decoded(StandingReply, answer)

    async def holding(self, hello: Hello, digests: Sequence[Digest]) -> set[Digest] | None:
        """Ask for its root, and then which digests of that set begin as these do."""
        prefixes = sorted({digest[:PREFIX] for digest in digests})
        for _ in range(_TRIES):
            meeting = await self.meet(hello)
            if meeting.root is None:
                raise Refused(f"{self._place} is still building its tree")
            found = await self.answer(meeting.root, b"", Find(prefixes, PREFIX))
            if isinstance(found, Found):
                return set(digests).intersection(named(prefixes, found))
        raise Refused(f"the set of {self._place} changes faster than it can be asked")

    async def close(self) -> None:
        """Let go of connections."""
        await self._wire.close()

    async def _upload(self, path: str, chunks: AsyncIterator[bytes]) -> Pushed:
        pulse = Pulse(f"pushing to {self._place}")
        answer = b""
        with pulse.watch():
            answer = await self._wire.upload(path, pulse.beat(chunks))
        reply = self._decoded(PushReply, answer)
        return Pushed(reply.stored, reply.rejected, reply.hello)

    async def _call(self, path: str, body: bytes, kind: type[T]) -> T:
        with within(GREETING if path == "root" else CALL, f"{self._place} ({path})"):
            answer = await self._wire.call(path, body)
        return self._decoded(kind, answer)

    def _decoded(self, kind: type[T], answer: bytes) -> T:
        try:
            return decode(kind, answer)
        except InputError as error:
            raise Misbehaved(f"{self._place} answered nonsense: {error}") from error


@dataclass(frozen=True, slots=True)
class NativeMeeting(Meeting):
    """A meeting that has answered the first question of a comparison already.

    `top`: the answer to an ask for the bucket of everything, at SHORT_HASH; or `cells`: the first
    of its sketch.
    """

    top: Answer | None
    cells: bytes | None


class _NativeComparison:
    """By sketches first; unless that is proven, by descents until one is.

    A new descent begins whenever the peer's set has moved on.
    """

    def __init__(
        self,
        peer: NativePeer,
        ours: Callable[[], Tree],
        meeting: Meeting,
        sketches: Sketches | None,
    ) -> None:
        self._peer = peer
        self._ours = ours
        self._sketches = sketches
        self._top = meeting.top if isinstance(meeting, NativeMeeting) else None
        self._cells = meeting.cells if isinstance(meeting, NativeMeeting) else None
        self.root = meeting.root
        self.count = meeting.count
        self.own_count = 0
        self.proven = False
        self.restarts = 0

    async def __aiter__(self) -> AsyncGenerator[Difference, None]:
        found = await self._shortcut()
        if found is not None:
            self.proven = True
            yield found
            return
        width = SHORT_HASH
        while self.root is not None and self.restarts <= _RESTARTS:
            ours = self._ours()
            self.own_count = len(ours)
            descent = Descent(ours, self.root, self.count, width)
            yield descent.rest()
            while not descent.done:
                answers = await self._answers(descent, width)
                if not answers:
                    self.restarts += 1
                    break
                yield descent.feed(answers)
            else:
                if descent.proven:
                    self.proven = True
                    return
                if width == FULL_HASH:
                    raise Misbehaved("the peer's tree does not explain its root")
                width = FULL_HASH
                self.restarts += 1

    async def _shortcut(self) -> Difference | None:
        """What sketches show to differ, once it is proven; None when they do not show it."""
        cells, self._cells = self._cells, None
        moment = await self._sketches.present() if cells and self._sketches is not None else None
        if not cells or moment is None or self.root is None or self._sketches is None:
            return None
        work = self._sketches.work if len(cells) > _CELLS_AT_ONCE else _INLINE
        key = moment.sketch.key.id
        self.own_count = len(moment.tree)
        shortcut = await work(Shortcut, moment, self.root, self.count, cells)
        while shortcut.question is not None:
            try:
                reply = await self._peer.answer(self.root, key, shortcut.question)
            except Refused as error:
                # Sketches are a shortcut, and trees show the same.
                log.info("comparing by trees for a while: %s", one_line(error))
                self._peer.only_trees()
                return None
            await work(shortcut.feed, reply)
        return shortcut.found if shortcut.proven else None

    async def _answers(self, descent: Descent, width: int) -> Sequence[Answer]:
        asks = descent.asks()
        if self._top is not None:
            # Only the very first ask of a round has been answered by the meeting: it is for the
            # bucket of everything, unless that is to be listed because we have nothing.
            top, self._top = self._top, None
            if len(asks) == 1 and asks[0].prefix == "" and asks[0].after is None:
                return [top]
        reply = await self._asked(descent.root, asks, width)
        if reply.answers and reply.root != descent.root:
            raise Misbehaved("the peer answered from another set than it was asked for")
        if not reply.answers:
            self.root, self.count = Digest(reply.root), reply.count
        return reply.answers

    async def _asked(self, root: Digest, asks: list[Ask], width: int) -> TreeReply:
        """The answers to as many of the first `asks` as a proxy lets through; at least to one."""
        load = self._peer.load
        while True:
            part = asks[: load.most_items(anyio.current_time())]
            try:
                return await self._peer.tree(TreeRequest(root=root, asks=part, width=width))
            except TooMuch:
                if len(part) == 1:
                    raise
                load.refused_items(len(part), anyio.current_time())


def _offering(moment: Moment) -> Offering:
    sketch = moment.sketch
    return Offering(key=sketch.key.id, cells=len(sketch), counts=sketch.counts())
