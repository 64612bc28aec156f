"""Blobs that arrive: small ones in memory, large ones into a file of their own.

A large blob is written to `tmp/`, hashed on the way, synced, and renamed into `large/` by the
commit that also logs its reference record; only then is it acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from mesh.core.digest import Digest, digest_of, new_hasher
from mesh.core.limits import LARGE_BLOB
from mesh.offload import Offload
from mesh.store.base import Blob, Item
from mesh.store.faults import translated
from mesh.store.files import Appender, Files
from mesh.store.large.pieces import PieceSums, Sums, encode_sums, sums_name
from mesh.store.layout import PARTIAL, large_name

# Bytes handed to a thread at a time: hashing a MiB takes 1.5 ms, the hand-over 0.05 ms.
_PIECE = 1024 * 1024


class StagedFile(NamedTuple):
    """A large blob that is whole and durable in a temporary file.

    `sums` of its pieces; when they are not known they are made at the first read.
    """

    digest: Digest
    size: int
    name: str
    sums: PieceSums | None = None


class LargeIncoming:
    """A blob that arrives in chunks; turns into a file when it grows to LARGE_BLOB bytes."""

    def __init__(self, files: Files, name: str, work: Offload) -> None:
        """`name`: the temporary file, if one is needed."""
        self._files = files
        self._name = name
        self._work = work
        self._pieces: list[bytes] = []
        self._held = 0
        self._hasher = new_hasher()
        self._sums = Sums()
        self._file: Appender | None = None
        self._made = False
        self.size = 0

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._pieces.append(chunk)
        self._held += len(chunk)
        self.size += len(chunk)
        if self._held >= (_PIECE if self._made else LARGE_BLOB):
            await self._work(self._flush)

    async def finish(self) -> Item:
        """Hash what is held; sync the file, if there is one."""
        if not self._made:
            data = b"".join(self._pieces)
            # Hashing up to 4 MiB takes up to 6 ms: too long for the event loop, so a thread.
            digest = await self._work(digest_of, data) if len(data) > 65536 else digest_of(data)
            return Blob(digest, data)
        await self._work(self._seal)
        digest = Digest(self._hasher.digest())
        return StagedFile(digest, self.size, self._name, self._sums.finish())

    async def drop(self) -> None:
        """Remove what is left of the temporary file."""
        self._pieces.clear()
        if self._made:
            await self._work(self._remove)

    def _flush(self) -> None:
        with translated("cannot store a large blob"):
            if self._file is None:
                self._file = self._files.append_to(self._name, create=True, bulk=True)
                self._made = True
            for piece in self._pieces:
                self._hasher.update(piece)
                self._sums.update(piece)
            self._file.append(self._pieces)
        self._pieces.clear()
        self._held = 0

    def _seal(self) -> None:
        self._flush()
        if self._file is not None:
            file, self._file = self._file, None
            with translated("cannot store a large blob"):
                try:
                    file.sync()
                finally:
                    file.close()

    def _remove(self) -> None:
        file, self._file = self._file, None
        with translated("cannot remove an unfinished upload"):
            if file is not None:
                file.close()
            # Committed: the file has been renamed away.
            with suppress(FileNotFoundError):
                self._files.remove(self._name)


def publish(files: Files, staged: Sequence[StagedFile], settled: set[str]) -> None:
    """Rename whole large blobs to where they are read, durably.

    `settled`: directories whose own names are known to be durable; those made here are added. A
    sync of a directory commits the file system's journal, some ms each: one for each directory
    of the batch, and none for what is settled.
    """
    names = {item.name: large_name(item.digest) for item in staged}
    directories = dict.fromkeys(name.rpartition("/")[0] for name in names.values())
    fresh = [directory for directory in directories if directory not in settled]
    for directory in fresh:
        files.make_directory(directory)
    for item in staged:
        if item.sums is not None:
            # Before the blob: between its rename and the sync of that nothing should take time.
            write_sums(files, item.digest, item.size, item.sums)
    for old, new in names.items():
        files.rename(old, new)
    for directory in directories:
        files.sync_directory(directory)
    if fresh:
        # One of them may be there since a crash that came before its own name was synced.
        files.sync_directory("large")
        settled.update(fresh)


def withdraw(files: Files, staged: Sequence[StagedFile]) -> None:
    """Take back what was published and then not recorded; nobody was told of it.

    What came in several goes is put back where it was: it need not come again.
    """
    for item in staged:
        name = large_name(item.digest)
        with suppress(OSError):
            files.remove(sums_name(name))
        with suppress(OSError):
            if item.name.startswith(f"{PARTIAL}/"):
                files.rename(name, item.name)
            else:
                files.remove(name)


def write_sums(files: Files, digest: Digest, size: int, sums: PieceSums) -> None:
    """Keep the sums of a large blob beside it; when that fails they are derived when needed."""
    name = sums_name(large_name(digest))
    with suppress(OSError):
        files.remove(name)
    try:
        file = files.append_to(name, create=True)
        try:
            file.append([encode_sums(digest, size, sums)])
        finally:
            file.close()
    except OSError:
        with suppress(OSError):
            files.remove(name)


def sweep(files: Files) -> int:
    """Remove the temporary files of an earlier run; how many there were."""
    stale = [entry for entry in files.list("tmp") if entry.regular]
    for entry in stale:
        files.remove(f"tmp/{entry.name}")
    return len(stale)
