"""What a node answers to its peers, whatever carries the question: HTTP or a network in memory.

docs/protocol.md has the paths. No question makes the node do work in proportion to what it holds.
None makes it call anybody, but for `standing`, which may be passed on to a configured peer.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from itertools import pairwise
from typing import Protocol

import anyio
import msgspec

from mesh.actors.earlier import EarlierTrees
from mesh.actors.keeper import Keeper
from mesh.actors.large import take_pushed
from mesh.actors.round import Limits
from mesh.actors.sketcher import Sketcher
from mesh.actors.transfer import Intake, frames_of
from mesh.core.cells import MAX_CELLS, estimate, worth_sending
from mesh.core.digest import Digest, parse_digest, split_digests
from mesh.core.holder import NOBODY, Anonymous, Caller
from mesh.core.reconcile import SHORT_HASH, Ask, answer
from mesh.core.round import Tally
from mesh.core.shortcut import MAX_PREFIXES, Moment, find
from mesh.core.tree import LEAF_MAX, Tree
from mesh.decoding import from_hex
from mesh.errors import InputError, Misbehaved, Refused, StoreError, one_line
from mesh.wire.frames import FrameReader, Kind
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
    OfferReply,
    PartsReply,
    PartsRequest,
    PushReply,
    RootReply,
    StandingReply,
    StandingRequest,
    Start,
    TreeReply,
    TreeRequest,
    decode,
    encode,
    joined,
)

log = logging.getLogger("mesh")

# Streams to and from peers at a time. Each holds up to 4 MiB; a peer that is turned away comes
# back after a second, and its own rounds lose nothing.
_STREAMS = 24
_BUSY_SECONDS = 1.0

# A blob without sums that is hashed within this time (some hundred MB) is sent at once. For another
# one the asker is told to come back: an answer without a byte for 30 s would look like a stall.
_MOMENT = 5.0
_VERIFYING_SECONDS = 10.0

_AT_ONCE = 1024  # prefixes that are looked up on the event loop: 3 ms; more go to a thread

_LAST_WORDS = 5.0  # for committing what a cut stream has brought; a commit takes some ms


class Acquaintances(Protocol):
    """What the node knows of those who speak to it.

    A Hello is what somebody says who has the key of the mesh; nothing of it is proven. It may make
    us look, by a round that we begin ourselves. It changes nothing that we know of a peer.
    """

    def heard(self, hello: Hello, caller: Caller) -> None:
        """Somebody spoke to us; maybe a peer, maybe a stranger."""

    def greeted(self, hello: Hello, caller: Caller) -> None:
        """Somebody asked how we stand."""

    def hinted(self, hello: Hello) -> None:
        """Somebody says that it has more that is new."""

    def is_peer(self, hello: Hello) -> bool:
        """Whether a node that we call by ourselves has the id that was said.

        Whoever uses the id of a peer wrongly is told that we fetch by ourselves: it pushes less.
        """

    def pulled(self, hello: Hello) -> float | None:
        """Seconds since we last levelled ourselves with the peer of that id; None for never.

        Whoever uses the id of a peer wrongly learns this number. The peer is told it as before.
        """

    async def standing(self, request: StandingRequest) -> StandingReply:
        """How we stand with our peers; asked of one of them when the request has a route."""


class Service:
    """See transport.memory.Handler for the three verbs; raises InputError, Refused, StoreError."""

    def __init__(
        self,
        keeper: Keeper,
        limits: Limits,
        hello: Callable[[], Hello],
        known: Acquaintances,
        sketcher: Sketcher,
    ) -> None:
        """`hello` tells how we stand."""
        self._keeper = keeper
        self._limits = limits
        self._hello = hello
        self._known = known
        self._sketcher = sketcher
        self._earlier = EarlierTrees()
        self._streams = anyio.Semaphore(_STREAMS)

    async def call(self, path: str, body: bytes, caller: Caller = NOBODY) -> bytes:
        """root, cells, find, tree, offer, standing, parts."""
        if path == "root":
            return encode(await self._root(decode(Greeting, body), caller))
        if path == "cells":
            return encode(self._cells(decode(CellsRequest, body)))
        if path == "find":
            return encode(await self._find(decode(FindRequest, body)))
        if path == "tree":
            return encode(self._tree(decode(TreeRequest, body)))
        if path == "offer":
            return encode(await self._offer(decode(Offer, body), caller))
        if path == "standing":
            return encode(await self._standing(decode(StandingRequest, body)))
        if path == "parts":
            return encode(await self._parts(decode(PartsRequest, body)))
        raise InputError(f"no such request: {path!a}")

    async def download(self, path: str, body: bytes) -> AsyncGenerator[bytes, None]:
        """batch, blob/DIGEST/START, part/DIGEST/START/STOP."""
        kind, *rest = path.split("/")
        if kind == "batch" and not rest:
            request = decode(BatchRequest, body)
            _check_set(request.set)
            digests = split_digests(joined(request.digests))
            chunks = frames_of(self._keeper.door.batch, digests)
        elif kind == "blob" and len(rest) == 2:
            digest, start = parse_digest(rest[0]), _number(rest[1])
            size = await self._keeper.door.size(digest)
            if size is None:
                raise Refused(f"blob {digest.hex()} is not here")
            if start > size:
                raise Refused(f"blob {digest.hex()} has {size} bytes, nothing is at {start}")
            await self._check_verified(digest)
            chunks = self._keeper.door.whole(digest, size, start)
        elif kind == "part" and len(rest) == 3:
            digest = parse_digest(rest[0])
            chunks = await self._part(digest, _number(rest[1]), _number(rest[2]))
        else:
            raise InputError(f"no such request: {path!a}")
        with _Turn(self._streams):
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk

    async def _part(self, digest: Digest, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """A part of a blob that is here, or of one that is arriving, once the part has come."""
        arrival = self._limits.arrivals.find(digest)
        if arrival is not None and await arrival.has(start, stop):
            return arrival.read(start, stop)
        size = await self._keeper.door.size(digest) if self._keeper.has(digest) else None
        if size is None:
            raise Refused(f"that part of blob {digest.hex()} is not here")
        if not start <= stop <= size:
            raise Refused(f"blob {digest.hex()} has {size} bytes, not {start} to {stop}")
        await self._check_verified(digest)
        return self._keeper.door.whole(digest, size, start, stop)

    async def _parts(self, request: PartsRequest) -> PartsReply:
        """How far a blob has come; waits for more than is known, but not for long."""
        _check_set(request.set)
        arrivals, digest = self._limits.arrivals, Digest(request.digest)
        if request.known is not None:
            await arrivals.grown(digest, request.known, request.wait / 1000)
        node, arrival = self._hello().node, arrivals.find(digest)
        if self._keeper.has(digest):
            size = await self._keeper.door.size(digest)
            return PartsReply(node=node, size=size, front=size or 0)
        if arrival is None:
            return PartsReply(node=node)
        # Whoever has all is taken to have looked at the whole, which this node does at the end.
        front = min(arrival.front, arrival.size - 1)
        return PartsReply(node=node, size=arrival.size, front=front, window=arrival.window)

    async def _check_verified(self, digest: Digest) -> None:
        """Refused while a large blob is being verified: whoever asked would see nothing come."""
        if await self._keeper.door.verified(digest, _MOMENT):
            return
        left = {each.digest: each for each in self._keeper.door.verifying}
        how_far = f"{left[digest].done} of {left[digest].size}" if digest in left else "some"
        raise Refused(
            f"blob {digest.hex()} is being verified here, {how_far} bytes are done; ask again",
            _VERIFYING_SECONDS,
        )

    async def upload(
        self, path: str, chunks: AsyncIterator[bytes], caller: Caller = NOBODY
    ) -> bytes:
        """push/NODE, push/NODE/DIGEST/SIZE, push/NODE/DIGEST/SIZE/START."""
        kind, *rest = path.split("/")
        if kind != "push" or len(rest) not in (1, 3, 4):
            raise InputError(f"no such request: {path!a}")
        holder = Anonymous(_node(rest[0]), caller.key or "")  # nobody is who a path says
        with _Turn(self._streams):
            if len(rest) == 1:
                return encode(await self._push(holder, chunks))
            digest, size = parse_digest(rest[1]), _number(rest[2])
            start = _number(rest[3]) if len(rest) == 4 else 0
            return encode(await self._push_large(holder, digest, size, start, chunks))

    # --- small questions -----------------------------------------------------------------------

    async def _root(self, asker: Greeting, caller: Caller) -> RootReply:
        self._check(asker)
        self._known.greeted(asker, caller)
        self._keeper.disk.present()
        tree = self._keeper.tree
        if tree is None or asker.root is None or asker.root == tree.root:
            return self._stand(asker, tree)
        moment = await self._sketcher.present() if asker.sketch is not None else None
        if moment is not None:
            tree = moment.tree
            if asker.root == tree.root:
                return self._stand(asker, tree)
        self._earlier.keep(tree, anyio.current_time())
        if moment is not None and (cells := _worth(moment, asker)):
            return msgspec.structs.replace(self._stand(asker, tree), cells=cells)
        (top,) = answer(tree, [Ask("")], SHORT_HASH)
        return msgspec.structs.replace(self._stand(asker, tree), top=top)

    def _stand(self, asker: Greeting, tree: Tree | None) -> RootReply:
        """How we stand, with `tree` as our set."""
        hello = self._hello()
        if asker.name is None:
            hello = msgspec.structs.replace(hello, name=None)
        pulled = self._known.pulled(asker)
        ago = round(1000 * pulled) if pulled is not None else None
        if tree is None:
            return RootReply(hello=hello, pulled=ago)
        if asker.root == tree.root:
            hello = msgspec.structs.replace(hello, root=None, count=0)
            return RootReply(hello=hello, equal=True, pulled=ago)
        hello = msgspec.structs.replace(hello, root=tree.root, count=len(tree))
        return RootReply(hello=hello, pulled=ago, size=self._keeper.door.size_of(len(tree)))

    def _cells(self, request: CellsRequest) -> CellsReply:
        _check_set(request.set)
        moment = self._sketcher.find(Digest(request.root))
        if moment is None or moment.sketch.key.id != request.key:
            return CellsReply(cells=None)
        self._earlier.keep(moment.tree, anyio.current_time(), asked=True)
        stop = min(request.stop, request.start + MAX_CELLS)
        return CellsReply(cells=moment.sketch.cells(request.start, stop))

    async def _find(self, request: FindRequest) -> FindReply:
        _check_set(request.set)
        prefixes = _cut(request.prefixes, request.width)
        present = self._keeper.ready_tree()
        root = Digest(request.root)
        tree = present if present.root == root else self._earlier.find(root)
        if tree is None:
            return FindReply(found=None)
        self._earlier.keep(tree, anyio.current_time(), asked=True)
        if len(prefixes) <= _AT_ONCE:
            return FindReply(found=find(tree, prefixes))
        return FindReply(found=await self._limits.work(find, tree, prefixes))

    def _tree(self, request: TreeRequest) -> TreeReply:
        _check_set(request.set)
        present = self._keeper.ready_tree()
        root = Digest(request.root)
        tree = present if present.root == root else self._earlier.find(root)
        now = anyio.current_time()
        if tree is None:
            self._earlier.keep(present, now)
            return TreeReply(root=present.root, count=len(present), answers=[])
        self._earlier.keep(tree, now, asked=True)
        for ask in request.asks:
            _check_ask(ask)
        answers = answer(tree, request.asks, request.width)
        return TreeReply(root=root, count=len(tree), answers=answers)

    async def _offer(self, offer: Offer, caller: Caller) -> OfferReply:
        self._check(offer.hello)
        self._known.heard(offer.hello, caller)
        if offer.more:
            self._known.hinted(offer.hello)
        digests = split_digests(joined(offer.digests))
        wants = self._keeper.promise(digests)
        pulls = self._known.is_peer(offer.hello)
        starts = await self._starts(set(wants)) if wants else []
        return OfferReply(
            hello=self._nameless(),
            wants=b"".join(wants),
            pulls=pulls,
            starts=starts or msgspec.UNSET,
        )

    async def _starts(self, wants: set[Digest]) -> list[Start]:
        """Those that have come in part; a store that cannot tell has all of them pushed whole."""
        try:
            kept = await self._keeper.door.partials()
        except StoreError:
            return []
        return [
            Start(each.digest, each.size)
            for each in kept
            if each.digest in wants and each.size and not each.busy and not each.guarded
        ]

    async def _standing(self, request: StandingRequest) -> StandingReply:
        _check_set(request.set)
        self._keeper.disk.present()
        return await self._known.standing(request)

    def _nameless(self) -> Hello:
        """How we stand, to a node that has asked for our name when it met us."""
        return msgspec.structs.replace(self._hello(), name=None)

    def _check(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            raise Refused(f"this node speaks protocol {PROTOCOL}, you {hello.protocol}")
        _check_set(hello.set)
        ours = self._hello()
        if hello.node == ours.node and hello.instance != ours.instance:
            raise Refused(
                f"two nodes have the id {hello.node.hex()}: one data directory is a copy of the "
                "other; delete node.json in one of them and restart that node"
            )

    # --- pushed blobs ----------------------------------------------------------------------------

    async def _push(self, holder: Anonymous, chunks: AsyncIterator[bytes]) -> PushReply:
        tally = Tally()
        known = 0
        intake = Intake(self._keeper, holder, self._limits.work, tally)
        reader = FrameReader()
        try:
            async for chunk in chunks:
                frames = reader.feed(chunk)
                if any(frame.kind != Kind.BLOB for frame in frames):
                    raise InputError("a push has BLOB frames and an end mark, nothing else")
                known += len(frames)
                kept = [f for f in frames if f.length <= self._limits.max_replica_bytes]
                tally.failed += len(frames) - len(kept)
                await intake.add(kept)
            reader.finish()
            await intake.flush()
        except BaseException as error:
            await _last_words(intake)
            if isinstance(error, Misbehaved):
                raise InputError(str(error)) from error
            raise
        known -= tally.fetched + tally.failed
        return PushReply(
            hello=self._nameless(), stored=tally.fetched, known=known, rejected=tally.failed
        )

    async def _push_large(
        self,
        holder: Anonymous,
        digest: Digest,
        size: int,
        start: int,
        chunks: AsyncIterator[bytes],
    ) -> PushReply:
        limit = self._limits.max_replica_bytes
        if size > limit:
            raise Refused(f"blob {digest.hex()} has {size} bytes; max_replica_bytes is {limit}")
        try:
            fresh = await take_pushed(self._keeper, holder, digest, size, start, chunks)
        except Misbehaved as error:
            raise InputError(str(error)) from error
        finally:
            self._keeper.release(holder, [digest])
        return PushReply(hello=self._nameless(), stored=int(fresh), known=int(not fresh))


async def _last_words(intake: Intake) -> None:
    """Keep what came whole of a stream that was cut, or went wrong after it.

    A store that is not ready does not hold up a stop. One that fails does not hide what went wrong
    first: whoever pushed is told of that.
    """
    with anyio.move_on_after(_LAST_WORDS, shield=True):
        try:
            await intake.flush()
        except StoreError as error:
            log.warning("what came before a push broke off is lost: %s", one_line(error))


class _Turn:
    """One of a limited number of places, or Refused at once."""

    def __init__(self, places: anyio.Semaphore) -> None:
        self._places = places

    def __enter__(self) -> None:
        try:
            self._places.acquire_nowait()
        except anyio.WouldBlock:
            raise Refused("busy with other transfers; try again", _BUSY_SECONDS) from None

    def __exit__(self, *_: object) -> None:
        self._places.release()


def _check_set(number: int) -> None:
    if number != 0:
        raise Refused(f"this node has set 0 only, you ask for {number}")


def _worth(moment: Moment, asker: Greeting) -> bytes:
    """The cells that most likely tell our sets apart; none when a descent is better."""
    tree, sketch, offered = moment.tree, moment.sketch, asker.sketch
    if offered is None or offered.key != sketch.key.id or len(tree) <= LEAF_MAX:
        return b""
    guess = estimate(offered.counts, sketch.counts(), len(tree) - asker.count)
    kept = min(offered.cells, len(sketch))
    return sketch.cells(0, worth_sending(guess, max(len(tree), asker.count), kept))


def _cut(joined: bytes, width: int) -> list[bytes]:
    """The prefixes of a request; InputError unless they are whole, and ascend strictly."""
    if len(joined) % width or len(joined) > width * MAX_PREFIXES:
        raise InputError(f"{len(joined)} bytes are not up to {MAX_PREFIXES} prefixes of {width}")
    prefixes = [joined[at : at + width] for at in range(0, len(joined), width)]
    if any(a >= b for a, b in pairwise(prefixes)):
        raise InputError("the prefixes do not ascend")
    return prefixes


def _check_ask(ask: Ask) -> None:
    if len(ask.prefix) > 63 or any(c not in "0123456789abcdef" for c in ask.prefix):
        raise InputError(f"not a bucket: {ask.prefix[:80]!a}")
    if ask.after is not None and len(ask.after) not in (0, 32):
        raise InputError("a cursor is a digest or empty")


def _node(text: str) -> bytes:
    if len(text) != 32 or any(c not in "0123456789abcdef" for c in text):
        raise InputError(f"not a node id: {text[:80]!a}")
    return from_hex(text)


def _number(text: str) -> int:
    # isdigit() alone takes other scripts' digits; 18 digits stay below 2**63.
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InputError(f"not a number of bytes: {text[:80]!a}")
    return int(text)
