"""The steps of a put in a row, each a task of its own: while one batch is sent, another is read.

Several files are in hand at once: one is read and hashed while another is sent and a third one is
synced at the node. What is held of all of them is counted (held.py). One question to the node is
about all that waits for it. Each file is told of in its turn, whichever is the first at the node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import TypeAlias, TypeVar

from anyio import (
    BrokenResourceError,
    CapacityLimiter,
    EndOfStream,
    Event,
    WouldBlock,
    create_memory_object_stream,
    create_task_group,
    sleep_forever,
    to_thread,
)
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from mesh.cli.absolute import absolute
from mesh.cli.putting.held import Held
from mesh.cli.putting.outcome import Outcome
from mesh.cli.putting.reading import File, Group, Hashed, Job, Reader, Trouble
from mesh.cli.putting.sending import Sender
from mesh.cli.putting.survey import Batch, Survey
from mesh.cli.record import Note, Record
from mesh.core.digest import Digest
from mesh.transport.client import NodeClient

T = TypeVar("T")

# What is sent: files that the node lacks have their bytes, or are large.
_Ready: TypeAlias = Group | Hashed

# Bytes that are held from when they are read until the node has them: what a fast disk and a fast
# network move in the time of some syncs, and no burden for any machine.
_HELD = 64 * 1024 * 1024

# Jobs that wait for one question to the node about all of them.
_ASKED_TOGETHER = 16

# Requests under way at a time: while one is sent, the node syncs what came before it.
_SENT_AT_ONCE = 4


class _Sent:
    """A job that was handed to the connection, and what came of it."""

    def __init__(self, job: _Ready) -> None:
        self.job = job
        self.files: Sequence[File] = ()
        self.done = Event()


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
        self._held = Held(_HELD)

    async def run(self, survey: Survey) -> None:
        """All steps, until everything is done."""
        surveyed, to_ask = create_memory_object_stream[Batch]()
        known, to_read = create_memory_object_stream[Batch]()
        read, to_compare = create_memory_object_stream[_Ready](_ASKED_TOGETHER)
        ready, to_send = create_memory_object_stream[_Ready]()
        sent, to_tell = create_memory_object_stream[_Sent](_SENT_AT_ONCE)
        async with create_task_group() as group:
            group.start_soon(self._survey, survey, surveyed)
            group.start_soon(self._ask, to_ask, known)
            group.start_soon(self._read, to_read, read)
            group.start_soon(self._compare, to_compare, ready)
            group.start_soon(self._send, to_send, sent)
            group.start_soon(self._tell, to_tell)

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
                    await _hand(read, await self._whole(job))

    async def _whole(self, job: Job) -> _Ready:
        """A job whose bytes are counted, and whose file, if it is a large one, is hashed."""
        if isinstance(job, Group):
            await self._held.take(_bytes_of(job))
            return job
        await self._held.take(job.kept)
        hashed = await self._reader.hashed(job)
        ready = Group([], [hashed]) if isinstance(hashed, Trouble) else hashed
        self._held.give(job.kept - _bytes_of(ready))  # it may have another size by now
        return ready

    async def _compare(
        self,
        jobs: MemoryObjectReceiveStream[_Ready],
        ready: MemoryObjectSendStream[_Ready],
    ) -> None:
        """Drop the bytes of what the node holds already: one question about all that waits."""
        async with jobs, ready:
            async for job in jobs:
                together = deque([job, *_waiting(jobs)])
                del job
                fresh = list(dict.fromkeys(chain.from_iterable(map(_fresh, together))))
                lacking = await self._client.lacking(fresh) if fresh else set[Digest]()
                while together:
                    # Taken out, so that its bytes are gone when their part of the budget is.
                    each = together.popleft()
                    needed = _needed(each, lacking)
                    self._held.give(_bytes_of(each) - _bytes_of(needed))
                    del each
                    await _hand(ready, needed)

    async def _send(
        self, jobs: MemoryObjectReceiveStream[_Ready], sent: MemoryObjectSendStream[_Sent]
    ) -> None:
        """Send, some at a time."""
        places = CapacityLimiter(_SENT_AT_ONCE)
        async with jobs, sent, create_task_group() as group:
            async for job in jobs:
                sending = _Sent(job)
                await places.acquire_on_behalf_of(sending)
                group.start_soon(self._send_one, sending, places)
                await _hand(sent, sending)

    async def _send_one(self, sending: _Sent, places: CapacityLimiter) -> None:
        try:
            if isinstance(sending.job, Group):
                sending.files = await self._sender.group(sending.job)
            else:
                sending.files = await self._sender.large(sending.job)
        finally:
            places.release_on_behalf_of(sending)
        sending.done.set()

    async def _tell(self, sent: MemoryObjectReceiveStream[_Sent]) -> None:
        """Print, in order, and note what was put."""
        async with sent:
            async for sending in sent:
                await sending.done.wait()
                self._held.give(_bytes_of(sending.job))
                if isinstance(sending.job, Group):
                    for other in sending.job.others:
                        self._outcome.other(other)
                self._outcome.done(sending.files)
                await self._note(sending.files)

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


def _waiting(jobs: MemoryObjectReceiveStream[_Ready]) -> Iterator[_Ready]:
    """What has been handed on and not been taken."""
    with suppress(WouldBlock, EndOfStream):
        while True:
            yield jobs.receive_nowait()


def _fresh(job: _Ready) -> list[Digest]:
    """The digests of what would be sent."""
    if isinstance(job, Hashed):
        return [job.file.digest]
    return [file.digest for file in job.files if file.data is not None]


def _needed(job: _Ready, lacking: set[Digest]) -> _Ready:
    """A job without the bytes that the node holds."""
    if isinstance(job, Hashed):
        return job if job.file.digest in lacking else Group([job.file], [])
    files = [
        file if file.data is None or file.digest in lacking else file._replace(data=None)
        for file in job.files
    ]
    return Group(files, job.others)


def _bytes_of(job: _Ready) -> int:
    """The bytes of files that a job holds."""
    if isinstance(job, Hashed):
        return sum(map(len, job.pieces))
    return sum(len(file.data) for file in job.files if file.data is not None)


def _notes(files: Sequence[File]) -> Iterator[Note]:
    for file in files:
        if file.stamp is not None:
            yield Note(absolute(file.found.source), file.stamp, file.digest)


def _next(jobs: Iterator[Job]) -> Job | None:
    return next(jobs, None)
