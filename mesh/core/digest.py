"""Blob names: the BLAKE2b-256 of the bytes, written as 64 lower-case hex digits."""

from __future__ import annotations

import hashlib
import re
import sys
from typing import NewType, Protocol

from mesh.decoding import from_hex
from mesh.errors import InputError

Digest = NewType("Digest", bytes)
"""A blob's name: 32 bytes. Plain bytes at run time, so that a million of them stay cheap."""

DIGEST_SIZE = 32

# libsodium takes what the processor has (AVX2), hashlib does so from Python 3.14 on. Measured for
# pieces of 1 MiB, on Python 3.11 and 3.13: 0.92 GiB/s against 0.72. Imported where it is used,
# since most commands hash nothing.
_SODIUM = sys.version_info < (3, 14)

# Bytes from which libsodium is the faster one by more than a tenth: its call costs 1 µs more.
_WORTH = 8 * 1024

_HEX_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HEX_PREFIX = re.compile(r"[0-9a-fA-F]{0,64}", re.ASCII)

# A digest that is typed may be cut to so many digits. Among a million blobs, one in 17 such
# prefixes begins two of them; with fewer digits a typing error would often name a blob.
SHORTEST = 6


class Hasher(Protocol):
    """The hash of bytes that come in pieces. One thread at a time."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take the next bytes; other threads run while there are many."""

    def digest(self) -> bytes:
        """The hash of what has come so far: 32 bytes."""


def new_hasher() -> Hasher:
    """A BLAKE2b-256 hasher; the same function as `b2sum -l 256` and BlobStash."""
    if _SODIUM:
        from mesh.core.sodium import Blake2b

        return Blake2b()
    return hashlib.blake2b(digest_size=DIGEST_SIZE)


def digest_of(data: bytes | bytearray | memoryview) -> Digest:
    """The name of the blob that consists of `data`."""
    if _SODIUM and len(data) >= _WORTH:
        from mesh.core.sodium import blake2b

        return Digest(blake2b(data))
    return Digest(hashlib.blake2b(data, digest_size=DIGEST_SIZE).digest())


def parse_digest(text: str) -> Digest:
    """The digest written as `text`; InputError unless it is exactly 64 lower-case hex digits."""
    if not _HEX_DIGEST.fullmatch(text):
        raise InputError(f"not a digest: {_shown(text)}; expected 64 lower-case hex digits")
    return Digest(from_hex(text))


def parse_prefix(text: str) -> str:
    """`text` in lower case when it is a prefix of a digest, "" included; InputError otherwise."""
    if not _HEX_PREFIX.fullmatch(text):
        raise InputError(f"not a prefix: {_shown(text)}; expected up to 64 hex digits")
    return text.lower()


def parse_name(text: str) -> str:
    """What a person typed for a blob, in lower case: a digest, or a prefix of at least SHORTEST.

    InputError otherwise.
    """
    if not _HEX_PREFIX.fullmatch(text) or len(text) < SHORTEST:
        raise InputError(
            f"not a digest: {_shown(text)}; expected 64 hex digits, or at least the first "
            f"{SHORTEST}"
        )
    return text.lower()


def split_digests(joined: bytes) -> list[Digest]:
    """The digests of a string of concatenated digests; its length must be a multiple of 32."""
    return [Digest(joined[at : at + 32]) for at in range(0, len(joined), 32)]


def _shown(text: str) -> str:
    """At most 80 characters of what somebody sent, escaped: it may be megabytes of anything."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
