"""What a LOST record says of a blob: why it was let go of, and when.

The body of a record of version 2 is a checksum of 8 bytes (BLAKE2b-64 with the blob's digest as its
key) and JSON; of version 1 it was the JSON alone. Reason and time are for people to read: a body
that is rotten costs these two, and neither the record nor anything else.
"""

from __future__ import annotations

import hashlib

import msgspec

from mesh.core.digest import Digest
from mesh.decoding import json_of
from mesh.errors import Undecodable
from mesh.store.base import Wanted

_SUM = 8
_UNKNOWN = "not known any more"
_YEAR_10000 = 253_402_300_800.0  # seconds since 1970: beyond what Python's dates can say


class _Loss(msgspec.Struct, frozen=True):
    reason: str
    since: float


def encode_loss(wanted: Wanted) -> bytes:
    """The body of a LOST record."""
    text = msgspec.json.encode(_Loss(wanted.reason, wanted.since))
    return _checksum(wanted.digest, text) + text


def decode_loss(digest: Digest, version: int, body: bytes) -> Wanted:
    """What the body of the LOST record of a blob says; that it is not known when it is rotten."""
    text = body
    if version > 1:
        text = body[_SUM:]
        if _checksum(digest, text) != body[:_SUM]:
            return Wanted(digest, _UNKNOWN, 0.0)
    try:
        loss = json_of(_Loss).read(text)
        loss.reason.encode()  # what came without a checksum may hold half a surrogate pair
    except (Undecodable, UnicodeError):
        return Wanted(digest, _UNKNOWN, 0.0)
    # A time that no calendar has would end whoever shows it to people.
    since = loss.since if 0.0 <= loss.since < _YEAR_10000 else 0.0
    return Wanted(digest, loss.reason, since)


def _checksum(digest: Digest, text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=_SUM, key=digest).digest()
