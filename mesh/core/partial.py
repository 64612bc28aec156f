"""What has arrived of a large blob: a growing beginning of it, and who brought which part.

A large blob comes in order, so that what is here of it is always its first bytes, whoever brought
them. Only the whole can be checked against its name. When it is wrong and several peers had a part
in it, it is fetched again from one of them alone. Once it is right, the parts of the wrong one are
compared with it. Whoever brought a part that differs has lied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from mesh.core.digest import Digest

# A cut transfer goes on at once while each try brings at least so much: a request costs a
# millisecond, and 64 KiB are 8 s of a 64-kbit/s link.
PROGRESS = 64 * 1024

# Tries in a row that brought less; then the peer is asked for nothing until its next round.
FRUITLESS = 3

# What has come is made to survive a crash after so many bytes, or so many seconds. A sync of
# 16 MiB takes some 50 ms of a slow disk. A crash costs at most what comes between two syncs: 16 MiB
# on a fast link, 10 s on a slow one.
SAVE_BYTES = 16 * 1024 * 1024
SAVE_SECONDS = 10.0

# Unfinished blobs that are kept while nothing comes. Rounds fetch eight at a time (Limits.large in
# actors/round.py), so 64 have room for eight times as many interruptions. Each is missing here, so
# its bytes will be needed. But a disk must not fill up with blobs whose holders are gone for good.
MOST_KEPT = 64
MOST_KEPT_BYTES = 64 * 1024**3  # as large as one blob of replication may be (max_replica_bytes)
LONGEST_KEPT = 7 * 86_400.0  # seconds of this process without a byte: who was away for a week

# Parts of one blob, as told apart by who brought them: as many as a blob of 64 GiB has stretches
# (core/trade.py), and some. Peers that take turns more often than this are as good as one that
# nobody can name: all is fetched again from one.
MOST_PIECES = 20_000

Bringer: TypeAlias = bytes
"""Who brought a part, as the record of an unfinished blob keeps it: see core.holder.bringer."""

STRANGERS: Bringer = b""
"""All those who push and are not proven to be anybody: they count as one."""

_TRADED = b"part:"


def traded(address: str) -> Bringer:
    """Who brought a part of a blob of which it had no whole itself, as the record names it.

    Only the whole tells whether a part is right, and such a peer has not seen the whole. So wrong
    bytes of it prove no lie: it may have been told them.
    """
    return _TRADED + address.encode().hex().encode()


def is_traded(bringer: Bringer) -> bool:
    """Whether a part came from somebody who had not seen the whole."""
    return bringer.startswith(_TRADED)


class Piece(NamedTuple):
    """The bytes [start, stop), as `bringer` brought them."""

    bringer: Bringer
    start: int
    stop: int


class Evidence(NamedTuple):
    """A part of a blob that turned out wrong: the hash of the bytes that `bringer` sent."""

    bringer: Bringer
    start: int
    stop: int
    hash: bytes


class Progress:
    """The pieces of one blob so far. One that is fetched `alone` has one bringer only."""

    def __init__(self, *, alone: bool = False, evidence: Sequence[Evidence] = ()) -> None:
        """`evidence`: what an earlier try brought that was wrong as a whole."""
        self.alone = alone
        self.evidence = tuple(evidence)
        self.pieces: list[Piece] = []

    @property
    def size(self) -> int:
        """Bytes so far: where the next piece begins."""
        return self.pieces[-1].stop if self.pieces else 0

    @property
    def bringers(self) -> list[Bringer]:
        """Who had a part in it, in the order in which they first did."""
        return list(dict.fromkeys(piece.bringer for piece in self.pieces))

    @property
    def guarded(self) -> bool:
        """Whether a configured peer has a part in it, so that no stranger may touch it."""
        return any(bringer != STRANGERS for bringer in self.bringers)

    def welcomes(self, bringer: Bringer) -> bool:
        """Whether `bringer` may go on where the pieces end; otherwise it has to begin anew."""
        if self.alone:
            return self.bringers in ([], [bringer])
        last = self.pieces[-1].bringer if self.pieces else bringer
        return bringer == last or len(self.pieces) < MOST_PIECES

    def add(self, bringer: Bringer, length: int) -> None:
        """`bringer` brought the next `length` bytes."""
        if length == 0:
            return
        start, stop = self.size, self.size + length
        if self.pieces and self.pieces[-1].bringer == bringer:
            start = self.pieces.pop().start
        self.pieces.append(Piece(bringer, start, stop))

    def liar(self) -> Bringer | None:
        """Whom a whole that is not what its name says convicts; None when it may be one of many."""
        bringers = self.bringers
        return bringers[0] if len(bringers) == 1 and not is_traded(bringers[0]) else None

    def liars(self, hashes: Sequence[bytes]) -> list[Bringer]:
        """Who sent a part that differs, given the hash of the right bytes of each evidence."""
        wrong = (
            seen.bringer
            for seen, right in zip(self.evidence, hashes, strict=True)
            if seen.hash != right
        )
        return list(dict.fromkeys(wrong))


class Tries:
    """Whether a transfer that was cut goes on at once."""

    def __init__(self) -> None:
        self._fruitless = 0

    def again(self, brought: int) -> bool:
        """A try was cut after `brought` bytes; whether there is another one."""
        self._fruitless = 0 if brought >= PROGRESS else self._fruitless + 1
        return self._fruitless < FRUITLESS


class Kept(NamedTuple):
    """An unfinished blob in the store. `busy` while bytes of it are arriving.

    `guarded`: see Progress.guarded.
    """

    digest: Digest
    size: int
    busy: bool
    guarded: bool = False


class Shelf:
    """Which unfinished blobs are given up: those that nothing has come of for longest."""

    def __init__(self) -> None:
        self._seen: dict[Digest, tuple[int, float]] = {}

    def look(self, kept: Sequence[Kept], now: float) -> list[Digest]:
        """What of `kept` is to go, oldest first; `now` in seconds, never going back.

        What is busy stays, and so does the last one: it may be larger than all limits.
        """
        before, self._seen = self._seen, {}
        for each in kept:
            size, since = before.get(each.digest, (-1, now))
            fresh = each.busy or size != each.size
            self._seen[each.digest] = (each.size, now if fresh else since)
        idle = [each for each in kept if not each.busy]
        idle.sort(key=lambda each: (self._seen[each.digest][1], each.digest))
        count, total = len(idle), sum(each.size for each in idle)
        gone: list[Digest] = []
        for each in idle:
            old = now - self._seen[each.digest][1] > LONGEST_KEPT
            over = count > MOST_KEPT or (total > MOST_KEPT_BYTES and count > 1)
            if old or over:
                gone.append(each.digest)
                count -= 1
                total -= each.size
        return gone
