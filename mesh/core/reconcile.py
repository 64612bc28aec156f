"""What differs between two trees: what to ask next, what is missing here and there.

One side answers (`answer`, a pure function of its tree), the other descends (`Descent`): it asks
only below buckets that diverge, many at a time, deepest first, and yields differences as it
finds them. Neither side ever holds the list of what both have.

A descent ends proven or not. What we had, plus what is missing here, minus what is missing there,
has to hash to the root that the other side named. So every bucket that was touched is rebuilt from
what was learned of it, with our own full digests for the parts that were equal. This proof costs no
request. It fails where two buckets differ and their truncated hashes do not; then the descent is
repeated with full hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeAlias

import msgspec

from mesh.core.digest import Digest, split_digests
from mesh.core.tree import EMPTY, LEAF_MAX, Bucket, Tree, hash_fork, hash_leaf, hash_sorted
from mesh.errors import Misbehaved

# Bytes of a bucket's digest on the wire. 8 make a chance collision a matter of 2^-64 a compare;
# a forged one costs the forger 2^32 work and us one more descent, since the proof fails.
SHORT_HASH = 8
FULL_HASH = 32

# What one request may ask: protocol version 1 allows 4,096 buckets. We ask for a quarter, which
# keeps an answer below 200 kB, and the answerer's work on it below 30 ms.
MAX_ASKS = 4096
WINDOW = 1024

# Digests listed in one answer: 256 kB.
MAX_LISTED = 8192

# An honest fork that we look into has a digest of ours below it, and each digest has at most 63
# forks above it: so our own size bounds how many there can be. A liar can invent them without end.
_FORKS_PER_DIGEST = 64


class Ask(msgspec.Struct, array_like=True, frozen=True):
    """One bucket that the asker wants to know more of.

    Without `after`: its children, or its digests where it is a leaf. With it: its digests that
    are greater than `after` (b"" for the first of them).
    """

    prefix: str
    after: bytes | None = None


class Forked(msgspec.Struct, array_like=True, frozen=True, tag=0):
    """An inner bucket: bit 15 of `bitmap` is child 0; a count and a hash for each bit set."""

    bitmap: int
    counts: list[int]
    hashes: bytes


class Listed(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Digests of a bucket, ascending and joined; `more` when the bucket has greater ones."""

    digests: bytes
    more: bool = False


Answer: TypeAlias = Forked | Listed


def answer(tree: Tree, asks: Sequence[Ask], width: int) -> list[Answer]:
    """The answers to the first of `asks`, from one tree; at least one, maybe not all.

    `width` is the number of bytes that the asker wants of each bucket's digest.
    """
    answers: list[Answer] = []
    room = MAX_LISTED
    for ask in asks[:MAX_ASKS]:
        if room <= 0:
            break
        if ask.after is None and tree.bucket(ask.prefix).count > LEAF_MAX:
            answers.append(_forked(tree.children(ask.prefix), width))
            continue
        if ask.after is None:
            answers.append(Listed(b"".join(tree.digests(ask.prefix))))
            room -= LEAF_MAX
            continue
        found = list(islice(tree.digests(ask.prefix, ask.after), room + 1))
        answers.append(Listed(b"".join(found[:room]), len(found) > room))
        room -= len(found)
    return answers


def _forked(children: Sequence[Bucket | None], width: int) -> Forked:
    there = [(nibble, child) for nibble, child in enumerate(children) if child is not None]
    return Forked(
        sum(0x8000 >> nibble for nibble, _ in there),
        [child.count for _, child in there],
        b"".join(child.digest[:width] for _, child in there),
    )


class Surplus:
    """Digests that we have below `prefix` and the other side has not; iterated lazily."""

    __slots__ = ("_held", "_tree", "count", "prefix")

    def __init__(self, tree: Tree, prefix: str, held: frozenset[Digest]) -> None:
        self._tree = tree
        self.prefix = prefix
        self._held = held
        self.count = tree.bucket(prefix).count - sum(1 for digest in held if digest in tree)

    def __iter__(self) -> Iterator[Digest]:
        return (d for d in self._tree.digests(self.prefix) if d not in self._held)


class Named:
    """Digests that we have and the other side has not, each by its name."""

    __slots__ = ("_digests", "count")

    def __init__(self, digests: Sequence[Digest]) -> None:
        self._digests = digests
        self.count = len(digests)

    def __iter__(self) -> Iterator[Digest]:
        return iter(self._digests)


OnlyHere: TypeAlias = Surplus | Named


class Difference(msgspec.Struct):
    """A piece of what differs, as it was found."""

    missing_here: list[Digest] = msgspec.field(default_factory=list)
    missing_there: list[OnlyHere] = msgspec.field(default_factory=list)


class _Branch:
    """An inner bucket of theirs, while its children are being resolved.

    `promise` is what they said of it: its count, and the first bytes of its digest.
    """

    __slots__ = ("buckets", "open", "parent", "prefix", "promise")

    def __init__(self, parent: _Branch | None, prefix: str, promise: Bucket) -> None:
        self.parent = parent
        self.prefix = prefix
        self.promise = promise
        self.buckets: list[Bucket | None] = [None] * 16
        self.open = 16


class _Task:
    """A bucket of theirs that is still to be asked for, or is being listed."""

    __slots__ = ("listing", "parent", "prefix", "promise")

    def __init__(self, parent: _Branch | None, prefix: str, promise: Bucket) -> None:
        self.parent = parent
        self.prefix = prefix
        self.promise = promise
        self.listing: Listing | None = None

    def ask(self) -> Ask:
        return Ask(self.prefix, self.listing.last if self.listing is not None else None)


class Descent:
    """One comparison of our tree with a set whose root and count the other side named.

    Call `asks`, send them, `feed` what came back, until `done`. `proven` says whether all that
    was found explains their root. Raises Misbehaved when their answers contradict each other.
    """

    def __init__(self, ours: Tree, root: Digest, count: int, width: int = SHORT_HASH) -> None:
        self.root = root
        self.width = width
        self.proven = False
        self._ours = ours
        self._tasks: list[_Task] = []
        self._asked: list[_Task] = []
        self._forks_left = _FORKS_PER_DIGEST * (len(ours) + 1)
        self._first = Difference()
        self._void = False
        promise = Bucket(count, root)
        if ours.bucket("") == promise:
            self.proven = True
        else:
            self._compare(None, "", promise, self._first)

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask."""
        return self._void or not (self._tasks or self._asked)

    def asks(self, limit: int = WINDOW) -> list[Ask]:
        """The next buckets to ask for; the deepest first, so that little stays open."""
        self._asked = self._tasks[-limit:]
        del self._tasks[-limit:]
        return [task.ask() for task in self._asked]

    def feed(self, answers: Sequence[Answer]) -> Difference:
        """Take the answers to the first of the last asks; what they show to differ."""
        asked, self._asked = self._asked, []
        if not answers or len(answers) > len(asked):
            raise Misbehaved(f"the peer gave {len(answers)} answers to {len(asked)} questions")
        self._tasks.extend(asked[len(answers) :])
        found, self._first = self._first, Difference()
        for task, reply in zip(asked, answers, strict=False):
            if isinstance(reply, Forked):
                self._fork(task, reply, found)
            elif task.listing is not None:
                self._list(task, task.listing, reply, found)
            else:
                self._leaf(task, reply, found)
        return found

    def rest(self) -> Difference:
        """What could be told without asking at all; for a descent that is done at once."""
        found, self._first = self._first, Difference()
        return found

    # --- one answer ------------------------------------------------------------------------

    def _fork(self, task: _Task, reply: Forked, found: Difference) -> None:
        nibbles = [n for n in range(16) if reply.bitmap & 0x8000 >> n]
        if (
            task.listing is not None
            or len(task.prefix) >= 63
            or reply.bitmap >> 16
            or len(reply.counts) != len(nibbles)
            or len(reply.hashes) != self.width * len(nibbles)
            or min(reply.counts, default=0) < 1
            or sum(reply.counts) != task.promise.count
            or task.promise.count <= LEAF_MAX
        ):
            raise _broken(task.prefix, "its children are not what it promised")
        self._forks_left -= 1
        if self._forks_left < 0:
            raise _broken(task.prefix, f"more than {_FORKS_PER_DIGEST} forks for each digest here")
        branch = _Branch(task.parent, task.prefix, task.promise)
        theirs: list[Bucket | None] = [None] * 16
        for at, nibble in enumerate(nibbles):
            digest = Digest(reply.hashes[at * self.width : (at + 1) * self.width])
            theirs[nibble] = Bucket(reply.counts[at], digest)
        ours = self._ours.children(task.prefix)
        for nibble in reversed(range(16)):
            there, here = theirs[nibble], ours[nibble]
            prefix = task.prefix + f"{nibble:x}"
            if there is None:
                if here is not None:
                    found.missing_there.append(Surplus(self._ours, prefix, frozenset()))
                self._resolve(branch, prefix, None)
            elif here is not None and here.count == there.count and self._same(here, there):
                self._resolve(branch, prefix, here)
            else:
                self._compare(branch, prefix, there, found)

    def _leaf(self, task: _Task, reply: Listed, found: Difference) -> None:
        theirs = _checked(reply, task.prefix, b"")
        bucket = Bucket(len(theirs), hash_leaf(reply.digests))
        if reply.more or len(theirs) > LEAF_MAX or not self._kept(task, bucket):
            raise _broken(task.prefix, "its digests are not those that it promised")
        found.missing_here.extend(d for d in theirs if d not in self._ours)
        surplus = Surplus(self._ours, task.prefix, frozenset(theirs))
        if surplus.count:
            found.missing_there.append(surplus)
        self._resolve(task.parent, task.prefix, bucket)

    def _list(self, task: _Task, listing: Listing, reply: Listed, found: Difference) -> None:
        listed = _checked(reply, task.prefix, listing.last)
        listing.add(listed)
        if listing.count > task.promise.count or (reply.more and not listed):
            raise _broken(task.prefix, "its listing has no end")
        found.missing_here.extend(listed)
        if reply.more:
            self._tasks.append(task)
            return
        bucket = listing.bucket()
        if not self._kept(task, bucket):
            raise _broken(task.prefix, "its listing is not what it promised")
        self._resolve(task.parent, task.prefix, bucket)

    # --- bookkeeping -------------------------------------------------------------------------

    def _compare(
        self, parent: _Branch | None, prefix: str, promise: Bucket, found: Difference
    ) -> None:
        """A bucket that differs: it is ours alone, theirs alone, or has to be looked into."""
        here = self._ours.bucket(prefix)
        if not promise.count:
            if promise.digest != EMPTY.digest:
                raise _broken(prefix, "it names a root for an empty set that is not the empty one")
            found.missing_there.append(Surplus(self._ours, prefix, frozenset()))
            self._resolve(parent, prefix, EMPTY)
            return
        task = _Task(parent, prefix, promise)
        if not here.count and promise.count > LEAF_MAX:
            task.listing = Listing(prefix, promise.count)
        self._tasks.append(task)

    def _resolve(self, branch: _Branch | None, prefix: str, bucket: Bucket | None) -> None:
        """What they have at `prefix` is known; close every branch that this completes."""
        while branch is not None:
            branch.buckets[int(prefix[-1], 16)] = bucket
            branch.open -= 1
            if branch.open:
                return
            bucket = Bucket(branch.promise.count, hash_fork(branch.buckets))
            if not self._same(bucket, branch.promise):
                # With full hashes nothing is left but a lie; with short ones two different
                # buckets may have looked alike.
                if self.width == FULL_HASH:
                    raise _broken(branch.prefix, "its children do not hash to what it promised")
                self._void = True
                return
            prefix, branch = branch.prefix, branch.parent
        self.proven = bucket is not None and bucket.digest == self.root

    def _kept(self, task: _Task, bucket: Bucket) -> bool:
        return bucket.count == task.promise.count and self._same(bucket, task.promise)

    def _same(self, full: Bucket, short: Bucket) -> bool:
        return full.digest[: len(short.digest)] == short.digest


class Listing:
    """The digest of a bucket that is listed in order, without keeping what was listed.

    The listing is cut into slices of some hundred digests by their next nibbles. Of a finished
    slice only the count and the digest are kept. Its digests are kept as well while they are so
    few that the bucket above may still be a leaf.
    """

    _SLICE = 512

    def __init__(self, prefix: str, count: int) -> None:
        """A listing of the bucket at `prefix`, which is promised to hold `count` digests."""
        self.count = 0
        self.last = b""
        self._depth = len(prefix)
        self._width = len(prefix)
        while count > self._SLICE and self._width < 63:
            count //= 16
            self._width += 1
        self._open: list[Digest] = []
        self._done: list[_Slice] = []

    def add(self, digests: Sequence[Digest]) -> None:
        """Take the next digests; they ascend, and lie below the prefix."""
        for digest in digests:
            if self._open and not _alike(self._open[0], digest, self._width):
                self._close()
            self._open.append(digest)
        self.count += len(digests)
        if digests:
            self.last = digests[-1]

    def bucket(self) -> Bucket:
        """The bucket of everything that was added."""
        self._close()
        level = self._done
        for depth in range(self._width - 1, self._depth - 1, -1):
            level = list(_folded(level, depth))
        return level[0].bucket if level else EMPTY

    def _close(self) -> None:
        if self._open:
            self._done.append(_Slice.of(self._open, self._width))
            self._open = []


class _Slice:
    __slots__ = ("bucket", "first", "small")

    def __init__(self, first: Digest, bucket: Bucket, small: list[Digest]) -> None:
        self.first = first
        self.bucket = bucket
        self.small = small

    @classmethod
    def of(cls, digests: list[Digest], depth: int) -> _Slice:
        bucket = Bucket(len(digests), hash_sorted(digests, depth))
        return cls(digests[0], bucket, digests if len(digests) <= LEAF_MAX else [])


def _folded(slices: Sequence[_Slice], depth: int) -> Iterator[_Slice]:
    """The buckets at `depth` from the slices one nibble below, both in order."""
    at = 0
    while at < len(slices):
        end = at
        while end < len(slices) and _alike(slices[at].first, slices[end].first, depth):
            end += 1
        group = slices[at:end]
        at = end
        count = sum(piece.bucket.count for piece in group)
        if count <= LEAF_MAX:
            yield _Slice.of([digest for piece in group for digest in piece.small], depth)
            continue
        children: list[Bucket | None] = [None] * 16
        for piece in group:
            children[int(piece.first.hex()[depth], 16)] = piece.bucket
        yield _Slice(group[0].first, Bucket(count, hash_fork(children)), [])


def _alike(a: bytes, b: bytes, nibbles: int) -> bool:
    half, odd = divmod(nibbles, 2)
    return a[:half] == b[:half] and (not odd or a[half] >> 4 == b[half] >> 4)


def _checked(reply: Listed, prefix: str, after: bytes) -> list[Digest]:
    """The digests of an answer, once they are whole, ascending and below `prefix`."""
    if len(reply.digests) % 32:
        raise _broken(prefix, "it lists pieces of digests")
    digests = split_digests(reply.digests)
    previous = after
    for digest in digests:
        if digest <= previous:
            raise _broken(prefix, "its digests do not ascend")
        previous = digest
    for digest in digests[:1] + digests[-1:]:
        if not digest.hex().startswith(prefix):
            raise _broken(prefix, "it lists digests of another bucket")
    return digests


def _broken(prefix: str, what: str) -> Misbehaved:
    return Misbehaved(f"the peer's tree contradicts itself at bucket '{prefix}': {what}")
