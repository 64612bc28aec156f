"""Large blobs without sums, hashed against their names: once for all who wait.

A job belongs to the store and not to whoever asked first. It is kept until it is done, whoever
goes away meanwhile. `run`, a task of the store's owner, drives the jobs one after the other.
Without such a task, in a tool that opens a store for a moment, those who wait drive a job by turns.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

import anyio

from mesh.core.digest import Digest
from mesh.errors import StoreError
from mesh.offload import Offload
from mesh.store.base import HEARTBEAT, Verifying
from mesh.store.files import Files
from mesh.store.large.pieces import PieceSums
from mesh.store.log.index import Row
from mesh.store.reading import Hashing, LargeFile

# Sums that could not be written beside their blobs, on a disk that takes no writes say, and are
# kept in memory: as many as arrive from a peer at a time. Those of 64 GiB take 2 MiB.
_REMEMBERED = 8


class _Job:
    """The hashing of one blob; `error`: what ended it, unless it went well."""

    def __init__(self, file: LargeFile) -> None:
        self.file = file
        self.hashing = Hashing(file)
        self.turn = anyio.Lock()
        self.done = anyio.Event()
        self.error: StoreError | None = None


class Verifications:
    """All jobs of a store. Lives on the event loop; files are read on threads."""

    def __init__(self, files: Files, work: Offload, on_read: Callable[[], None]) -> None:
        """`on_read` is told of each step, so that a scrub steps aside meanwhile."""
        self._files = files
        self._work = work
        self._on_read = on_read
        self._jobs: dict[Digest, _Job] = {}
        self._sums: dict[Digest, PieceSums] = {}
        self._wake = anyio.Event()
        self._driven = False

    @property
    def under_way(self) -> list[Verifying]:
        """What is being verified, and how far it is."""
        return [
            Verifying(digest, job.hashing.at, job.file.row.size)
            for digest, job in self._jobs.items()
        ]

    async def run(self) -> None:
        """Drive the jobs, until cancelled; what is done of them is kept."""
        self._driven = True
        try:
            while True:
                self._wake = anyio.Event()
                for job in list(self._jobs.values()):
                    await self._advance(job)
                if not self._jobs:
                    await self._wake.wait()
        finally:
            self._driven = False

    async def verified(self, row: Row, seconds: float) -> bool:
        """Whether the sums of a large blob are known after up to so many seconds.

        Raises what its verification met: Rotten when it is not the blob.
        """
        found = await self._begun(row)
        return isinstance(found, LargeFile) or await self._waited(found, seconds)

    async def file(self, row: Row) -> AsyncGenerator[LargeFile | None, None]:
        """None each HEARTBEAT seconds while a blob is verified; at last its file with sums."""
        found = await self._begun(row)
        if isinstance(found, _Job):
            while not await self._waited(found, HEARTBEAT):
                yield None
            found = found.file
        yield found

    async def _begun(self, row: Row) -> LargeFile | _Job:
        """A large blob's file if its sums are known, else the job that finds them."""
        job = self._jobs.get(row.digest)
        if job is not None:
            return job
        file = await self._work(LargeFile, self._files, row)
        if file.sums is None:
            file.sums = self._sums.get(row.digest)
        if file.sums is not None:
            return file
        self._wake.set()
        return self._jobs.setdefault(row.digest, _Job(file))

    async def _waited(self, job: _Job, seconds: float) -> bool:
        """Whether a job is done after up to so many seconds; raises what it met."""
        with anyio.move_on_after(seconds):
            while not job.done.is_set():
                if self._driven:
                    await job.done.wait()
                else:
                    await self._advance(job)
        if job.error is not None:
            raise job.error
        return job.done.is_set()

    async def _advance(self, job: _Job) -> None:
        """One step, by one task at a time."""
        async with job.turn:
            if job.done.is_set():
                return
            self._on_read()
            try:
                if not await self._work(job.hashing.step):
                    return
            except StoreError as error:
                job.error = error
            job.done.set()
            digest = job.file.row.digest
            self._jobs.pop(digest, None)
            if job.file.sums is not None:
                self._sums.pop(digest, None)
                self._sums[digest] = job.file.sums
                if len(self._sums) > _REMEMBERED:
                    del self._sums[next(iter(self._sums))]
