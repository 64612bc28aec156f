"""The manifest of a directory tree: the blob that names the files, so that they can be restored.

The format stands in docs/manifest.md. It is canonical: one tree has one encoding and therefore
one digest, whoever wrote it. `decode` holds everybody to that: it encodes each entry again and
compares. This also refuses what JSON readers do not agree on, such as a key that is there twice, a
number written in another way, or fields that one reader honours and another one skips.

Names on Linux are bytes. They are bytes here too, and only text inside the JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from mesh.core.digest import DIGEST_SIZE, Digest, parse_digest
from mesh.core.spelling import spelled, unspelled
from mesh.decoding import json_of, legible
from mesh.errors import InputError, Undecodable, printable

VERSION = 1

# About 3 million files with names of usual length. Measured: decoding takes three times as much
# memory as the JSON, the JSON included, and five times at worst (12 million of the shortest
# links): 2.5 GB, which a stranger may make this process use. A million files take 5 s.
MAX_BYTES = 512 * 1024 * 1024

MAX_SIZE = 2**63 - 1  # what off_t holds: no file system has a larger file
MAX_MODE = 0o7777

# The bits of a mode that a restore may set: nobody becomes root by way of a stranger's manifest.
SAFE_MODE = 0o777


class File(msgspec.Struct, frozen=True, gc=False):
    """A regular file: its permission bits, and the size and the name of the blob it holds."""

    path: bytes
    mode: int
    size: int
    digest: Digest


class Directory(msgspec.Struct, frozen=True, gc=False):
    """A directory. Each one is listed, so that empty ones and their modes survive."""

    path: bytes
    mode: int


class Link(msgspec.Struct, frozen=True, gc=False):
    """A symbolic link. Its target is kept as it was written and never looked at."""

    path: bytes
    target: bytes


Entry: TypeAlias = File | Directory | Link


class Manifest(msgspec.Struct, frozen=True):
    """The entries of a tree, sorted by path: a directory comes before what is in it."""

    entries: tuple[Entry, ...]

    def files(self) -> Iterator[File]:
        """The regular files, by path."""
        return (entry for entry in self.entries if isinstance(entry, File))

    def directories(self) -> Iterator[Directory]:
        """The directories, by path: parents first."""
        return (entry for entry in self.entries if isinstance(entry, Directory))

    def links(self) -> Iterator[Link]:
        """The symbolic links, by path."""
        return (entry for entry in self.entries if isinstance(entry, Link))


def encode(entries: Iterable[Entry], *, max_bytes: int = MAX_BYTES) -> bytes:
    """The canonical manifest of `entries`, whatever their order.

    InputError when they are not a tree (see `decode`) or would make more than `max_bytes`.
    """
    tree = _checked(sorted(entries, key=attrgetter("path")))
    data = _HEAD + b",".join([_text(entry) for entry in tree]) + _TAIL
    if len(data) > max_bytes:
        raise InputError(
            f"the manifest would have {len(data)} bytes, more than {max_bytes}: "
            "put the parts of this tree one by one"
        )
    return data


def decode(data: bytes, *, max_bytes: int = MAX_BYTES) -> Manifest:
    """The manifest that `data` encodes.

    InputError for everything that `encode` would not have written:

    - more than `max_bytes`, something that is not JSON, another version;
    - an unknown kind or field, another order or spelling;
    - a path that is absolute, or has an empty, '.' or '..' component or a NUL;
    - a path that is there twice, or whose parent is not a directory of this manifest;
    - a digest, size or mode out of range.
    """
    if len(data) > max_bytes:
        raise InputError(f"not a tree manifest: {len(data)} bytes, more than {max_bytes}")
    return Manifest(tuple(_checked(_parsed(data))))


def components(path: bytes) -> list[bytes]:
    """The names along `path`; InputError unless it is relative and stays below where it starts."""
    names = path.split(b"/")
    for name in names:
        if name in _NOT_NAMES or b"\0" in name:
            raise InputError(
                f"bad path in a manifest: {shown(path)}; expected names joined by '/', "
                "none of them empty, '.' or '..', and no NUL"
            )
    return names


def shown(path: bytes) -> str:
    """`path` in quotes for a message: at most 200 characters, escaped where not printable."""
    text = legible(path)
    return repr(text if len(text) <= 200 else text[:197] + "...")


# --- a tree ----------------------------------------------------------------------------------

_NOT_NAMES = frozenset((b"", b".", b".."))


def _checked(entries: Iterable[Entry]) -> Iterator[Entry]:
    """`entries`, one by one, for as long as they are a tree sorted by path.

    That every parent must have been listed, as a directory, is what keeps a file from hiding
    below another file, below a link, or below a path that was never checked.
    """
    directories = {b""}
    previous = b""
    for entry in entries:
        path = entry.path
        _check(entry)
        if path == previous:
            raise InputError(f"{shown(path)} is in the manifest twice")
        if path < previous:
            raise InputError(f"manifest not sorted by path: {shown(path)} is after a later one")
        if path.rpartition(b"/")[0] not in directories:
            raise InputError(f"{shown(path)} is in a manifest where its parent is no directory")
        if isinstance(entry, Directory):
            directories.add(path)
        previous = path
        yield entry


def _check(entry: Entry) -> None:
    """InputError unless `entry` by itself is sound."""
    components(entry.path)
    if isinstance(entry, Link):
        if not entry.target or b"\0" in entry.target:
            raise InputError(f"the target of link {shown(entry.path)} is empty or has a NUL")
        return
    if not 0 <= entry.mode <= MAX_MODE:
        raise InputError(f"mode {entry.mode} of {shown(entry.path)} is not in 0..{MAX_MODE}")
    if isinstance(entry, File):
        if not 0 <= entry.size <= MAX_SIZE:
            raise InputError(f"size {entry.size} of {shown(entry.path)} is not in 0..{MAX_SIZE}")
        if len(entry.digest) != DIGEST_SIZE:
            raise InputError(f"the digest of {shown(entry.path)} is not {DIGEST_SIZE} bytes")


# --- JSON ------------------------------------------------------------------------------------

_HEAD = b'{"entries":['
_TAIL = b'],"mesh":"tree","version":%d}\n' % VERSION


class _Wire(msgspec.Struct, tag_field="kind", forbid_unknown_fields=True, kw_only=True, gc=False):
    """What is common to all kinds of entries; a name stands in one of the two fields."""

    path: str | UnsetType = UNSET
    path_hex: str | UnsetType = UNSET


class _WireFile(_Wire, tag="file", gc=False):
    mode: int
    size: int
    digest: str


class _WireDirectory(_Wire, tag="directory", gc=False):
    mode: int


class _WireLink(_Wire, tag="link", gc=False):
    target: str | UnsetType = UNSET
    target_hex: str | UnsetType = UNSET


class _Header(msgspec.Struct):
    """What tells a manifest from other JSON, and its versions apart."""

    mesh: str
    version: int


class _Top(_Header, forbid_unknown_fields=True):
    entries: list[msgspec.Raw]


_ENCODER = msgspec.json.Encoder(order="sorted")
_HEADER = json_of(_Header)
_TOP = json_of(_Top)
_ENTRY = json_of(_WireFile | _WireDirectory | _WireLink)


def _parsed(data: bytes) -> Iterator[Entry]:
    """The entries of `data`, each of them compared with its canonical text.

    The comparison runs along `data` without a second copy of it. Every byte is covered: the
    texts follow each other with nothing but one comma in between.
    """
    raws = _raw_entries(data)
    at, opening = 0, _HEAD
    for index, raw in enumerate(raws):
        try:
            entry = _from_wire(_ENTRY.read(raw))
        except (ValueError, InputError) as error:
            raise InputError(f"manifest entry {index}: {printable(str(error))}") from None
        text = opening + _text(entry)
        if not data.startswith(text, at):
            raise InputError(f"manifest entry {index} is not in canonical form, near byte {at}")
        at += len(text)
        opening = b","
        yield entry
    if data[at:] != (_TAIL if raws else _HEAD + _TAIL):
        raise InputError(f"the manifest's end is not in canonical form, near byte {at}")


def _raw_entries(data: bytes) -> Sequence[msgspec.Raw]:
    """The JSON of each entry, not looked at yet.

    The header is read first and by itself: in another version nothing else need be the same.
    """
    try:
        header = _HEADER.read(data)
        if header.mesh == "tree" and header.version == VERSION:
            return _TOP.read(data).entries
    except Undecodable as error:
        raise InputError(
            f"not a tree manifest: {printable(str(error))}; "
            "use the digest that `mesh put --tree` printed"
        ) from None
    if header.mesh == "tree":
        raise InputError(
            f"a tree manifest of version {header.version}, and this mesh reads version {VERSION}: "
            "upgrade it"
        )
    raise InputError('not a tree manifest: "mesh" is not "tree"')


def _text(entry: Entry) -> bytes:
    return _ENCODER.encode(_to_wire(entry))


def _to_wire(entry: Entry) -> _Wire:
    path, path_hex = spelled(entry.path)
    if isinstance(entry, File):
        return _WireFile(
            path=path,
            path_hex=path_hex,
            mode=entry.mode,
            size=entry.size,
            digest=entry.digest.hex(),
        )
    if isinstance(entry, Directory):
        return _WireDirectory(path=path, path_hex=path_hex, mode=entry.mode)
    target, target_hex = spelled(entry.target)
    return _WireLink(path=path, path_hex=path_hex, target=target, target_hex=target_hex)


def _from_wire(wire: _WireFile | _WireDirectory | _WireLink) -> Entry:
    path = unspelled("path", wire.path, wire.path_hex)
    if isinstance(wire, _WireFile):
        return File(path, wire.mode, wire.size, parse_digest(wire.digest))
    if isinstance(wire, _WireDirectory):
        return Directory(path, wire.mode)
    return Link(path, unspelled("target", wire.target, wire.target_hex))
