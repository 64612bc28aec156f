"""`mesh put`: files, directories and standard input into a node."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import anyio
from anyio import create_task_group, to_thread

from mesh.cli.reading import Aside, Group, Job, Large, Small, Trouble, jobs, open_file
from mesh.cli.walk import FoundDirectory, FoundFile, FoundLink, Skipped, Unreadable
from mesh.config import Address
from mesh.core.digest import Digest, digest_of, new_hasher
from mesh.core.manifest import Directory, Entry, File, Link, encode
from mesh.errors import InputError, MeshError, Refused, one_line
from mesh.transport.client import NodeClient, checked, node_client
from mesh.wire.frames import Kind, end, frame

_PIECE = 512 * 1024


class Put:
    """One `mesh put`: what is sent, printed and, for a tree, remembered."""

    def __init__(self, client: NodeClient, *, tree: bool) -> None:
        """`tree`: make a manifest of what is put."""
        self._client = client
        self._tree = tree
        self._entries: list[Entry] = []
        self.failed = False

    async def path(self, path: Path) -> None:
        """Everything below `path`, in order; the next group is read while one is being sent."""
        source = jobs(path)
        job = await to_thread.run_sync(_next, source)
        while job is not None:
            async with create_task_group() as group:
                group.start_soon(self._send, job)
                following = await to_thread.run_sync(_next, source)
            job = following

    async def standard_input(self) -> None:
        """One blob from standard input."""
        await self._stream(sys.stdin.buffer.fileno(), b"-", None)

    async def manifest(self, path: Path) -> None:
        """The blob that describes the tree; MeshError rather than one that leaves things out."""
        if self.failed:
            raise MeshError(f"no manifest for {path}: not everything in it could be put")
        data = encode(self._entries)
        stored = await self._client.put_stream(data, len(data))
        checked(stored, digest_of(data))
        _print(digest_of(data), os.path.join(os.fsencode(path), b""))

    # --- one job -------------------------------------------------------------------------------

    async def _send(self, job: Job) -> None:
        try:
            if isinstance(job, Group):
                await self._group(job.files)
            elif isinstance(job, Large):
                await self._large(job.found)
            elif isinstance(job, Trouble):
                self._complain(job.source, job.reason)
            else:
                self._aside(job)
        except BrokenPipeError:
            raise  # nobody reads what is printed: not this file's trouble
        except OSError as error:
            found = job.found if isinstance(job, Large | Aside) else None
            self._complain(found.source if found else b"", error.strerror or str(error))

    async def _group(self, files: list[Small]) -> None:
        # Frames of 41 bytes each, the bytes, and the end mark.
        size = sum(41 + len(file.data) for file in files) + 41
        try:
            result = await self._client.put_batch(_framed(files), size)
        except Refused:
            # One of them may be over the node's limit: let it say so of each by itself.
            await self._singly(files)
            return
        if result.rejected:
            raise MeshError(f"{result.rejected} blobs arrived damaged; put them again")
        for file in files:
            self._done(file.found, file.digest, len(file.data))

    async def _singly(self, files: list[Small]) -> None:
        for file in files:
            try:
                checked(await self._client.put_stream(file.data, len(file.data)), file.digest)
                self._done(file.found, file.digest, len(file.data))
            except Refused as error:
                self._complain(file.found.source, one_line(error))

    async def _large(self, found: FoundFile) -> None:
        descriptor = await to_thread.run_sync(partial(open_file, found, follow=not found.path))
        try:
            await self._stream(descriptor, found.source, found)
        except Refused as error:
            self._complain(found.source, one_line(error))
        finally:
            os.close(descriptor)

    async def _stream(self, descriptor: int, source: bytes, found: FoundFile | None) -> None:
        hasher = new_hasher()
        size = 0

        def piece() -> bytes:
            nonlocal size
            data = os.read(descriptor, _PIECE)
            hasher.update(data)
            size += len(data)
            return data

        async def chunks() -> AsyncIterator[bytes]:
            while data := await to_thread.run_sync(piece):
                yield data

        stored = await self._client.put_stream(chunks(), None)
        digest = Digest(hasher.digest())
        checked(stored, digest)
        if found is not None:
            self._done(found, digest, size)
        else:
            _print(digest, source)

    def _done(self, found: FoundFile, digest: Digest, size: int) -> None:
        _print(digest, found.source)
        self._entries.append(File(found.path, found.mode, size, digest))

    def _aside(self, job: Aside) -> None:
        found = job.found
        if isinstance(found, Skipped | Unreadable):
            self._complain(found.source, found.reason)
        elif self._tree and isinstance(found, FoundDirectory):
            self._entries.append(Directory(found.path, found.mode))
        elif self._tree and isinstance(found, FoundLink):
            self._entries.append(Link(found.path, found.target))

    def _complain(self, source: bytes, reason: str) -> None:
        self.failed = True
        name = os.fsdecode(source)
        print(f"mesh: {one_line(MeshError(name))}: {reason}", file=sys.stderr)


async def put(node: Address, paths: list[Path], tree: Path | None) -> bool:
    """The command; whether everything could be put."""
    if tree is not None and not await anyio.Path(tree).is_dir():
        raise InputError(f"--tree takes a directory, and {tree} is none")
    async with node_client(node) as client:
        command = Put(client, tree=tree is not None)
        for path in paths:
            if str(path) == "-":
                await command.standard_input()
            else:
                await command.path(path)
        if tree is not None:
            await command.path(tree)
            await command.manifest(tree)
        return not command.failed


def _next(source: Iterator[Job]) -> Job | None:
    return next(source, None)


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


def _print(digest: Digest, path: bytes) -> None:
    """A line as `b2sum -l 256` prints it: a name with a newline or backslash is escaped."""
    mark = b""
    if b"\\" in path or b"\n" in path or b"\r" in path:
        mark = b"\\"
        path = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    sys.stdout.buffer.write(mark + digest.hex().encode() + b"  " + path + b"\n")
    sys.stdout.buffer.flush()
