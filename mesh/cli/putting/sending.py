"""How files get to the node: small ones as a batch, large ones each by a request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from anyio import to_thread

from mesh.cli.putting.outcome import Outcome
from mesh.cli.putting.reading import Changed, File, Group, Hashed, Reading, opened
from mesh.cli.putting.watching import Watcher
from mesh.cli.walk import FoundFile
from mesh.errors import MeshError, Refused, one_line
from mesh.transport.client import NodeClient, checked
from mesh.wire.frames import Kind, end, frame

# Bytes of a chunk of a batch.
_PIECE = 512 * 1024

# A frame without the bytes of its blob: kind, digest, length.
_FRAME = 41

# What the node answers when the body is another blob than the one named.
_ANOTHER = 422


class Sender:
    """Sends what the node lacks, and tells `outcome` what became of it."""

    def __init__(self, client: NodeClient, outcome: Outcome, watcher: Watcher) -> None:
        """`client`: the node."""
        self._client = client
        self._outcome = outcome
        self._watcher = watcher

    async def group(self, group: Group) -> Sequence[File]:
        """Send those files of a group that have bytes. Returns what is at the node then."""
        # Two files may have one content.
        blobs = {file.digest: file for file in group.files if file.data is not None}
        if blobs:
            try:
                await self._batch(list(blobs.values()))
            except Refused as error:
                if error.status != 413:
                    raise
                # One of them is over the node's limit: let it say so of each by itself.
                return [file for file in group.files if await self._singly(file)]
        return group.files

    async def large(self, hashed: Hashed) -> Sequence[File]:
        """Send a large file. Returns what is at the node then: it, or nothing."""
        file = hashed.file
        found = file.found
        try:
            try:
                if hashed.pieces:
                    kept = self._kept(hashed.pieces)
                    await self._client.put_named(file.digest, kept, file.size)
                else:
                    await self._named(file)
            except Changed:
                # It is another file now than when it was hashed. So it is hashed as it is sent.
                file = await self._stream(found)
        except Changed as error:
            self._outcome.complain(found.source, one_line(error))
        except OSError as error:
            self._outcome.complain(found.source, error.strerror or str(error))
        except Refused as error:
            self._outcome.refused(found, file.size, error)
        else:
            return [file]
        return []

    async def _batch(self, files: Sequence[File]) -> None:
        size = sum(_FRAME + file.size for file in files) + _FRAME  # the end mark
        result = await self._client.put_batch(self._framed(files), size)
        if result.rejected:
            raise MeshError(f"{result.rejected} blobs arrived damaged; put them again")

    async def _singly(self, file: File) -> bool:
        """Whether the node has a file now."""
        if file.data is None:
            return True
        try:
            checked(await self._client.put_stream(file.data, file.size), file.digest)
        except Refused as error:
            self._outcome.refused(file.found, file.size, error)
            return False
        return True

    async def _named(self, file: File) -> None:
        """Send a file as what it was when it was hashed; Changed when it is that no more."""
        with opened(file.found) as descriptor:
            reading = Reading(descriptor)
            if (reading.size or file.size) != file.size:
                raise Changed
            pieces = self._pieces(reading.unhashed)
            try:
                await self._client.put_named(file.digest, pieces, reading.size)
            except Refused as error:
                if error.status == _ANOTHER:
                    raise Changed from error
                raise

    async def _stream(self, found: FoundFile) -> File:
        with opened(found) as descriptor:
            reading = Reading(descriptor)
            stored = await self._client.put_stream(self._pieces(reading.piece), reading.size)
            reading.unchanged()
            checked(stored, reading.digest())
            return File(found, reading.digest(), reading.read, None, None)

    async def _pieces(self, read: Callable[[], bytes]) -> AsyncIterator[bytes]:
        while data := await to_thread.run_sync(read):
            yield data
            self._watcher.sent(len(data))

    async def _kept(self, pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            self._watcher.sent(len(piece))

    async def _framed(self, files: Sequence[File]) -> AsyncIterator[bytes]:
        """The frames of a group, in chunks of about half a MiB."""
        pieces: list[bytes] = []
        held = 0
        for file in files:
            data = file.data or b""
            pieces += (frame(Kind.BLOB, file.digest, len(data)), data)
            held += len(data)
            if held >= _PIECE:
                yield b"".join(pieces)
                self._watcher.sent(held)
                pieces, held = [], 0
        pieces.append(end(len(files)))
        yield b"".join(pieces)
        self._watcher.sent(held)
