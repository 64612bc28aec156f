"""Large blobs that arrive in several goes: kept over broken connections and over kill -9.

`partial/DIGEST` holds the first bytes of a blob, and `partial/DIGEST.log` the record of them:
lines of a checksum and JSON. The first line says under what terms the blob is fetched, each other
one up to where the bytes were durable when it was written, and who brought them. So what stands in
the record is good, and bytes behind it are cut off. The record is begun when something is saved
for the first time: a blob of some MiB that comes in one go needs none, and the syncs for one would
cost as much as its bytes. `mesh.core.partial` decides, this keeps.
"""

from __future__ import annotations

import errno
import logging
import re
import weakref
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import anyio
import msgspec

from mesh.core.digest import Digest, new_hasher
from mesh.core.partial import Evidence, Kept, Progress, Source
from mesh.errors import StoreError, one_line
from mesh.offload import Offload
from mesh.store.base import Item
from mesh.store.faults import translated
from mesh.store.files import Appender, Files, Reader
from mesh.store.large.pieces import Sums
from mesh.store.large.staged import StagedFile
from mesh.store.layout import PARTIAL as FOLDER
from mesh.store.layout import large_name
from mesh.store.log.index import Index

log = logging.getLogger("mesh")

_NAME = re.compile(r"[0-9a-f]{64}", re.ASCII)

# Bytes handed to a thread at a time, as for uploads (store/large.py).
_PIECE = 1024 * 1024

# Bytes hashed in one step of reading again what came earlier: a tenth of a second.
_STEP = 64 * 1024 * 1024

# A record is read whole; MOST_PIECES lines have some hundred kB.
_RECORD_BYTES = 16 * 1024 * 1024

_WHAT = "cannot store a large blob"
_READING = "cannot read what has come of a large blob"


class _Head(msgspec.Struct, frozen=True, tag="head"):
    alone: bool
    evidence: list[Evidence]


class _Saved(msgspec.Struct, frozen=True, tag="saved"):
    """The piece from where the line before ended up to `stop` came from `source`."""

    source: Source
    stop: int


def name_of(digest: Digest) -> str:
    """The file of a blob that has come in part."""
    return f"{FOLDER}/{digest.hex()}"


def record_of(digest: Digest) -> str:
    """The record beside it."""
    return f"{FOLDER}/{digest.hex()}.log"


class PartialFile:
    """See store.base.Resumed. Made, opened and closed by `Partials`."""

    def __init__(self, files: Files, digest: Digest, source: Source, work: Offload) -> None:
        self.progress = Progress()
        self.closed = False
        self._item: weakref.ref[StagedFile] | None = None
        self._digest = digest
        self._files = files
        self._source = source
        self._work = work
        self.name = name_of(digest)
        self._data: Appender | None = None
        self._log: Appender | None = None
        self._hasher = new_hasher()
        self._sums = Sums()
        self._hashed = 0
        self._pieces: list[bytes] = []
        self._held = 0
        self._saved = 0
        self._over = False
        self._opened = False
        self._recorded = False

    async def open(self) -> None:
        """Take up what is there, or begin; anew if this source may not go on with it."""
        await self._work(self._open)

    @property
    def sealed(self) -> bool:
        """Finished, and maybe about to be committed: nobody may touch the file.

        Whoever may still commit it holds the item that `finish` gave; once nobody does, because
        the commit was refused or never asked for, the file is free again.
        """
        return self._item is not None and self._item() is not None

    def unseal(self) -> None:
        """It is known that no commit is coming any more, or that it is over."""
        self._item = None

    async def close(self) -> None:
        """Save what has come, as far as the disk lets us, and let go of it."""
        self.closed = True
        try:
            await self._work(self._close)
        except StoreError as error:
            # What was saved before is kept; the rest is fetched again.
            log.warning("blob %s: %s", self._digest.hex(), one_line(error))

    async def recall(self) -> bool:
        """Hash the next part of what came earlier."""
        return await self._work(self._recall)

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._pieces.append(chunk)
        self._held += len(chunk)
        self.progress.add(self._source, len(chunk))
        if self._held >= _PIECE:
            await self._work(self._flush)

    async def save(self) -> None:
        """Sync the bytes, then say so in the record."""
        await self._work(self._save)

    async def finish(self) -> Item:
        """Everything is durable: what it is called."""
        await self._work(self._seal)
        while await self.recall():
            pass
        digest, sums = Digest(self._hasher.digest()), self._sums.finish()
        item = StagedFile(digest, self.progress.size, self.name, sums)
        self._item = weakref.ref(item)
        return item

    async def liars(self) -> list[Source]:
        """Compare the parts of an earlier try with what is here now."""
        parts = self.progress.evidence
        return self.progress.liars(await self._work(self._hashes, parts)) if parts else []

    async def restart(self, *, alone: bool) -> None:
        """Begin anew."""
        await self._work(self._restart, alone)
        self.unseal()

    async def done(self) -> None:
        """Nothing is kept any more."""
        self._over = True
        self.unseal()

    # --- on a thread -------------------------------------------------------------------------

    def _open(self) -> None:
        with translated(_WHAT):
            found, end = read_record(self._files, self._digest)
            if found is None or not self._holds(found.size):
                self._begin(Progress())
            elif not found.welcomes(self._source):
                self._begin(Progress(alone=found.alone, evidence=found.evidence))
            else:
                self._go_on(found, end)
        self._opened = True

    def _holds(self, size: int) -> bool:
        """Whether the bytes are there that the record speaks of."""
        try:
            return self._files.open(self.name).size >= size
        except FileNotFoundError:
            return False

    def _go_on(self, found: Progress, end: int) -> None:
        # What is behind may be from before a failed sync: it may look well and not be on the disk.
        self._files.truncate(self.name, found.size)
        self._files.truncate(record_of(self._digest), end)
        self._data = self._files.append_to(self.name, create=False)
        self._log = self._files.append_to(record_of(self._digest), create=False)
        self.progress, self._saved, self._recorded = found, found.size, True

    def _begin(self, progress: Progress) -> None:
        self._release()
        remove(self._files, self._digest)
        self.progress = progress
        self._hasher, self._hashed, self._saved = new_hasher(), 0, 0
        self._sums = Sums()
        self._pieces, self._held = [], 0
        self._data = self._files.append_to(self.name, create=True, bulk=True)
        self._recorded = False
        if progress.alone or progress.evidence:
            self._record()

    def _record(self) -> None:
        """Begin the record; the bytes that it will speak of have a durable name with it."""
        self._recorded = True
        self._log = self._files.append_to(record_of(self._digest), create=True)
        self._note(_Head(self.progress.alone, list(self.progress.evidence)))
        self._files.sync_directory(FOLDER)

    def _note(self, line: _Head | _Saved) -> None:
        log, self._log = _usable(self._log), None  # one that fails is not used again
        log.append([_line(self._digest, line)])
        log.sync()
        self._log = log

    def _flush(self) -> None:
        pieces, self._pieces, self._held = self._pieces, [], 0
        if not pieces:
            return
        with translated(_WHAT):
            data, self._data = _usable(self._data), None
            before = data.size
            data.append(pieces)
            self._data = data
        if self._hashed == before:
            for piece in pieces:
                self._hasher.update(piece)
                self._sums.update(piece)
            self._hashed = data.size

    def _save(self) -> None:
        self._flush()
        if self._saved == self.progress.size:
            return
        with translated(_WHAT):
            self._sync()
            if not self._recorded:
                self._record()
            for piece in self.progress.pieces:
                if piece.stop > self._saved:
                    self._note(_Saved(piece.source, piece.stop))
                    self._saved = piece.stop

    def _seal(self) -> None:
        """All bytes have come: durable, and recorded where something was before."""
        if self._recorded:
            self._save()
            return
        self._flush()
        with translated(_WHAT):
            self._sync()

    def _sync(self) -> None:
        data, self._data = _usable(self._data), None
        data.sync()
        self._data = data

    def _recall(self) -> bool:
        """Hash what lies on the disk and was not hashed as it came."""
        if not self._recorded or self._hashed >= self._saved:
            return False
        with translated(_READING):
            file = self._files.open(self.name)
            stop = min(self._saved, self._hashed + _STEP)
            while self._hashed < stop:
                piece = file.read_at(self._hashed, min(_PIECE, stop - self._hashed))
                if not piece:
                    raise OSError(errno.EIO, "the file has lost its end")
                self._hasher.update(piece)
                self._sums.update(piece)
                self._hashed += len(piece)
        return self._hashed < self._saved

    def _hashes(self, parts: Sequence[Evidence]) -> list[bytes]:
        with translated(_READING):
            file = self._files.open(self.name)
            return [_hash(file, part.start, part.stop) for part in parts]

    def _restart(self, alone: bool) -> None:
        with translated(_WHAT):
            evidence = list(self.progress.evidence)
            if alone:
                file = self._files.open(self.name)
                evidence = [
                    Evidence(*piece, _hash(file, piece.start, piece.stop))
                    for piece in self.progress.pieces
                ]
            self._begin(Progress(alone=alone, evidence=evidence))

    def _close(self) -> None:
        # What could not be opened may hold much, which is not known here.
        nothing = self._opened and not self.progress.size and not self.progress.evidence
        with translated(_WHAT):
            try:
                if not self._over and self._data is not None:
                    self._save()
            finally:
                self._release()
                if self._over or nothing:
                    remove(self._files, self._digest)

    def _release(self) -> None:
        for file in (self._data, self._log):
            if file is not None:
                with suppress(OSError):
                    file.close()
        self._data = self._log = None


class Partials:
    """The partial blobs of a store. Lives on the event loop; files are touched on threads."""

    def __init__(self, files: Files, work: Offload) -> None:
        self._files = files
        self._work = work
        self._open: dict[Digest, PartialFile] = {}

    @asynccontextmanager
    async def resume(self, digest: Digest, source: Source) -> AsyncIterator[PartialFile | None]:
        """See BlobStore.resume."""
        if self._is_busy(digest):
            yield None
            return
        partial = self._open[digest] = PartialFile(self._files, digest, source, self._work)
        try:
            await partial.open()
            yield partial
        except Exception:
            # Whoever brought it has been told why, so that nobody commits it any more. A caller
            # that is cancelled is not told: then the commit may come all the same.
            partial.unseal()
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await partial.close()
            if not partial.sealed:
                del self._open[digest]

    def _is_busy(self, digest: Digest) -> bool:
        """Whether somebody brings a blob, or may be about to commit it."""
        partial = self._open.get(digest)
        if partial is not None and partial.closed and not partial.sealed:
            del self._open[digest]
            return False
        return partial is not None

    def committed(self, items: Sequence[Item]) -> None:
        """A commit of these is over, well or not: what was sealed for it may be touched again."""
        for item in items:
            partial = self._open.get(item.digest)
            if partial is not None and isinstance(item, StagedFile) and item.name == partial.name:
                partial.unseal()
                if partial.closed:
                    del self._open[item.digest]

    async def kept(self) -> list[Kept]:
        """See BlobStore.partials."""
        found = await self._work(_listed, self._files)
        for digest, partial in self._open.items():
            if digest in found:
                found[digest] = partial.progress.size
        return [Kept(each, size, self._is_busy(each)) for each, size in sorted(found.items())]

    async def drop(self, digest: Digest) -> None:
        """See BlobStore.drop_partial."""
        if not self._is_busy(digest):
            await self._work(_drop, self._files, digest)


def tidy(files: Files, index: Index) -> None:
    """At a start: what a crash between two steps of a commit left is taken back or removed."""
    found = _kept(files)
    here = {row.digest for row in index.find(list(found))}
    data = {entry.name for entry in files.list(FOLDER) if entry.regular}
    for digest in found:
        if digest in here:
            remove(files, digest)
        elif digest.hex() not in data:
            # Renamed for the commit whose record was not written: nobody was told of it.
            try:
                files.rename(large_name(digest), name_of(digest))
            except FileNotFoundError:
                remove(files, digest)


def remove(files: Files, digest: Digest) -> None:
    """Both files of a partial blob, the record last: bytes without one are never believed."""
    for name in (name_of(digest), record_of(digest)):
        with suppress(FileNotFoundError):
            files.remove(name)


def read_record(files: Files, digest: Digest) -> tuple[Progress | None, int]:
    """What the record says, up to the first line that is not whole, and where that begins.

    None when it says nothing.
    """
    try:
        file = files.open(record_of(digest))
    except FileNotFoundError:
        return None, 0
    progress: Progress | None = None
    end = 0
    for line in file.read_at(0, _RECORD_BYTES).splitlines(keepends=True):
        try:
            said = msgspec.json.decode(line[9:], type=_Head | _Saved)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            break
        if line != _line(digest, said):
            break
        end += len(line)
        if isinstance(said, _Head):
            progress = Progress(alone=said.alone, evidence=said.evidence)
        elif progress is not None:
            progress.add(said.source, said.stop - progress.size)
    return progress, end


def _line(digest: Digest, said: _Head | _Saved) -> bytes:
    """A line; the checksum begins with the digest, so that another blob's record is none."""
    text = msgspec.json.encode(said)
    return b"%08x %s\n" % (zlib.crc32(text, zlib.crc32(digest)), text)


def _listed(files: Files) -> dict[Digest, int]:
    """The partial blobs, and how many bytes of each are known to be good."""
    with translated("cannot list what has come of large blobs"):
        return {digest: _good(files, digest, size) for digest, size in _kept(files).items()}


def _good(files: Files, digest: Digest, size: int) -> int:
    progress, _ = read_record(files, digest)
    return progress.size if progress is not None and progress.size <= size else 0


def _kept(files: Files) -> dict[Digest, int]:
    """The partial blobs by digest, with the bytes that they take."""
    found: dict[Digest, int] = {}
    for entry in files.list(FOLDER):
        name = entry.name.removesuffix(".log")
        if entry.regular and _NAME.fullmatch(name):
            digest = Digest(bytes.fromhex(name))
            size = entry.size if name == entry.name else 0
            found[digest] = max(size, found.get(digest, 0))
    return found


def _drop(files: Files, digest: Digest) -> None:
    with translated("cannot remove what has come of a large blob"):
        remove(files, digest)


def _hash(file: Reader, start: int, stop: int) -> bytes:
    hasher = new_hasher()
    while start < stop and (piece := file.read_at(start, min(_PIECE, stop - start))):
        hasher.update(piece)
        start += len(piece)
    return hasher.digest()


def _usable(file: Appender | None) -> Appender:
    if file is None:
        raise OSError(errno.EIO, "an earlier write failed")
    return file
