"""`mesh get`: one blob, or a directory from its manifest. Every byte is checked on the way."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path

from mesh.cli.naming import digest_named
from mesh.cli.restore import CannotRestore, Restorer
from mesh.cli.streams import is_closed
from mesh.cli.target import target
from mesh.config import Address
from mesh.core.digest import Digest, new_hasher
from mesh.core.limits import LARGE_BLOB
from mesh.core.manifest import MAX_BYTES, File, decode
from mesh.errors import Corrupt, InputError, MeshError, Refused, one_line
from mesh.transport.client import NodeClient, node_client
from mesh.wire.frames import Frame, Kind

# Files of one batch request while restoring, by the sizes that the manifest names.
_GROUP_FILES = 1000
_GROUP_BYTES = 16 * 1024 * 1024


async def get(node: Address, name: str, output: str | None) -> None:
    """Write a blob to standard output or, once it is whole and right, to a file.

    `name`: its digest, or a prefix that begins no other on the node.
    """
    async with node_client(node) as client:
        digest = await digest_named(client, name)
        if output is None:
            if is_closed(1):
                raise BrokenPipeError  # nobody reads the blob, as at the end of a broken pipe
            await _copy(client, digest, sys.stdout.buffer.write)
            sys.stdout.buffer.flush()
            return
        with target(output) as write:
            await _copy(client, digest, write)


async def _copy(client: NodeClient, digest: Digest, write: Callable[[bytes], int]) -> None:
    async with client.get(digest) as chunks:
        async for chunk in _checked(digest, chunks):
            write(chunk)


async def _checked(digest: Digest, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks; Corrupt at their end when they were not the blob."""
    hasher = new_hasher()
    async for chunk in chunks:
        hasher.update(chunk)
        yield chunk
    if hasher.digest() != digest:
        raise Corrupt(f"what came as blob {digest.hex()} is {hasher.hexdigest()}")


async def get_tree(node: Address, name: str, directory: Path, *, force: bool) -> bool:
    """Restore a directory; whether everything could be. Failures are named on stderr."""
    async with node_client(node) as client:
        manifest = decode(await _manifest(client, await digest_named(client, name)))
        with Restorer(directory, manifest, force=force) as restorer:
            restorer.directories()
            restore = _Restore(client, restorer)
            for group in _groups(restore.needed(manifest.files())):
                await restore.fetch(group)
            restorer.finish()
            return not restore.failed


async def _manifest(client: NodeClient, digest: Digest) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async with client.get(digest) as chunks:
        async for chunk in _checked(digest, chunks):
            size += len(chunk)
            if size > MAX_BYTES:
                raise InputError(f"blob {digest.hex()} is no tree manifest: it is too long")
            pieces.append(chunk)
    return b"".join(pieces)


class _Restore:
    """The files of a manifest, as they are fetched."""

    def __init__(self, client: NodeClient, restorer: Restorer) -> None:
        self._client = client
        self._restorer = restorer
        self.failed = False

    def needed(self, files: Iterable[File]) -> Iterator[File]:
        """Those that are not there already."""
        for file in files:
            try:
                if not self._restorer.has(file):
                    yield file
            except CannotRestore as error:
                self._complain(error)

    async def fetch(self, files: list[File]) -> None:
        """One group: a single large file, or many small ones."""
        try:
            if files[0].size >= LARGE_BLOB:
                await self._large(files[0])
            else:
                await self._small(files)
        except (CannotRestore, Corrupt, Refused) as error:
            self._complain(error)

    async def _large(self, file: File) -> None:
        with self._restorer.file(file) as out:
            try:
                async with self._client.get(file.digest) as chunks:
                    async for chunk in chunks:
                        out.write(chunk)
            except Refused as error:
                name = os.fsdecode(file.path)
                raise Refused(f"{name}: {one_line(error)}", error.retry_after) from error

    async def _small(self, files: list[File]) -> None:
        wanted: dict[Digest, list[File]] = {}
        for file in files:
            wanted.setdefault(file.digest, []).append(file)
        left = list(wanted)
        while left:
            again: list[Digest] = []
            async with self._client.batch(left) as groups:
                async for frames in groups:
                    for frame in frames:
                        if frame.kind == Kind.LATER:
                            again.append(frame.digest)
                        else:
                            self._write(frame, wanted.pop(frame.digest, []))
            left = again

    def _write(self, frame: Frame, files: list[File]) -> None:
        for file in files:
            try:
                if frame.kind != Kind.BLOB:
                    raise Corrupt(
                        f"{os.fsdecode(file.path)}: blob {file.digest.hex()} is not here, nor at "
                        "a peer that can be reached"
                        if frame.kind == Kind.ABSENT
                        else f"{os.fsdecode(file.path)}: blob {file.digest.hex()} is large, and "
                        "the manifest says that it is not"
                    )
                with self._restorer.file(file) as out:
                    out.write(frame.data)
            except (CannotRestore, Corrupt) as error:
                self._complain(error)

    def _complain(self, error: MeshError) -> None:
        self.failed = True
        print(f"mesh: {one_line(error)}", file=sys.stderr)


def _groups(files: Iterable[File]) -> Iterator[list[File]]:
    group: list[File] = []
    size = 0
    for file in files:
        if file.size >= LARGE_BLOB:
            yield [file]
            continue
        group.append(file)
        size += file.size
        if len(group) >= _GROUP_FILES or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
