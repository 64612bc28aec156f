"""Dumb oracles and shared data for the tests of the core.

Nothing here imports the package: the canonical trie is written once more, from its description
alone and without regard to speed, so that a mistake cannot be on both sides.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Derandomized, so that a red run is red for everybody; without a deadline, since a busy machine
# is not a defect.
quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# --- the canonical trie ----------------------------------------------------------------------


def oracle_bucket(digests: Iterable[bytes], prefix: str = "") -> tuple[int, bytes]:
    """Count and digest of the bucket at `prefix`."""
    names = sorted({d.hex() for d in digests if d.hex().startswith(prefix)})
    return len(names), _oracle_digest(names, len(prefix))


def oracle_root(digests: Iterable[bytes]) -> bytes:
    return oracle_bucket(digests)[1]


def _oracle_digest(names: list[str], depth: int) -> bytes:
    if len(names) <= 16:
        return _blake2b(bytes.fromhex("".join(names)), b"mesh-leaf-v1")
    bitmap, body = "", b""
    for nibble in "0123456789abcdef":
        below = [name for name in names if name[depth] == nibble]
        bitmap += "1" if below else "0"
        if below:
            body += _oracle_digest(below, depth + 1) + struct.pack(">Q", len(below))
    return _blake2b(struct.pack(">H", int(bitmap, 2)) + body, b"mesh-node-v1")


def _blake2b(data: bytes, person: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32, person=person).digest()


# --- digests ---------------------------------------------------------------------------------


def blobs(first: int, end: int) -> list[bytes]:
    """The digests of the blobs that the golden vectors are made of, number `first` to `end`."""
    return [
        hashlib.blake2b(b"mesh test blob %d" % number, digest_size=32).digest()
        for number in range(first, end)
    ]


def cluster(stem: str, size: int, seed: int) -> list[bytes]:
    """Up to `size` digests below `stem`; those of one stem and seed contain one another."""
    tails = (_blake2b(b"%d %d" % (seed, number), b"cluster").hex() for number in range(size))
    return list(dict.fromkeys(bytes.fromhex(stem + tail[len(stem) :]) for tail in tails))


def shuffled(items: Iterable[bytes], seed: int) -> list[bytes]:
    order = list(items)
    Random(seed).shuffle(order)
    return order


# Few and overlapping, so that clusters nest in one another; the edges of the key space are where
# a range of digests has no upper bound, or no lower one.
_PATHS = ("0" * 64, "f" * 64, "ab" * 32, "ab" * 4 + "7f" * 28)

stems = st.builds(
    lambda path, length: path[:length],
    st.sampled_from(_PATHS),
    st.sampled_from([0, 0, 1, 2, 3, 7, 8, 9, 30, 61, 62, 63]),
)

# On both sides of what a leaf, a folded page and a page can hold.
sizes = st.sampled_from([1, 2, 15, 16, 17, 40, 64, 65, 127, 128, 129, 200])

clusters = st.builds(cluster, stems, sizes, st.integers(0, 3))


@st.composite
def digest_sets(draw: st.DrawFn, most: int = 4) -> frozenset[bytes]:
    """Sets with shared prefixes: empty ones, leaves, split pages, and deep forks."""
    return frozenset(d for each in draw(st.lists(clusters, max_size=most)) for d in each)


@st.composite
def prefixes_near(draw: st.DrawFn, digests: frozenset[bytes], longest: int = 64) -> str:
    """A prefix that is in the set, or just beside it, or anywhere."""
    length = draw(st.integers(0, longest))
    if digests and draw(st.booleans()):
        # Most forks are near the top: look there half the time.
        length = draw(st.integers(0, min(6, longest)))
    if not digests or draw(st.integers(0, 9)) == 0:
        return draw(st.text("0123456789abcdef", min_size=length, max_size=length))
    prefix = draw(st.sampled_from(sorted(digests))).hex()[:length]
    if prefix and draw(st.integers(0, 4)) == 0:
        prefix = prefix[:-1] + draw(st.sampled_from("0123456789abcdef"))
    return prefix
