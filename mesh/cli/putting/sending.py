"""How what was read gets to the node: small files as a batch, large ones each by a request."""

from __future__ import annotations

from collections.abc import AsyncIterator

from anyio import to_thread

from mesh.cli.putting.outcome import Outcome
from mesh.cli.putting.printing import flush
from mesh.cli.putting.watching import Watcher
from mesh.cli.reading import TRIES, Changed, Group, Job, Large, Reading, Small, opened
from mesh.cli.walk import FoundFile
from mesh.errors import MeshError, Refused, one_line
from mesh.transport.client import NodeClient, checked
from mesh.wire.frames import Kind, end, frame

# Bytes of a chunk of a batch.
_PIECE = 512 * 1024

# A frame without the bytes of its blob: kind, digest, length.
_FRAME = 41


class Sender:
    """Sends what was read, and tells `outcome` what became of it."""

    def __init__(self, client: NodeClient, outcome: Outcome, watcher: Watcher) -> None:
        """`client`: the node."""
        self._client = client
        self._outcome = outcome
        self._watcher = watcher

    async def send(self, job: Job) -> None:
        """One job; what of it is durable has been printed on return."""
        match job:
            case Group(files, others):
                for other in others:
                    self._outcome.other(other)
                if files:
                    await self._group(files)
            case Large(found):
                await self._large(found)
        flush()

    async def _group(self, files: list[Small]) -> None:
        size = sum(_FRAME + len(file.data) for file in files) + _FRAME  # the end mark
        try:
            result = await self._client.put_batch(self._framed(files), size)
        except Refused as error:
            if error.status != 413:
                raise
            # One of them is over the node's limit: let it say so of each by itself.
            await self._singly(files)
            return
        if result.rejected:
            raise MeshError(f"{result.rejected} blobs arrived damaged; put them again")
        for file in files:
            self._outcome.done(file.found, file.digest, len(file.data))

    async def _singly(self, files: list[Small]) -> None:
        for file in files:
            size = len(file.data)
            try:
                checked(await self._client.put_stream(file.data, size), file.digest)
                self._outcome.done(file.found, file.digest, size)
            except Refused as error:
                self._outcome.refused(file.found, size, error)

    async def _large(self, found: FoundFile) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                with opened(found) as descriptor:
                    await self._stream(found, Reading(descriptor))
                return
            except Changed as error:
                if attempt == TRIES:
                    self._outcome.complain(found.source, one_line(error))
            except OSError as error:
                self._outcome.complain(found.source, error.strerror or str(error))
                return

    async def _stream(self, found: FoundFile, reading: Reading) -> None:
        try:
            stored = await self._client.put_stream(self._pieces(reading), reading.size)
        except Refused as error:
            self._outcome.refused(found, reading.size or 0, error)
            return
        reading.unchanged()
        checked(stored, reading.digest())
        self._outcome.done(found, reading.digest(), reading.read)

    async def _pieces(self, reading: Reading) -> AsyncIterator[bytes]:
        while data := await to_thread.run_sync(reading.piece):
            self._watcher.hashed(len(data))
            yield data
            self._watcher.sent(len(data))

    async def _framed(self, files: list[Small]) -> AsyncIterator[bytes]:
        """The frames of a group, in chunks of about half a MiB."""
        pieces: list[bytes] = []
        held = 0
        for file in files:
            pieces += (frame(Kind.BLOB, file.digest, len(file.data)), file.data)
            held += len(file.data)
            if held >= _PIECE:
                yield b"".join(pieces)
                self._watcher.sent(held)
                pieces, held = [], 0
        pieces.append(end(len(files)))
        yield b"".join(pieces)
        self._watcher.sent(held)
