"""Raw snappy blocks, as BlobStash posts and serves blobs; sizes are known before decoding."""

from __future__ import annotations

import cramjam

from mesh.errors import InputError

# A raw block is decoded whole, so this is memory per request. Larger blobs go plain and streamed.
LIMIT = 16 * 1024 * 1024

# The longest block that LIMIT bytes can become (format_description.txt of snappy).
ENCODED_LIMIT = 32 + LIMIT + LIMIT // 6


class TooLong(InputError):
    """A block that claims to hold more than LIMIT bytes."""


def decode(block: bytes) -> bytes:
    """The bytes of a raw block. TooLong before anything is decoded; InputError for junk."""
    size = _claimed(block)
    if size > LIMIT:
        raise TooLong(f"a snappy body of {size} bytes; the limit is {LIMIT}, send it plain")
    try:
        return bytes(cramjam.snappy.decompress_raw(block))
    except cramjam.DecompressionError as error:
        raise InputError(f"not a raw snappy block: {error}") from error


def _claimed(block: bytes) -> int:
    """The decoded size that a block begins with: seven bits a byte, the lowest first."""
    size = 0
    for at, byte in enumerate(block[:10]):
        size |= (byte & 0x7F) << (7 * at)
        if byte < 0x80:
            return size
    raise InputError("not a raw snappy block: it does not begin with a size")


def encode(data: bytes) -> bytes:
    """A raw block that holds `data`, of at most LIMIT bytes."""
    return bytes(cramjam.snappy.compress_raw(data))
