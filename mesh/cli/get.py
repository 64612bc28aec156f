"""`mesh get`: one blob, or a directory from its manifest. Every byte is checked on the way."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from mesh.cli.naming import digest_named
from mesh.cli.progress import Progress
from mesh.cli.restore import CannotRestore, Restorer
from mesh.cli.streams import is_closed
from mesh.cli.target import target
from mesh.cli.teller import Teller
from mesh.cli.tree import LATEST, checked_chunks, entry_at, selected, split_inside, tree_named
from mesh.config import Address
from mesh.core.digest import Digest
from mesh.core.limits import LARGE_BLOB
from mesh.core.manifest import Directory, File, Link, Manifest
from mesh.errors import Corrupt, InputError, MeshError, Refused, one_line, printable
from mesh.transport.client import NodeClient, node_client
from mesh.wire.frames import Frame, Kind

# Files of one batch request while restoring, by the sizes that the manifest names.
_GROUP_FILES = 1000
_GROUP_BYTES = 16 * 1024 * 1024


async def get(node: Address, name: str, output: str | None, teller: Teller) -> None:
    """Write a blob to standard output or, once it is whole and right, to a file.

    `name`: its digest, a prefix that begins no other on the node, or TREE:path/inside.
    """
    async with node_client(node) as client:
        digest = await _digest(client, name)
        if output is None:
            if is_closed(1):
                raise BrokenPipeError  # nobody reads the blob, as at the end of a broken pipe
            await teller.over(partial(_copy, client, digest, sys.stdout.buffer.write, teller))
            sys.stdout.buffer.flush()
            return
        with target(output) as write:
            size = await teller.over(partial(_copy, client, digest, write, teller))
        teller.ended(ok=True, digest=digest.hex(), bytes=size, output=printable(output))


async def _digest(client: NodeClient, name: str) -> Digest:
    tree, inside = split_inside(name)
    if inside is None and name.startswith(LATEST):
        raise InputError(f"{printable(name)} is a tree: give --tree, or :PATH of a file behind it")
    if inside is None:
        return await digest_named(client, name)
    if not inside.strip("/"):
        hint = "name a file behind the colon, or restore the whole tree with --tree"
        raise InputError(f"{printable(name)} names no file of a tree; {hint}")
    entry = entry_at(await tree_named(client, tree), inside)
    match entry:
        case File():
            return entry.digest
        case Directory():
            hint = f"mesh get --tree {tree} --include '/{inside}' DIRECTORY restores it"
            raise InputError(f"{printable(inside)} is a directory; {printable(hint)}")
        case Link():
            where = printable(os.fsdecode(entry.target))
            raise InputError(f"{printable(inside)} is a link to {where}; get that")


async def _copy(
    client: NodeClient, digest: Digest, write: Callable[[bytes], int], teller: Teller
) -> int:
    """Write what comes; how many bytes came."""
    size = 0
    teller.update(Progress("fetching", bytes=0))
    async with client.get(digest) as chunks:
        async for chunk in checked_chunks(digest, chunks):
            write(chunk)
            size += len(chunk)
            teller.update(Progress("fetching", bytes=size, total_bytes=chunks.size))
    return size


async def get_tree(
    node: Address,
    name: str,
    directory: Path,
    teller: Teller,
    *,
    force: bool,
    include: Sequence[str] = (),
) -> bool:
    """Restore a directory; whether everything could be. Failures are named on stderr.

    `name`: as tree.py says; `include`: globs of what is restored, none for everything.
    """
    restored = partial(_restored, name, directory, teller, force=force, include=include)
    async with node_client(node) as client:
        return await teller.over(partial(restored, client))


async def _restored(
    name: str,
    directory: Path,
    teller: Teller,
    client: NodeClient,
    *,
    force: bool,
    include: Sequence[str],
) -> bool:
    def reading(done: int, size: int | None) -> None:
        teller.update(Progress("reading the manifest", bytes=done, total_bytes=size))

    digest, manifest, _ = await tree_named(client, name, reading)
    if include:
        manifest = selected(manifest, include)
    count = _Count(manifest, teller)
    with Restorer(directory, manifest, force=force, on_bytes=count.bytes) as restorer:
        restorer.directories()
        restore = _Restore(client, restorer, count, teller)
        for group in _groups(restore.needed(manifest.files())):
            await restore.fetch(group)
        count.ended(digest, directory, ok=not restore.failed)
        restorer.finish()
        return not restore.failed


class _Count:
    """How much of a tree is restored: files, and bytes of them."""

    def __init__(self, manifest: Manifest, teller: Teller) -> None:
        sizes = [file.size for file in manifest.files()]
        self._now = Progress("restoring", 0, len(sizes), 0, sum(sizes))
        self._teller = teller
        self.fetched = 0

    def bytes(self, more: int) -> None:
        """So many bytes are there, too; or not, as it turned out."""
        self._add(0, more)

    def file(self, *, fetched: bool) -> None:
        """One file is there, too."""
        self.fetched += fetched
        self._add(1, 0)

    def _add(self, files: int, more: int) -> None:
        now = self._now
        done = (now.bytes or 0) + more
        self._now = msgspec.structs.replace(now, count=(now.count or 0) + files, bytes=done)
        self._teller.update(self._now)

    def ended(self, digest: Digest, directory: Path, *, ok: bool) -> None:
        """Tell how it went."""
        now = self._now
        self._teller.ended(
            ok=ok,
            digest=digest.hex(),
            directory=printable(str(directory)),
            files=now.count,
            total_files=now.total,
            bytes=now.bytes,
            total_bytes=now.total_bytes,
            fetched_files=self.fetched,
        )


class _Restore:
    """The files of a manifest, as they are fetched."""

    def __init__(
        self, client: NodeClient, restorer: Restorer, count: _Count, teller: Teller
    ) -> None:
        self._client = client
        self._restorer = restorer
        self._count = count
        self._teller = teller
        self.failed = False

    def needed(self, files: Iterable[File]) -> Iterator[File]:
        """Those that are not there already."""
        for file in files:
            try:
                if self._restorer.has(file):
                    self._count.file(fetched=False)
                else:
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
        except CannotRestore as error:
            self._in_the_way(files[0], error)
        except (Corrupt, Refused) as error:
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
        self._count.file(fetched=True)

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
        # Said of each one, whatever the node left out: a file that is missing is never a success.
        for digest in list(wanted):
            self._write(Frame(Kind.ABSENT, digest, 0, b""), wanted.pop(digest))

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
                self._count.file(fetched=True)
            except CannotRestore as error:
                self._in_the_way(file, error)
            except Corrupt as error:
                self._complain(error)

    def _in_the_way(self, file: File, error: CannotRestore) -> None:
        """Complain, unless the file itself is there: another restore may have made it."""
        try:
            there = self._restorer.has(file)
        except CannotRestore:
            there = False
        if there:
            self._count.file(fetched=False)
        else:
            self._complain(error)

    def _complain(self, error: MeshError) -> None:
        self.failed = True
        self._teller.error(one_line(error))


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
