"""A rateless sketch of a set of digests: what two sets differ by, in as many bytes as differ.

After Yang et al., "Practical Rateless Set Reconciliation" (SIGCOMM 2024). There is no end of
cells; the first of them are kept. Each digest, by its first 7 bytes, is added to cell 0 and then
to cells at random, ever wider apart: to cell i with probability 1 / (1 + i/2). The difference of
two sketches is the sketch of what the sets differ by. Its first cells, 1.35 for each differing
digest, are enough to read all of them (`peel`), wherever they lie and whichever side has them.

docs/protocol.md has the arithmetic, which is the same in every language. Whoever knows the key can
forge cells with some 2^32 work: a sketch is a shortcut, and what it says has to be proven.

A sketch is an immutable value, as a tree is. Measured: 0.4 µs a digest, 4 MiB for 2^18 cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mesh.core.cells import CELL, COUNT_CELLS, PREFIX
from mesh.core.digest import Digest

Words = NDArray[np.uint64]

# A cell on the wire: the low 7 bytes of its sum, and the low 4 of its weight.
_WEIGHT = CELL - PREFIX
_SUM_BITS = np.uint64(2 ** (8 * PREFIX) - 1)
_WEIGHT_BITS = np.uint64(2 ** (8 * _WEIGHT) - 1)

# What a digest weighs: 2^31 and its check of 32 bits. So on average it is 2^32, and the higher
# bits of a weight tell about how many digests are in the cell.
_LEAST = np.uint64(2**31)

# Odd constants that scatter bits well: the first two from the finalizer of splitmix-like mixers,
# the last one a multiplier for congruential generators. Part of the protocol.
_MIX_A = np.uint64(0xD6E8FEB86659FD93)
_MIX_B = np.uint64(0x9FB21C651E98DF25)
_MIX_C = np.uint64(0xC2B2AE3D27D4EB4F)
_STEP = np.uint64(0xDA942042E4DD58B5)

# Digests at a time: their arrays, of some 100 kB each, stay in the processor's second cache.
_BATCH = 16384

# Rounds of peeling. An honest difference of 100,000 takes 13 where there are cells enough, and 60
# where there are just enough; forged cells could make each round find one.
_ROUNDS = 100


class Key(msgspec.Struct, frozen=True):
    """What places digests in cells; sketches of different keys have nothing to say to each other.

    `id` names it on the wire, and tells nothing else of it.
    """

    first: int
    second: int
    id: bytes

    @classmethod
    def of(cls, secret: bytes, number: int = 0) -> Key:
        """The key of set `number` in a mesh that shares `secret`, which may be empty."""
        message = number.to_bytes(8, "big") + secret
        made = hashlib.blake2b(message, digest_size=20, person=b"mesh-sketch-v1").digest()
        return cls(int.from_bytes(made[:8], "big"), int.from_bytes(made[8:16], "big"), made[16:])


class Apart(msgspec.Struct, frozen=True):
    """What two sets differ by, as the first PREFIX bytes of digests, ascending."""

    theirs: list[bytes]
    ours: list[bytes]


class Sketch:
    """The first cells of the sketch of a set."""

    __slots__ = ("_sums", "_weights", "key")

    def __init__(self, key: Key, sums: Words, weights: Words) -> None:
        """Two words a cell: the sum of the digests' first 7 bytes, and of their weights."""
        self.key = key
        self._sums = sums
        self._weights = weights

    @classmethod
    def of(cls, key: Key, cells: int, batches: Iterable[bytes]) -> Sketch:
        """The first `cells` cells for the digests in `batches`, joined."""
        sums, weights = np.zeros(cells, np.uint64), np.zeros(cells, np.uint64)
        for batch in batches:
            for names in _names(batch):
                _put(key, sums, weights, names, None)
        return cls(key, sums, weights)

    def __len__(self) -> int:
        return len(self._sums)

    def changed(self, added: Sequence[Digest], removed: Sequence[Digest]) -> Sketch:
        """This set with `added`, of which it has none, and without `removed`, all of which it has.

        Otherwise the sketch is one of no set, and no comparison with it will be proven.
        """
        sums, weights = self._sums.copy(), self._weights.copy()
        for digests, less in ((added, False), (removed, True)):
            for names in _names(b"".join(digests)):
                signs = np.full(len(names), less)
                _put(self.key, sums, weights, names, signs)
        return Sketch(self.key, sums, weights)

    def counts(self) -> bytes:
        """A byte from each of a few cells, by which the other side estimates what differs."""
        known = [at for at in COUNT_CELLS if at < len(self)]
        return bytes((self._weights[known] >> np.uint64(32)).astype(np.uint8).tobytes())

    def cells(self, start: int, stop: int) -> bytes:
        """Cells `start` to `stop`, as far as they are kept: sums, then weights; CELL bytes each."""
        sums, weights = self._sums[start:stop], self._weights[start:stop]
        return _low_bytes(sums, PREFIX) + _low_bytes(weights, _WEIGHT)

    def compare(self, theirs: Sequence[bytes]) -> Apart | None:
        """What differs from the set that has the first cells `theirs`, which came in pieces.

        None when they are too few to tell, or are no honest cells. Pieces have whole cells, and
        together not more than are kept here.
        """
        parts = [_parsed(piece) for piece in theirs]
        sums = np.concatenate([part[0] for part in parts])
        weights = np.concatenate([part[1] for part in parts])
        sums -= self._sums[: len(sums)]
        weights -= self._weights[: len(weights)]
        return peel(self.key, sums, weights)


def peel(key: Key, sums: Words, weights: Words) -> Apart | None:
    """All digests of the difference of two sketches, whose cells are emptied; None if they stay.

    At most as many as there are cells, in at most _ROUNDS rounds, whatever the cells hold.
    """
    looked_at: NDArray[np.intp] = np.arange(len(sums))
    found: list[Words] = []
    less: list[NDArray[np.bool_]] = []
    left = len(sums)
    for _ in range(_ROUNDS):
        names, signs = _alone(key, sums[looked_at], weights[looked_at])
        if not len(names):
            break
        left -= len(names)
        if left < 0:
            return None
        found.append(names)
        less.append(signs)
        looked_at = np.unique(_put(key, sums, weights, names, ~signs))
    if (sums & _SUM_BITS).any() or (weights & _WEIGHT_BITS).any():
        return None
    names = np.concatenate([*found, np.zeros(0, np.uint64)])
    signs = np.concatenate([*less, np.zeros(0, np.bool_)])
    return Apart(_prefixes(names[~signs]), _prefixes(names[signs]))


def _alone(key: Key, sums: Words, weights: Words) -> tuple[Words, NDArray[np.bool_]]:
    """Names that are alone in a cell, each once; and whether it is less by them, not more."""
    zero = np.uint64(0)
    found: list[Words] = []
    for cells, weighs in ((sums, weights), (zero - sums, zero - weights)):
        names = cells & _SUM_BITS
        weight = _weight(key, _mixed(key, names))
        found.append(names[np.flatnonzero(((weight ^ weighs) & _WEIGHT_BITS) == 0)])
    names, first = np.unique(np.concatenate(found), return_index=True)
    return names, first >= len(found[0])


def _put(
    key: Key, sums: Words, weights: Words, names: Words, less: NDArray[np.bool_] | None
) -> NDArray[np.intp]:
    """Add names to their cells, or take those away that are `less`; the cells that they are in."""
    mixed = _mixed(key, names)
    adding, weight = names, _weight(key, mixed)
    if less is not None:
        adding = np.where(less, np.uint64(0) - names, names)
        weight = np.where(less, np.uint64(0) - weight, weight)
    state = mixed | np.uint64(1)
    at = np.zeros(len(names))
    places: NDArray[np.intp] = np.zeros(len(names), np.intp)
    touched = [places]
    while len(places):
        np.add.at(sums, places, adding)
        np.add.at(weights, places, weight)
        state = state * _STEP
        # Two to the 53 is exact in a double, and so is every integer below it. Division, square
        # root and floor are exactly rounded: every machine comes to the same cells.
        gap = (state >> np.uint64(11)).astype(np.float64)
        gap += 1.0
        np.divide(2.0**53, gap, out=gap)
        np.sqrt(gap, out=gap)
        gap -= 1.0
        gap *= at + 1.5
        np.floor(gap, out=gap)
        at = at + gap
        at += 1.0
        inside = np.flatnonzero(at < len(sums))
        if len(inside) < len(at):
            adding, weight = adding[inside], weight[inside]
            state, at = state[inside], at[inside]
        places = at.astype(np.intp)
        touched.append(places)
    return np.concatenate(touched)


def _mixed(key: Key, names: Words) -> Words:
    """A word for each name, of which every bit depends on every bit of it and of the key."""
    mixed = names ^ np.uint64(key.first)
    mixed ^= mixed >> np.uint64(32)
    mixed *= _MIX_A
    mixed ^= mixed >> np.uint64(29)
    mixed *= _MIX_B
    mixed ^= mixed >> np.uint64(32)
    return mixed


def _weight(key: Key, mixed: Words) -> Words:
    return (((mixed + np.uint64(key.second)) * _MIX_C) >> np.uint64(32)) + _LEAST


def _names(joined: bytes) -> Iterator[Words]:
    """The first 7 bytes of digests as words, in batches."""
    words = np.frombuffer(joined, ">u8")[::4]
    for at in range(0, len(words), _BATCH):
        yield words[at : at + _BATCH].astype(np.uint64) >> np.uint64(8 * (8 - PREFIX))


def _parsed(cells: bytes) -> tuple[Words, Words]:
    cut = len(cells) // CELL * PREFIX
    return _words(cells[:cut], PREFIX), _words(cells[cut:], _WEIGHT)


def _low_bytes(words: Words, width: int) -> bytes:
    """The low `width` bytes of each word, big-endian and joined."""
    return words.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - width :].tobytes()


def _words(joined: bytes, width: int) -> Words:
    wide = np.zeros((len(joined) // width, 8), np.uint8)
    wide[:, 8 - width :] = np.frombuffer(joined, np.uint8).reshape(-1, width)
    return wide.reshape(-1).view(">u8").astype(np.uint64)


def _prefixes(names: Words) -> list[bytes]:
    joined = _low_bytes(np.sort(names), PREFIX)
    return [joined[at : at + PREFIX] for at in range(0, len(joined), PREFIX)]
