"""How many cells of a sketch it takes: numbers only, so that nobody loads numpy for them."""

from __future__ import annotations

from math import ceil, inf, sqrt
from typing import NamedTuple

PREFIX = 7
"""Bytes of a digest that a sketch sums: two of 100 million digests share them once in 14 sets."""

CELL = 11
"""Bytes of a cell on the wire: a sum of 7, and 4 of a weight."""

# The cells whose counts a greeting carries, from which the number of differences is estimated. The
# first cells lie close together: few differences show there. The later ones lie wider apart: there
# the count of many differences still fits into a byte. A greeting has room for 64 of them (200
# bytes both ways). They give the number within ±18 %, which is the deviation of a variance that is
# estimated from 64 values.
COUNT_CELLS = tuple(1 + at + at * at // 4 for at in range(64))

# Cells in one answer: 2.9 MB, below the limit of a message.
MAX_CELLS = 2**18

# With 1.36 d + 2.2 √d + 6 cells, 19 of 20 pairs of sets that differ by d digests can be told
# apart. Measured for d = 1 to 10,000 (tests/core/test_sketch.py).
_A_DIFFERENCE = 1.36
_A_ROOT = 2.2
_AT_LEAST = 6

# When more than half of what the larger side has differs, a descent or a listing is cheaper than
# cells for all of it.
_TOO_MANY = 2

# Cells are sent for an estimate that is raised by 1.5 standard deviations. One estimate in 15 is
# still too low then, and half of those come out all the same.
_CAUTION = 1.5

# From 50,000 differences on, the estimate is raised by 2 standard deviations: a third round trip
# with so many cells would cost each side half a second.
_MANY = 50_000
_CAUTION_WITH_MANY = 2.0

# However uncertain an estimate is, the true number is taken to be at most 1/0.65 of it: otherwise a
# bad estimate would ask for cells without bound.
_AT_LEAST_OF_IT = 0.65

# When one side has more digests than the other, and that alone explains the estimate, the estimate
# is known better than from the counts: within 6 %.
_OF_A_SURPLUS = 0.06

# A count travels as one byte, so it is known modulo 256. It can be told while its standard
# deviation is below 39 (a variance of 1,500): then 3.3 deviations fit into ±128.
_WRAPS = 1500.0


class Estimate(NamedTuple):
    """About how many digests two sets differ by, and the relative standard deviation of that."""

    differences: float
    deviation: float


def needed(differences: float) -> int:
    """Cells that most likely tell so many differences apart."""
    return ceil(_A_DIFFERENCE * differences + _A_ROOT * sqrt(differences) + _AT_LEAST)


def estimate(ours: bytes, theirs: bytes, surplus: int) -> Estimate:
    """How much two sets differ, from the counts of their sketches.

    `surplus`: how many more there are in theirs. inf when there are more than counts can tell.
    """
    # What a digest adds to cell i, in units of 2^32, has the mean p = 1 / (1 + i/2). Its variance
    # is p (13/12 - p), since 13/12 is the mean square of what a digest weighs.
    terms: list[tuple[float, float]] = []
    for cell, here, there in zip(COUNT_CELLS, ours, theirs, strict=False):
        p = 1 / (1 + cell / 2)
        apart = (there - here - surplus * p + 128) % 256 - 128
        terms.append((p, apart * apart / (p * (13 / 12 - p))))
    least = max(1.0, float(abs(surplus)))
    rare = terms[len(terms) // 2 :]
    found = sum(square for _, square in rare) / max(1, len(rare))
    total = 0.0
    for _ in range(6):  # it settles within some per cent in three
        guess = max(least, found)
        # The fuller a cell, the surer its square. Where the byte may have wrapped, it says nothing.
        sure = [(1 / (2 + 1 / (guess * p)), square) for p, square in terms if guess * p < _WRAPS]
        total = sum(weight for weight, _ in sure)
        if not total:
            return Estimate(inf, 0.0)
        found = sum(weight * square for weight, square in sure) / total
    deviation = 1 / sqrt(total)
    if found * (1 - deviation / 2) < abs(surplus):
        # One side's surplus may be the whole difference. When it can be, it most likely is.
        deviation = _OF_A_SURPLUS
    return Estimate(max(least, found), deviation)


def worth_sending(guess: Estimate, larger: int, kept: int) -> int:
    """How many cells to answer with; 0 when the sketch is of no use.

    `larger`: how many digests the larger side has; `kept`: how many cells both sides keep.
    """
    if _TOO_MANY * guess.differences > larger or needed(guess.differences) > kept:
        return 0
    caution = _CAUTION if guess.differences < _MANY else _CAUTION_WITH_MANY
    most = guess.differences / max(_AT_LEAST_OF_IT, 1 - caution * guess.deviation)
    return min(needed(most), kept, MAX_CELLS)
