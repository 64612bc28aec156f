"""The steps of a put in a row, each a task of its own: while one batch is sent, another is read.

Every stream between two steps holds nothing, so each step has one batch or group in hand: some
8 MiB of files, and what the last step and the connection are about to send.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias, TypeVar

from anyio import (
    BrokenResourceError,
    create_memory_object_stream,
    create_task_group,
    sleep_forever,
    to_thread,
)
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from mesh.cli.absolute import absolute
from mesh.cli.putting.outcome import Outcome
from mesh.cli.putting.reading import File, Group, Hashed, Job, Reader, Trouble
from mesh.cli.putting.sending import Sender
from mesh.cli.putting.survey import Batch, Survey
from mesh.cli.record import Note, Record
from mesh.transport.client import NodeClient

T = TypeVar("T")

# What is sent: files that the node lacks have their bytes, or are large.
_Ready: TypeAlias = Group | Hashed


class Steps:
    """Everything that a survey finds, put in order."""

    def __init__(
        self,
        client: NodeClient,
        reader: Reader,
        sender: Sender,
        outcome: Outcome,
        record: Record | None,
    ) -> None:
        """`record`: where what was put is noted."""
        self._client = client
        self._reader = reader
        self._sender = sender
        self._outcome = outcome
        self._record = record

    async def run(self, survey: Survey) -> None:
        """All steps, until everything is done."""
        surveyed, to_ask = create_memory_object_stream[Batch]()
        known, to_read = create_memory_object_stream[Batch]()
        read, to_compare = create_memory_object_stream[_Ready]()
        ready, to_send = create_memory_object_stream[_Ready]()
        async with create_task_group() as group:
            group.start_soon(self._survey, survey, surveyed)
            group.start_soon(self._ask, to_ask, known)
            group.start_soon(self._read, to_read, read)
            group.start_soon(self._compare, to_compare, ready)
            group.start_soon(self._send, to_send)

    async def _survey(self, survey: Survey, surveyed: MemoryObjectSendStream[Batch]) -> None:
        """Find files, and what the record knows of them."""
        async with surveyed:
            while batch := await to_thread.run_sync(survey.next):
                await _hand(surveyed, batch)

    async def _ask(
        self,
        batches: MemoryObjectReceiveStream[Batch],
        known: MemoryObjectSendStream[Batch],
    ) -> None:
        """Leave a digest only to files that the node holds, so that the others are read."""
        async with batches, known:
            async for found, digests in batches:
                asked = [digest for digest in digests if digest is not None]
                lacking = await self._client.lacking(asked) if asked else set()
                if lacking:
                    digests = [None if digest in lacking else digest for digest in digests]
                await _hand(known, Batch(found, digests))

    async def _read(
        self,
        batches: MemoryObjectReceiveStream[Batch],
        read: MemoryObjectSendStream[_Ready],
    ) -> None:
        """Read and hash files without a digest."""
        async with batches, read:
            async for batch in batches:
                jobs = self._reader.jobs(batch)
                while (job := await to_thread.run_sync(_next, jobs)) is not None:
                    if isinstance(job, Group):
                        await _hand(read, job)
                        continue
                    file = await self._reader.hashed(job)
                    await _hand(
                        read, Group([], [file]) if isinstance(file, Trouble) else Hashed(file)
                    )

    async def _compare(
        self,
        jobs: MemoryObjectReceiveStream[_Ready],
        ready: MemoryObjectSendStream[_Ready],
    ) -> None:
        """Drop the bytes of what the node holds already."""
        async with jobs, ready:
            async for job in jobs:
                await _hand(ready, await self._needed(job))

    async def _needed(self, job: _Ready) -> _Ready:
        if isinstance(job, Hashed):
            lacking = await self._client.lacking([job.file.digest])
            return job if lacking else Group([job.file], [])
        fresh = {file.digest for file in job.files if file.data is not None}
        if not fresh:
            return job
        lacking = await self._client.lacking(list(fresh))
        files = [
            file if file.data is None or file.digest in lacking else file._replace(data=None)
            for file in job.files
        ]
        return Group(files, job.others)

    async def _send(self, jobs: MemoryObjectReceiveStream[_Ready]) -> None:
        """Send, print, and note what was put."""
        async with jobs:
            async for job in jobs:
                if isinstance(job, Group):
                    for other in job.others:
                        self._outcome.other(other)
                    files = await self._sender.group(job)
                else:
                    files = await self._sender.large(job)
                self._outcome.done(files)
                await self._note(files)

    async def _note(self, files: Sequence[File]) -> None:
        fresh = [file for file in files if file.stamp is not None]
        if fresh and self._record is not None:
            await to_thread.run_sync(self._record.note, _notes(fresh))


async def _hand(to: MemoryObjectSendStream[T], item: T) -> None:
    """Give something to the next step. When that one has failed, its error is about to end all."""
    try:
        await to.send(item)
    except BrokenResourceError:
        await sleep_forever()


def _notes(files: Sequence[File]) -> Iterator[Note]:
    for file in files:
        if file.stamp is not None:
            yield Note(absolute(file.found.source), file.stamp, file.digest)


def _next(jobs: Iterator[Job]) -> Job | None:
    return next(jobs, None)
