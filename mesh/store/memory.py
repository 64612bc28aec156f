"""The store in memory: for tests and simulation, and the plainest reading of the contract."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
import anyio.lowlevel

from mesh.core.digest import Digest, digest_of
from mesh.core.limits import LARGE_BLOB
from mesh.core.partial import STRANGERS, Bringer, Evidence, Kept, Progress
from mesh.core.snapshot import recognised
from mesh.core.tree import Tree
from mesh.errors import Corrupt, StoreError
from mesh.store.base import (
    HEARTBEAT,
    Blob,
    Cursor,
    Damage,
    Entry,
    Item,
    ListedSnapshot,
    Place,
    Room,
    Scrubbed,
    SnapshotFilter,
    Totals,
    Verifying,
    Wanted,
    Wants,
)


class _Staged(NamedTuple):
    digest: Digest
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)


class MemoryStore:
    """A dictionary. What is committed outlives `close`, as a disk would."""

    def __init__(self) -> None:
        self._blobs: dict[Digest, bytes] = {}
        self._rotten: dict[Digest, bytes] = {}
        self._wanted: dict[Digest, Wanted] = {}
        self._notes: dict[str, bytes] = {}
        self._bytes = 0
        self._reads = 0
        self._on_damage: Callable[[Damage], None] | None = None
        self._partials: dict[Digest, _MemoryPartial] = {}
        self._unverified: dict[Digest, anyio.Event] = {}

    @property
    def totals(self) -> Totals:
        """How much there is."""
        return Totals(len(self._blobs), self._bytes)

    @property
    def wants(self) -> Wants:
        """What was discarded and has not come back."""
        return Wants(len(self._wanted), list(self._wanted.values()))

    @property
    def reads(self) -> int:
        """How many reads of blobs there were."""
        return self._reads

    def rot(self, digest: Digest, data: bytes) -> None:
        """Let a blob's bytes become `data`, as a disk does."""
        self._rotten[digest] = data

    def unverify(self, digest: Digest) -> Callable[[], None]:
        """Let a blob be under verification, as one without sums is, until the result is called."""
        done = self._unverified[digest] = anyio.Event()

        def finish() -> None:
            self._unverified.pop(digest, None)
            done.set()

        return finish

    def watch(self, on_damage: Callable[[Damage], None], on_rebuilt: Callable[[], None]) -> None:
        """See BlobStore.watch; there is nothing to rebuild."""
        del on_rebuilt
        self._on_damage = on_damage

    async def open(self) -> str:
        """Nothing to recover."""
        await anyio.lowlevel.checkpoint()
        return f"{len(self._blobs)} blobs in memory"

    async def close(self) -> None:
        """Nothing to let go of."""
        await anyio.lowlevel.checkpoint()

    async def commit(self, items: Sequence[Item]) -> list[bool]:
        """Keep what is new."""
        await anyio.lowlevel.checkpoint()
        fresh = []
        for item in items:
            fresh.append(item.digest not in self._blobs)
            if fresh[-1]:
                if not isinstance(item, Blob | _Staged):
                    raise StoreError("an item of another store")
                self._blobs[item.digest] = item.data
                self._bytes += item.size
                self._wanted.pop(item.digest, None)
        return fresh

    async def discard(self, damages: Sequence[Damage]) -> list[Digest]:
        """Let go of what is still damaged."""
        await anyio.lowlevel.checkpoint()
        for damage in damages:
            if damage.digest in self._rotten or damage.digest not in self._blobs:
                self._rotten.pop(damage.digest, None)
                self._bytes -= len(self._blobs.pop(damage.digest, b""))
                wanted = Wanted(damage.digest, damage.reason, 0.0)
                self._wanted.setdefault(damage.digest, wanted)
        return [damage.digest for damage in damages if damage.digest not in self._blobs]

    def _checked(self, digest: Digest) -> bytes | None:
        """What is kept under a name, if it is that; Corrupt otherwise."""
        data = self._blobs.get(digest)
        if digest in self._rotten and digest_of(self._rotten[digest]) != digest:
            reason = "its bytes are not what they were"
            if self._on_damage is not None:
                self._on_damage(Damage(digest, reason))
            raise Corrupt(f"blob {digest.hex()} is damaged: {reason}")
        return data

    async def size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes; None when it is not here."""
        await anyio.lowlevel.checkpoint()
        data = self._blobs.get(digest)
        return None if data is None else len(data)

    async def read(self, digest: Digest) -> bytes | None:
        """A blob; None when it is not here."""
        await anyio.lowlevel.checkpoint()
        self._reads += 1
        return self._checked(digest)

    async def stream(self, digest: Digest, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes [start, stop) of a blob, in pieces of 64 KiB."""
        self._reads += 1
        data = self._checked(digest)
        if data is None:
            raise Corrupt(f"blob {digest.hex()} is not here")
        while not await self.verified(digest, HEARTBEAT):
            yield b""
        for at in range(start, stop, 65536):
            await anyio.lowlevel.checkpoint()
            yield data[at : min(at + 65536, stop)]

    async def verified(self, digest: Digest, seconds: float) -> bool:
        """See BlobStore.verified."""
        await anyio.lowlevel.checkpoint()
        if (done := self._unverified.get(digest)) is not None:
            with anyio.move_on_after(seconds):
                await done.wait()
        return digest not in self._unverified

    @property
    def verifying(self) -> list[Verifying]:
        """What `unverify` was called for."""
        return [Verifying(each, 0, len(self._blobs[each])) for each in self._unverified]

    async def run(self) -> None:
        """Nothing to do by itself."""
        await anyio.sleep_forever()

    async def batch(self, digests: Sequence[Digest], most: int) -> list[Entry]:
        """Entries for the first of `digests`, until there are `most` bytes."""
        await anyio.lowlevel.checkpoint()
        self._reads += 1
        entries: list[Entry] = []
        for digest in digests:
            try:
                data = self._checked(digest)
            except Corrupt:
                data = None
            if data is None or len(data) >= LARGE_BLOB:
                entries.append(Entry(digest, None if data is None else len(data), None))
                continue
            if entries and len(data) > most:
                break
            entries.append(Entry(digest, len(data), data))
            most -= len(data)
        return entries

    async def listing(self, prefix: str, after: bytes, limit: int) -> list[tuple[Digest, int]]:
        """Digests and sizes below a prefix, ascending."""
        await anyio.lowlevel.checkpoint()
        digests = sorted(digest for digest in self._blobs if digest.hex().startswith(prefix))
        first = bisect_right(digests, after)
        return [(digest, len(self._blobs[digest])) for digest in digests[first : first + limit]]

    async def snapshots(
        self, wanted: SnapshotFilter, before: tuple[str, Digest] | None, limit: int
    ) -> list[ListedSnapshot]:
        """The blobs that are snapshots, by looking at each."""
        await anyio.lowlevel.checkpoint()
        said = ((digest, recognised(data)) for digest, data in self._blobs.items())
        found = [ListedSnapshot(digest, snapshot) for digest, snapshot in said if snapshot]
        found.sort(key=lambda each: (each.snapshot.time, each.digest), reverse=True)
        asked = [(key, value) for key, value in wanted._asdict().items() if value is not None]
        return [
            each
            for each in found
            if (before is None or (each.snapshot.time, each.digest) < before)
            and all(getattr(each.snapshot, key) == value for key, value in asked)
        ][:limit]

    async def place(self, digest: Digest) -> Place | None:
        """In memory."""
        size = await self.size(digest)
        return None if size is None else Place(size, "memory", None, None, None)

    async def tree(self) -> Tree:
        """The tree of all keys."""
        await anyio.lowlevel.checkpoint()
        return Tree(self._blobs)

    async def scrub(self, cursor: Cursor, most: int) -> Scrubbed:
        """Check the next blobs, by digest; a place is the first bytes of one, as a number."""
        await anyio.lowlevel.checkpoint()
        blobs = read = damaged = last = 0
        for digest in sorted(d for d in self._blobs if _number(d) >= cursor.offset):
            if blobs and read >= most:
                break
            last = _number(digest)
            try:
                read += len(self._checked(digest) or b"")
            except Corrupt:
                damaged += 1
            blobs += 1
        after = Cursor(0, last + 1) if blobs else None
        return Scrubbed(after, blobs, read, damaged)

    async def note(self, name: str, value: bytes) -> None:
        """Keep a small value."""
        await anyio.lowlevel.checkpoint()
        self._notes[name] = value

    async def noted(self, name: str) -> bytes | None:
        """What was kept under a name."""
        await anyio.lowlevel.checkpoint()
        return self._notes.get(name)

    @asynccontextmanager
    async def incoming(self) -> AsyncIterator[_MemoryIncoming]:
        """Take in a blob of unknown size."""
        yield _MemoryIncoming()

    @asynccontextmanager
    async def resume(
        self, digest: Digest, bringer: Bringer
    ) -> AsyncIterator[_MemoryPartial | None]:
        """Go on with a large blob."""
        partial = self._partials.setdefault(digest, _MemoryPartial())
        if partial.busy or (bringer == STRANGERS and partial.progress.guarded):
            yield None
            return
        partial.begin(bringer)
        try:
            yield partial
        finally:
            partial.busy = False
            if partial.over or not (partial.progress.size or partial.progress.evidence):
                del self._partials[digest]

    async def room(self, *, trial: bool) -> Room:
        """As much as an address space has."""
        del trial
        await anyio.lowlevel.checkpoint()
        return Room(2**47 - self._bytes, 2**47)

    async def partials(self) -> list[Kept]:
        """The blobs of which a part has come."""
        await anyio.lowlevel.checkpoint()
        kept = sorted(self._partials.items())
        return [
            Kept(digest, each.progress.size, each.busy, each.progress.guarded)
            for digest, each in kept
        ]

    async def drop_partial(self, digest: Digest) -> None:
        """Forget what has come of a blob."""
        await anyio.lowlevel.checkpoint()
        partial = self._partials.get(digest)
        if partial is not None and not partial.busy:
            del self._partials[digest]


class _MemoryPartial:
    """See store.base.Resumed."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.busy = False
        self.over = False
        self._bringer: Bringer = STRANGERS
        self._data = bytearray()

    def begin(self, bringer: Bringer) -> None:
        self.busy, self._bringer = True, bringer
        if not self.progress.welcomes(bringer):
            self._anew(Progress(alone=self.progress.alone, evidence=self.progress.evidence))

    async def recall(self) -> bool:
        await anyio.lowlevel.checkpoint()
        return False

    async def write(self, chunk: bytes, bringer: Bringer | None = None) -> None:
        await anyio.lowlevel.checkpoint()
        self.progress.add(self._bringer if bringer is None else bringer, len(chunk))
        self._data += chunk

    async def read(self, start: int, stop: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        if stop > len(self._data):
            raise StoreError(f"only {len(self._data)} bytes have come")
        return bytes(self._data[start:stop])

    async def save(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def finish(self) -> Item:
        await anyio.lowlevel.checkpoint()
        data = bytes(self._data)
        return _Staged(digest_of(data), data)

    async def liars(self) -> list[Bringer]:
        await anyio.lowlevel.checkpoint()
        evidence = self.progress.evidence
        return self.progress.liars([self._hash(part.start, part.stop) for part in evidence])

    async def restart(self, *, alone: bool) -> None:
        await anyio.lowlevel.checkpoint()
        evidence = self.progress.evidence
        if alone:
            pieces = self.progress.pieces
            evidence = tuple(Evidence(*each, self._hash(each.start, each.stop)) for each in pieces)
        self._anew(Progress(alone=alone, evidence=evidence))

    async def done(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.over = True

    def _anew(self, progress: Progress) -> None:
        self.progress = progress
        self._data = bytearray()

    def _hash(self, start: int, stop: int) -> bytes:
        return digest_of(bytes(self._data[start:stop]))


def _number(digest: Digest) -> int:
    return int.from_bytes(digest[:8], "big")


class _MemoryIncoming:
    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size = 0

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        await anyio.lowlevel.checkpoint()
        self._pieces.append(chunk)
        self.size += len(chunk)

    async def finish(self) -> Item:
        """The blob."""
        await anyio.lowlevel.checkpoint()
        data = b"".join(self._pieces)
        digest = digest_of(data)
        return Blob(digest, data) if len(data) < LARGE_BLOB else _Staged(digest, data)
