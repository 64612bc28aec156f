"""`mesh put`: files, directories and standard input into a node."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial

import msgspec
from anyio import create_task_group, to_thread

from mesh.cli.exclude import exclusion
from mesh.cli.reading import (
    TRIES,
    Aside,
    Changed,
    Group,
    Job,
    Large,
    Reading,
    Small,
    Trouble,
    jobs,
    opened,
)
from mesh.cli.streams import Input
from mesh.cli.walk import (
    Found,
    FoundDirectory,
    FoundFile,
    FoundLink,
    Skipped,
    Unreadable,
    nothing,
    walk,
)
from mesh.config import Address
from mesh.core.digest import Digest, digest_of, new_hasher
from mesh.core.manifest import Directory, Entry, File, Link, encode
from mesh.errors import InputError, MeshError, Refused, one_line, printable
from mesh.transport.client import NodeClient, checked, node_client
from mesh.wire.frames import Kind, end, frame

_PIECE = 512 * 1024

_STDIN = "-"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How `put` goes about its paths."""

    tree: bool = False
    strict: bool = False
    dry_run: bool = False
    one_file_system: bool = False
    exclude: Sequence[str] = ()
    exclude_from: Sequence[str] = ()


class Put:
    """One path of a `mesh put`: what is sent, printed and, for a tree, remembered."""

    def __init__(self, client: NodeClient, path: str, *, tree: bool) -> None:
        """`tree`: make a manifest of what is put."""
        self._client = client
        self._path = path
        self._tree = tree
        self._entries: list[Entry] = []
        self._root_failed = False
        self.failed = False

    async def everything(self, walked: Iterator[Found]) -> None:
        """All that was found, in order; the next group is read while one is being sent."""
        source = jobs(walked)
        job = await to_thread.run_sync(_next, source)
        while job is not None:
            async with create_task_group() as group:
                group.start_soon(self._send, job)
                following = await to_thread.run_sync(_next, source)
            job = following

    async def manifest(self, *, strict: bool) -> None:
        """The blob that describes the tree, without what could not be put.

        None with `strict` when something could not, and none when the directory itself could not
        be read.
        """
        place = os.path.join(os.fsencode(self._path), b"")
        if self._root_failed or (strict and self.failed):
            self._complain(place, "no manifest, because not everything could be put")
            return
        data = encode(self._entries)
        stored = await self._client.put_stream(data, len(data))
        checked(stored, digest_of(data))
        _print(digest_of(data), place)
        _flush()

    # --- one job -------------------------------------------------------------------------------

    async def _send(self, job: Job) -> None:
        match job:
            case Group(files, others):
                for other in others:
                    self._other(other)
                if files:
                    await self._group(files)
            case Large(found):
                await self._large(found)
        _flush()

    async def _group(self, files: list[Small]) -> None:
        # Frames of 41 bytes each, the bytes, and the end mark.
        size = sum(41 + len(file.data) for file in files) + 41
        try:
            result = await self._client.put_batch(_framed(files), size)
        except Refused as error:
            if not _too_large(error):
                raise
            # One of them is over the node's limit: let it say so of each by itself.
            await self._singly(files)
            return
        if result.rejected:
            raise MeshError(f"{result.rejected} blobs arrived damaged; put them again")
        for file in files:
            self._done(file.found, file.digest, len(file.data))

    async def _singly(self, files: list[Small]) -> None:
        for file in files:
            size = len(file.data)
            try:
                checked(await self._client.put_stream(file.data, size), file.digest)
                self._done(file.found, file.digest, size)
            except Refused as error:
                self._refused(file.found, size, error)

    async def _large(self, found: FoundFile) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                with opened(found) as descriptor:
                    await self._stream(found, Reading(descriptor))
                return
            except Changed as error:
                if attempt == TRIES:
                    self._complain(found.source, one_line(error))
            except OSError as error:
                self._complain(found.source, error.strerror or str(error))
                return

    async def _stream(self, found: FoundFile, reading: Reading) -> None:
        try:
            stored = await self._client.put_stream(_pieces(reading.piece), reading.size)
        except Refused as error:
            self._refused(found, reading.size or 0, error)
            return
        reading.unchanged()
        checked(stored, reading.digest())
        self._done(found, reading.digest(), reading.read)

    def _done(self, found: FoundFile, digest: Digest, size: int) -> None:
        _print(digest, found.source)
        self._entries.append(File(found.path, found.mode, size, digest))

    def _other(self, other: Aside | Trouble) -> None:
        match other:
            case Trouble(source, reason):
                self._complain(source, reason)
            case Aside(found):
                self._aside(found)

    def _aside(self, found: Found) -> None:
        match found:
            case Skipped():
                # Part of a tree, these are left out as docs/manifest.md says; named by the user,
                # they are what he wanted to put.
                _tell(found.source, f"{found.reason}; left out")
                self.failed = self.failed or not found.path
            case Unreadable():
                self._root_failed = self._root_failed or not found.path
                self._complain(found.source, found.reason)
            case FoundDirectory() if self._tree:
                self._entries.append(Directory(found.path, found.mode))
            case FoundLink() if self._tree:
                self._entries.append(Link(found.path, found.target))

    def _refused(self, found: FoundFile, size: int, error: Refused) -> None:
        """A blob over the limit is named and passed by; anything else ends the command."""
        if not _too_large(error):
            raise error
        self._complain(found.source, f"has {size} bytes; {one_line(error)}")

    def _complain(self, source: bytes, reason: str) -> None:
        self.failed = True
        _tell(source, reason)


async def put(node: Address, paths: Sequence[str], options: Options) -> bool:
    """The command; whether everything could be put."""
    if options.tree:
        await to_thread.run_sync(_all_directories, paths)
    elif paths.count(_STDIN) > 1:
        raise InputError("standard input can be read once; give - once")
    excluded = exclusion(options.exclude, options.exclude_from)
    if not options.exclude and not options.exclude_from:
        excluded = nothing
    walked = partial(walk, excluded=excluded, one_file_system=options.one_file_system)
    if options.dry_run:
        return await to_thread.run_sync(_show, paths, walked)
    good = True
    async with node_client(node) as client:
        for path in paths:
            if path == _STDIN:
                await _standard_input(client)
                continue
            command = Put(client, path, tree=options.tree)
            await command.everything(walked(path))
            if options.tree:
                await command.manifest(strict=options.strict)
            good = good and not command.failed
    return good


def _all_directories(paths: Sequence[str]) -> None:
    """InputError for the first of the paths that is no directory, before anything is sent."""
    for path in paths:
        if not os.path.isdir(path):
            raise InputError(f"--tree takes directories, and {printable(path)} is none")


async def _standard_input(client: NodeClient) -> None:
    """One blob from standard input, however long whoever writes it pauses."""
    hasher = new_hasher()

    async def hashed() -> AsyncIterator[bytes]:
        async for chunk in Input(_PIECE):
            hasher.update(chunk)
            yield chunk

    stored = await client.put_stream(hashed(), None)
    digest = Digest(hasher.digest())
    checked(stored, digest)
    _print(digest, _STDIN.encode())
    _flush()


def _show(paths: Sequence[str], walked: Callable[[str], Iterator[Found]]) -> bool:
    """A line for each file that would be put: its size and its name. Nothing is read."""
    good = True
    for path in paths:
        if path == _STDIN:
            _line(f"{'?':>14}  ".encode(), _STDIN.encode())
            continue
        for found in walked(path):
            match found:
                case FoundFile():
                    _line(f"{found.size:>14}  ".encode(), found.source)
                case Skipped():
                    _tell(found.source, f"{found.reason}; left out")
                case Unreadable():
                    good = False
                    _tell(found.source, found.reason)
    return good


def _too_large(error: Refused) -> bool:
    return error.status == 413


def _next(source: Iterator[Job]) -> Job | None:
    return next(source, None)


async def _pieces(piece: Callable[[], bytes]) -> AsyncIterator[bytes]:
    while data := await to_thread.run_sync(piece):
        yield data


async def _framed(files: list[Small]) -> AsyncIterator[bytes]:
    """The frames of a group, in chunks of about half a MiB."""
    pieces: list[bytes] = []
    held = 0
    for file in files:
        pieces += (frame(Kind.BLOB, file.digest, len(file.data)), file.data)
        held += len(file.data)
        if held >= _PIECE:
            yield b"".join(pieces)
            pieces, held = [], 0
    pieces.append(end(len(files)))
    yield b"".join(pieces)


def _tell(source: bytes, what: str) -> None:
    print(f"mesh: {printable(os.fsdecode(source))}: {what}", file=sys.stderr)


def _print(digest: Digest, path: bytes) -> None:
    """A line as `b2sum -l 256` prints it: a name with a newline or backslash is escaped."""
    _line(digest.hex().encode() + b"  ", path)


def _line(before: bytes, path: bytes) -> None:
    mark = b""
    if b"\\" in path or b"\n" in path or b"\r" in path:
        mark = b"\\"
        path = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    sys.stdout.buffer.write(mark + before + path + b"\n")


def _flush() -> None:
    """Show what was printed: whoever reads it learns at once what is durable."""
    sys.stdout.buffer.flush()
