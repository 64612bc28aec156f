"""The snapshot of a tree: the small blob that says which manifest was put, where from, and when.

The format stands in docs/manifest.md. It is canonical as a manifest is: `decode` encodes again what
it has read, and compares. Every snapshot begins with the same bytes and is short, so that a node
finds the few among a million blobs without reading the others.

Nothing in it is proven: whoever can put a blob can put one that says anything. It is listed for
what it says.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import UNSET, UnsetType

from mesh.core.digest import Digest, parse_digest
from mesh.core.spelling import spelled, unspelled
from mesh.decoding import json_of
from mesh.errors import InputError, Undecodable, printable

VERSION = 1

# A path has up to 4,096 bytes on Linux, and nearly all have fewer than 200. What a node looks at as
# blobs arrive, and keeps beside its index, stays within a block of the disk.
MAX_BYTES = 4096

# Of the shortest one: a host of one letter, the path "/", and no file.
MIN_BYTES = 186

MAX_HOST = 255  # bytes: more than a name in the DNS has (253)
MAX_TAG = 255  # bytes: a word or a sentence
MAX_COUNT = 2**63 - 1  # as a manifest's sizes

# Keys are sorted, so this is how each one begins.
BEGINNING = b'{"bytes":'

_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.\d{3}Z", re.ASCII)
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One tree as it was put.

    `path`: absolute, as bytes; `time`: when the put began, in UTC, to the millisecond
    ("2026-11-30T21:22:05.123Z"), so that texts sort as times do; `files`, `bytes`: of the files in
    the manifest.
    """

    manifest: Digest
    host: str
    path: bytes
    time: str
    files: int
    bytes: int
    tag: str | None = None


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    mesh: str
    version: int
    manifest: str
    host: str
    time: str
    files: int
    bytes: int
    path: str | UnsetType = UNSET
    path_hex: str | UnsetType = UNSET
    tag: str | UnsetType = UNSET


_ENCODER = msgspec.json.Encoder(order="sorted")
_WIRE = json_of(_Wire)


def encode(snapshot: Snapshot) -> bytes:
    """The one text of a snapshot; InputError for what `decode` would not take."""
    _check(snapshot)
    data = _text(snapshot)
    if len(data) > MAX_BYTES:
        raise InputError(
            f"a snapshot has {MAX_BYTES} bytes at most, and this would have {len(data)}: "
            "the path or the tag is too long"
        )
    return data


def decode(data: bytes) -> Snapshot:
    """The snapshot that `data` encodes; InputError for everything that `encode` did not write."""
    if not may_be_snapshot(data):
        raise InputError("not a snapshot: its length or its first bytes are none of one")
    try:
        wire = _WIRE.read(data)
        if wire.mesh != "snapshot" or wire.version != VERSION:
            raise InputError(f"not a snapshot of version {VERSION}")
        snapshot = Snapshot(
            manifest=parse_digest(wire.manifest),
            host=wire.host,
            path=unspelled("path", wire.path, wire.path_hex),
            time=wire.time,
            files=wire.files,
            bytes=wire.bytes,
            tag=wire.tag if isinstance(wire.tag, str) else None,
        )
    except (Undecodable, ValueError) as error:
        raise InputError(f"not a snapshot: {printable(str(error))}") from None
    _check(snapshot)
    if _text(snapshot) != data:
        raise InputError("not a snapshot: it is not in canonical form")
    return snapshot


def recognised(data: bytes) -> Snapshot | None:
    """The snapshot that a blob is; None for any other blob."""
    if not may_be_snapshot(data):
        return None
    try:
        return decode(data)
    except InputError:
        return None


def may_be_snapshot(data: bytes) -> bool:
    """Whether the length and the first bytes are those of a snapshot: tells nearly all others."""
    return MIN_BYTES <= len(data) <= MAX_BYTES and data.startswith(BEGINNING)


def _check(snapshot: Snapshot) -> None:
    host, path, tag = snapshot.host, snapshot.path, snapshot.tag
    if not host or "/" in host or "\0" in host or _long(host, MAX_HOST):
        raise InputError(f"bad host in a snapshot: up to {MAX_HOST} bytes without / and NUL")
    if not path.startswith(b"/") or b"\0" in path:
        raise InputError("bad path in a snapshot: it begins with / and has no NUL")
    if tag is not None and (not tag or "\0" in tag or _long(tag, MAX_TAG)):
        raise InputError(f"bad tag in a snapshot: 1 to {MAX_TAG} bytes without NUL")
    if not 0 <= snapshot.files <= MAX_COUNT or not 0 <= snapshot.bytes <= MAX_COUNT:
        raise InputError("bad count in a snapshot: 0 to 2^63 - 1")
    if not is_time(snapshot.time):
        raise InputError("bad time in a snapshot: as in 2026-11-30T21:22:05.123Z")


def is_time(text: str) -> bool:
    """Whether `text` is a time as snapshots have it: RFC 3339, in UTC, with milliseconds."""
    match = _TIME.fullmatch(text)
    if match is None:
        return False
    year, month, day, hour, minute, second = map(int, match.groups())
    if not (1 <= month <= 12 and hour < 24 and minute < 60 and second < 60 and year):
        return False
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 1 <= day <= _DAYS[month - 1] + leap


def _long(text: str, most: int) -> bool:
    """Whether it has more bytes than that, or is no UTF-8 at all."""
    try:
        return len(text.encode()) > most
    except UnicodeEncodeError:
        return True


def _text(snapshot: Snapshot) -> bytes:
    path, path_hex = spelled(snapshot.path)
    wire = _Wire(
        mesh="snapshot",
        version=VERSION,
        manifest=snapshot.manifest.hex(),
        host=snapshot.host,
        time=snapshot.time,
        files=snapshot.files,
        bytes=snapshot.bytes,
        path=path,
        path_hex=path_hex,
        tag=snapshot.tag if snapshot.tag is not None else UNSET,
    )
    return _ENCODER.encode(wire) + b"\n"
