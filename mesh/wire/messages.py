"""The typed messages between nodes: MessagePack maps and arrays, unknown fields ignored.

Lengths are checked before memory is taken for what they announce: a message is bounded as a
whole, and msgspec checks every field against its type as it decodes.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from mesh.core.cells import CELL, MAX_CELLS, PREFIX
from mesh.core.horizon import MAX_HOPS, MAX_PEERS, MAX_WORDS, Edge
from mesh.core.reconcile import MAX_ASKS, Ask, Forked, Listed
from mesh.core.shortcut import MAX_PREFIXES, MIN_WIDTH, Found
from mesh.decoding import messagepack_of
from mesh.errors import InputError, Undecodable

PROTOCOL = 1
"""The version of everything in docs/protocol.md; nodes of different versions refuse each other."""

CONTENT_TYPE = "application/vnd.mesh.v1+msgpack"
FRAMES_TYPE = "application/vnd.mesh.v1+frames"

# A tree answer at its largest: 4,096 leaves of 16 digests are 2.1 MB, as many forks at full
# width 2.4 MB. Requests are smaller. Twice that leaves room for unknown fields.
MAX_MESSAGE = 5 * 1024 * 1024

# Digests in one batch request or offer: 128 kB of names; at 4 KiB a blob a 16-MiB answer.
MAX_BATCH = 4096

MAX_NAME = 64  # characters of a node's name: it stands in every log line and table

RawDigest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Digests = Annotated[bytes, Meta(max_length=32 * MAX_BATCH)]
NodeId = Annotated[bytes, Meta(min_length=16, max_length=16)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
KeyId = Annotated[bytes, Meta(min_length=4, max_length=4)]
Cells = Annotated[bytes, Meta(max_length=CELL * MAX_CELLS)]

# Bytes of counts in a greeting: 64 are sent, a later version may want more.
MAX_COUNTS = 256


class Hello(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """Who speaks, and what it has; part of every request that a peer should remember.

    `node` is the identity of a data directory, `instance` that of one run of a process: the same
    node under another instance is a copy of its data directory. `root` is null while the tree is
    being built. `name` is null for whoever knows it already. `set` is 0: one set of blobs a mesh,
    until there are several.
    """

    node: NodeId
    instance: Annotated[bytes, Meta(min_length=8, max_length=8)]
    root: RawDigest | None
    count: Count
    name: Annotated[str, Meta(max_length=MAX_NAME)] | None = None
    protocol: int = PROTOCOL
    set: int = 0


class Offering(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """A sketch that the speaker has: `key` names its key, `cells` says how many it keeps.

    `counts`: a byte of some of them, by which the listener estimates how much differs.
    """

    key: KeyId
    cells: Count
    counts: Annotated[bytes, Meta(max_length=MAX_COUNTS)]


class Greeting(Hello, array_like=True, frozen=True, kw_only=True):
    """A Hello that asks how the listener stands. With a name, it asks for the listener's name."""

    sketch: Offering | None = None


class RootReply(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """The answer to a Greeting.

    `equal`: the roots are; then the hello has neither root nor count, which are the asker's.
    `pulled`: how many milliseconds ago the answerer last finished a pull from the asker; null when
    never, so that the asker knows whom it has to push to. Where the roots differ, one of two is
    there: `cells`, the first cells of a sketch, as many as the answerer thinks will do; or `top`,
    the answer to an ask for the bucket of everything, with SHORT_HASH bytes a hash. `size`: the
    bytes of all blobs of the set that the hello names; null when the roots are equal, or when it is
    not known.
    """

    hello: Hello
    equal: bool = False
    pulled: Count | None = None
    top: Forked | Listed | None = None
    cells: Cells | None = None
    size: Count | None = None


class CellsRequest(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """Cells `start` to `stop` of the sketch under `key` of the set that was named by `root`."""

    root: RawDigest
    key: KeyId
    start: Count
    stop: Count
    set: int = 0


class CellsReply(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """The cells; null when the answerer has no such sketch, or not any more."""

    cells: Cells | None


class FindRequest(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """All digests that begin with one of `prefixes`: `width` bytes each, ascending and joined."""

    root: RawDigest
    prefixes: Annotated[bytes, Meta(max_length=PREFIX * MAX_PREFIXES)]
    width: Annotated[int, Meta(ge=MIN_WIDTH, le=PREFIX)]
    set: int = 0


class FindReply(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """The digests; null when the set is gone, or they are too many."""

    found: Found | None


class TreeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Buckets to look into, of the set that the answerer named by `root`."""

    root: RawDigest
    asks: Annotated[list[Ask], Meta(max_length=MAX_ASKS)]
    width: Annotated[int, Meta(ge=8, le=32)]
    set: int = 0


class TreeReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answers to the first of the asks; none when the answerer has moved on to another root.

    `root` and `count` name the set that was answered from, or the present one when there are no
    answers.
    """

    root: RawDigest
    count: Count
    answers: list[Forked | Listed]


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Blobs to stream, as digests joined; the answer is frames."""

    digests: Digests
    set: int = 0


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What the speaker has and thinks the listener lacks; also how new blobs are announced.

    `more`: there is more that is new than `digests` says, so a round is worth while.
    """

    hello: Hello
    digests: Digests = b""
    more: bool = False


class Start(msgspec.Struct, frozen=True, array_like=True):
    """A blob of which the first `at` bytes are there."""

    digest: RawDigest
    at: Count


class OfferReply(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the offered blobs to push; the answerer holds a claim on them meanwhile.

    `pulls`: the asker is a peer of the answerer, which so can fetch by itself what is not offered.
    `starts`: where to go on with those that have come in part; left out when there are none.
    """

    hello: Hello
    wants: Digests = b""
    pulls: bool = False
    starts: Annotated[list[Start], Meta(max_length=MAX_BATCH)] | msgspec.UnsetType = msgspec.UNSET


class PushReply(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the pushed frames; sent when everything stored is durable."""

    hello: Hello
    stored: Count = 0
    known: Count = 0
    rejected: Count = 0


class StandingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """How do you stand with your peers?

    `route`: the nodes that the question is passed on to, one by the other; the last one answers.
    Each of them has to be a peer of the one before it. `since`: milliseconds; the answerer begins
    rounds with the peers that it has not been level with for so long, and tells of each only what
    a round has proven. None: it begins none, and tells what it knows.
    """

    route: Annotated[list[NodeId], Meta(max_length=MAX_HOPS)]
    since: Count | None = None
    set: int = 0


class StandingReply(msgspec.Struct, frozen=True, kw_only=True):
    """The peers of the answerer that count; `more` when there are more than MAX_PEERS of them.

    `root`: the root of the answerer, None while it has no tree.
    `error`: the question could not be passed on, and why. `never`: nor will it be, because the
    node that it was passed on to does not know the question.
    """

    peers: Annotated[list[Edge], Meta(max_length=MAX_PEERS)]
    more: bool = False
    root: RawDigest | None = None
    error: Annotated[str, Meta(max_length=MAX_WORDS)] | None = None
    never: bool = False


class PartsRequest(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """How far are you with a large blob?

    `known`: the bytes of it that the asker knows to be there; the answer waits until there are
    clearly more, for `wait` milliseconds at most. With 0 it waits until the blob begins to come.
    None: answer at once.
    """

    digest: RawDigest
    known: Count | None = None
    wait: Count = 0
    set: int = 0


class PartsReply(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """Of a blob of `size` bytes the first `front` are here; all of them when it is here.

    `node`: who answers. `size` is None when the blob is not here, and not on its way. `window`:
    so many stretches behind `front` may be here soon, in any order; 0 when nothing is traded.
    """

    node: NodeId
    size: Count | None = None
    front: Count = 0
    window: Count = 0


T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """A message as MessagePack."""
    return _encoder.encode(message)


def decode(kind: type[T], data: bytes) -> T:
    """A message of type `kind`; InputError when `data` is anything else."""
    if len(data) > MAX_MESSAGE:
        raise InputError(f"a message of {len(data)} bytes; the limit is {MAX_MESSAGE}")
    try:
        return messagepack_of(kind).read(data)
    except Undecodable as error:
        raise InputError(f"not a {kind.__name__}: {error}") from error


def joined(data: bytes) -> bytes:
    """`data` itself if it is a whole number of digests; InputError otherwise."""
    if len(data) % 32:
        raise InputError(f"{len(data)} bytes are not a whole number of digests")
    return data
