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
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

import anyio
import msgspec

from mesh.core.digest import Digest, new_hasher
from mesh.core.partial import STRANGERS, Bringer, Evidence, Kept, Progress
from mesh.decoding import from_hex, json_of
from mesh.errors import StoreError, Undecodable, one_line
from mesh.offload import Offload
from mesh.store.base import Item
from mesh.store.faults import translated
from mesh.store.files import Appender, Files, Reader
from mesh.store.large.pieces import PIECE as SUMMED
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
    """The piece from where the line before ended up to `stop` came from `bringer`."""

    bringer: Bringer = msgspec.field(name="source")
    stop: int


_LINE = json_of(_Head | _Saved)


def name_of(digest: Digest) -> str:
    """The file of a blob that has come in part."""
    return f"{FOLDER}/{digest.hex()}"


def record_of(digest: Digest) -> str:
    """The record beside it."""
    return f"{FOLDER}/{digest.hex()}.log"


class PartialFile:
    """See store.base.Resumed. Made, opened and closed by `Partials`."""

    def __init__(self, files: Files, digest: Digest, bringer: Bringer, work: Offload) -> None:
        self.progress = Progress()
        self.barred = False
        """A stranger brings it and a configured peer has a part in it: nothing was opened."""
        self._digest = digest
        self._files = files
        self._bringer = bringer
        self._work = work
        self.name = name_of(digest)
        self._data: Appender | None = None
        self._log: Appender | None = None
        self._reader: Reader | None = None
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
        """Take up what is there, or begin; anew if this bringer may not go on with it."""
        await self._work(self._open)

    async def close(self) -> None:
        """Save what has come, as far as the disk lets us, and let go of it."""
        try:
            await self._work(self._close)
        except StoreError as error:
            # What was saved before is kept; the rest is fetched again.
            log.warning("blob %s: %s", self._digest.hex(), one_line(error))

    async def recall(self) -> bool:
        """Hash the next part of what came earlier."""
        return await self._work(self._recall)

    async def write(self, chunk: bytes, bringer: Bringer | None = None) -> None:
        """Take the next bytes."""
        self._pieces.append(chunk)
        self._held += len(chunk)
        self.progress.add(self._bringer if bringer is None else bringer, len(chunk))
        if self._held >= _PIECE:
            await self._work(self._flush)

    async def read(self, start: int, stop: int) -> bytes:
        """What has come, from the disk."""
        return await self._work(self._read, start, stop)

    async def save(self) -> None:
        """Sync the bytes, then say so in the record."""
        await self._work(self._save)

    async def finish(self) -> Item:
        """Everything is durable: what it is called."""
        await self._work(self._seal)
        while await self.recall():
            pass
        digest, sums = Digest(self._hasher.digest()), self._sums.finish()
        return StagedFile(digest, self.progress.size, self.name, sums)

    async def liars(self) -> list[Bringer]:
        """Compare the parts of an earlier try with what is here now."""
        parts = self.progress.evidence
        return self.progress.liars(await self._work(self._hashes, parts)) if parts else []

    async def restart(self, *, alone: bool) -> None:
        """Begin anew."""
        await self._work(self._restart, alone)

    async def done(self) -> None:
        """Nothing is kept any more."""
        self._over = True

    # --- on a thread -------------------------------------------------------------------------

    def _open(self) -> None:
        with translated(_WHAT):
            found, end = read_record(self._files, self._digest)
            if found is None or not self._holds(found.size):
                self._begin(Progress())
            elif self._bringer == STRANGERS and found.guarded:
                self.barred = True
                return
            elif not found.welcomes(self._bringer):
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
        self._reader = None
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
        log, self._log = _usable(self._log), None
        with _closed_if_it_fails(log):
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
            with _closed_if_it_fails(data):
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
                    self._note(_Saved(piece.bringer, piece.stop))
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
        with _closed_if_it_fails(data):
            data.sync()
        self._data = data

    def _read(self, start: int, stop: int) -> bytes:
        """May run while another thread appends: what is hashed does not change any more."""
        first, hashed, name = start - start % SUMMED, self._hashed, self._digest.hex()
        last = min(-(-stop // SUMMED) * SUMMED, hashed)
        with translated(_READING):
            # Kept open, as a commit gives the file another name while it is read.
            if self._reader is None:
                self._reader = self._files.open(self.name)
            data = self._reader.read_at(first, max(0, last - first))
        for at in range(first, stop, SUMMED):
            piece = data[at - first : at - first + SUMMED]
            # A last piece that is not whole has no sum yet, so it is not given away.
            if not piece or not self._sums.fits(at, piece):
                raise StoreError(f"blob {name} has not come so far, or is damaged at {at}")
        return data[start - first : stop - first]

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
            over = self._over or nothing
            try:
                if not over and self._data is not None:
                    # A commit that went well has renamed the file; one that failed has left it.
                    over = not self._holds(0)
                    if not over:
                        self._save()
            finally:
                self._release()
                if over:
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
    async def resume(self, digest: Digest, bringer: Bringer) -> AsyncIterator[PartialFile | None]:
        """See BlobStore.resume."""
        if digest in self._open:
            yield None
            return
        partial = self._open[digest] = PartialFile(self._files, digest, bringer, self._work)
        try:
            await partial.open()
            if not partial.barred:
                yield partial
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await partial.close()
                finally:
                    del self._open[digest]
        if partial.barred:
            # Let go of first: while the stranger pushes, a configured peer may go on with it.
            yield None

    async def kept(self) -> list[Kept]:
        """See BlobStore.partials."""
        found = await self._work(_listed, self._files)
        for digest, partial in self._open.items():
            if digest in found:
                found[digest] = partial.progress.size, partial.progress.guarded
        return [
            Kept(digest, size, digest in self._open, guarded)
            for digest, (size, guarded) in sorted(found.items())
        ]

    async def drop(self, digest: Digest) -> None:
        """See BlobStore.drop_partial."""
        if digest not in self._open:
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
            said = _LINE.read(line[9:])
        except Undecodable:
            break
        if line != _line(digest, said):
            break
        end += len(line)
        if isinstance(said, _Head):
            progress = Progress(alone=said.alone, evidence=said.evidence)
        elif progress is not None:
            progress.add(said.bringer, said.stop - progress.size)
    return progress, end


def _line(digest: Digest, said: _Head | _Saved) -> bytes:
    """A line; the checksum begins with the digest, so that another blob's record is none."""
    text = msgspec.json.encode(said)
    return b"%08x %s\n" % (zlib.crc32(text, zlib.crc32(digest)), text)


def _listed(files: Files) -> dict[Digest, tuple[int, bool]]:
    """The partial blobs: how many bytes of each are known to be good, and whether guarded."""
    with translated("cannot list what has come of large blobs"):
        return {digest: _good(files, digest, size) for digest, size in _kept(files).items()}


def _good(files: Files, digest: Digest, size: int) -> tuple[int, bool]:
    progress, _ = read_record(files, digest)
    if progress is None or progress.size > size:
        return 0, False
    return progress.size, progress.guarded


def _kept(files: Files) -> dict[Digest, int]:
    """The partial blobs by digest, with the bytes that they take."""
    found: dict[Digest, int] = {}
    for entry in files.list(FOLDER):
        name = entry.name.removesuffix(".log")
        if entry.regular and _NAME.fullmatch(name):
            digest = Digest(from_hex(name))
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


@contextmanager
def _closed_if_it_fails(file: Appender) -> Iterator[None]:
    """A file that fails once is not used again: let go of it, or each try costs a descriptor."""
    try:
        yield
    except OSError:
        with suppress(OSError):
            file.close()
        raise
