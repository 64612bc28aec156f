"""What a bucket's digest is: a function of the digests in it, and of nothing else."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from mesh.core.digest import Digest

LEAF_MAX = 16  # fixed by protocol version 1: part of every root


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """What a bucket is, seen from outside: how many digests, and their Merkle digest."""

    count: int
    digest: Digest


def hash_leaf(joined: bytes) -> Digest:
    """The digest of a bucket of at most LEAF_MAX digests, given sorted and joined."""
    return Digest(hashlib.blake2b(joined, digest_size=32, person=b"mesh-leaf-v1").digest())


def hash_fork(children: Sequence[Bucket | None]) -> Digest:
    """The digest of a bucket of more than LEAF_MAX digests, from its 16 children."""
    bitmap = 0
    parts = [b""]
    for nibble, child in enumerate(children):
        if child is not None and child.count:
            bitmap |= 0x8000 >> nibble
            parts.append(child.digest)
            parts.append(child.count.to_bytes(8, "big"))
    parts[0] = bitmap.to_bytes(2, "big")
    return hash_body(b"".join(parts))


def hash_body(body: bytes) -> Digest:
    """The digest of a fork, given what is hashed: the bitmap, and 40 bytes for each child."""
    return Digest(hashlib.blake2b(body, digest_size=32, person=b"mesh-node-v1").digest())


EMPTY = Bucket(0, hash_leaf(b""))


def hash_sorted(digests: Sequence[bytes], depth: int) -> Digest:
    """The digest of the bucket that holds exactly `digests`: sorted, alike in `depth` nibbles."""
    return hash_range(digests, 0, len(digests), depth)


def prefix_range(prefix: str) -> tuple[bytes, bytes | None]:
    """The half-open range [low, high) of byte strings that begin with `prefix` in hex.

    `high` is None when nothing is above the range.
    """
    low = bytes.fromhex(prefix + "0" * (len(prefix) % 2))
    stem = prefix.rstrip("f")
    if not stem:
        return low, None
    above = stem[:-1] + f"{int(stem[-1], 16) + 1:x}"
    return low, bytes.fromhex(above + "0" * (len(above) % 2))


# --- ranges of sorted digests ----------------------------------------------------------------


def cuts_of(digests: Sequence[bytes], low: int, high: int, depth: int) -> list[int]:
    """17 indices that cut digests[low:high], alike in `depth` nibbles, at each next nibble."""
    first = digests[low]
    half, odd = divmod(depth, 2)
    head = first[:half]
    cuts = [low]
    for nibble in range(1, 16):
        tail = (first[half] & 0xF0) | nibble if odd else nibble << 4
        cuts.append(bisect_left(digests, head + bytes((tail,)), cuts[-1], high))
    cuts.append(high)
    return cuts


def hash_range(digests: Sequence[bytes], low: int, high: int, depth: int) -> Digest:
    if high - low <= LEAF_MAX:
        return hash_leaf(b"".join(digests[low:high]))
    cuts = cuts_of(digests, low, high, depth)
    return hash_fork(
        [Bucket(b - a, hash_range(digests, a, b, depth + 1)) if a < b else None
         for a, b in pairwise(cuts)]
    )  # fmt: skip
