"""Checksums of the pieces of a large blob, so that any range of it can be verified.

They stand beside the blob in `large/xx/DIGEST.sums`: magic `MESHSUM2`, piece size (4 bytes), blob
size (8), 16 bytes of XXH3-128 for each piece, and a BLAKE2b-128 of all that, with the blob's digest
as its key. The file is derived: one that is missing or does not check is made anew by hashing the
whole blob against its name. A file with the magic `MESHSUM1` has the first 16 bytes of the SHA-256
of each piece instead; it is read, and no longer written.

The sums guard against rot. They cannot guard against somebody who writes to the disk, whatever the
hash: the sums lie beside the blob, and whoever changes one can change the other. So a hash that
nobody can forge buys nothing here. A chance error goes unseen once in 2^128 by XXH3-128 as by
SHA-256. And XXH3 costs next to nothing, both on the way in, where a blob is also hashed for its
name, and at each read: on a busy core it had 30 GiB/s where SHA-256 had 0.35 and BLAKE2b 0.16.
"""

from __future__ import annotations

import hashlib
from struct import Struct
from typing import NamedTuple

from xxhash import xxh3_128, xxh3_128_digest

from mesh.core.digest import Digest

# Read and checked at a time: big enough that the thread's round trip (some 50 µs) vanishes
# beside it, small enough that a range of one byte costs a millisecond, and that fifty slow
# readers hold 25 MB. The sums of a blob of 64 GiB take 2 MiB.
PIECE = 512 * 1024

_SUM = 16
_HEAD = Struct(">8sIQ")
_MAGIC = b"MESHSUM2"
_FIRST_MAGIC = b"MESHSUM1"


class PieceSums(NamedTuple):
    """The sums of all pieces of one blob, joined; `first` when they are of the first kind."""

    joined: bytes
    first: bool = False

    def fits(self, start: int, piece: bytes) -> bool:
        """Whether `piece` is the one that begins at `start`, which is a multiple of PIECE."""
        at = start // PIECE * _SUM
        own = hashlib.sha256(piece).digest()[:_SUM] if self.first else xxh3_128_digest(piece)
        return own == self.joined[at : at + _SUM]


def sums_name(blob: str) -> str:
    """The file with the sums of the large blob in the file `blob`."""
    return f"{blob}.sums"


class Sums:
    """The sums of a blob that arrives in chunks."""

    def __init__(self) -> None:
        self._done = bytearray()
        self._hasher = xxh3_128()
        self._held = 0

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        left = memoryview(chunk)
        while left:
            part = left[: PIECE - self._held]
            self._hasher.update(part)
            self._held += len(part)
            left = left[len(part) :]
            if self._held == PIECE:
                self._next()

    def fits(self, start: int, piece: bytes) -> bool:
        """Whether `piece` begins at `start`, has come whole, and is what it was then."""
        at = start // PIECE * _SUM
        return self._done[at : at + _SUM] == xxh3_128_digest(piece)

    def finish(self) -> PieceSums:
        """All of them."""
        if self._held:
            self._next()
        return PieceSums(bytes(self._done))

    def _next(self) -> None:
        self._done += self._hasher.digest()
        self._hasher.reset()
        self._held = 0


def sums_bytes(size: int) -> int:
    """Bytes of the file of sums of a blob of `size` bytes."""
    return _HEAD.size + -(-size // PIECE) * _SUM + _SUM


def encode_sums(digest: Digest, size: int, sums: PieceSums) -> bytes:
    """The content of a file of sums."""
    body = _HEAD.pack(_FIRST_MAGIC if sums.first else _MAGIC, PIECE, size) + sums.joined
    return body + hashlib.blake2b(body, digest_size=_SUM, key=digest).digest()


def decode_sums(digest: Digest, size: int, content: bytes) -> PieceSums | None:
    """The sums in a file of sums; None unless it is whole and belongs to that blob."""
    body, own = content[:-_SUM], content[-_SUM:]
    if len(content) != sums_bytes(size):
        return None
    if hashlib.blake2b(body, digest_size=_SUM, key=digest).digest() != own:
        return None
    for magic in (_MAGIC, _FIRST_MAGIC):
        if body[: _HEAD.size] == _HEAD.pack(magic, PIECE, size):
            return PieceSums(body[_HEAD.size :], first=magic == _FIRST_MAGIC)
    return None
