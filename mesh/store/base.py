"""The store port: blobs, batches and streams, never descriptors or offsets.

tests/contracts/store_contract.py is what every implementation has to pass.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from mesh.core.digest import Digest
from mesh.core.partial import Bringer, Kept, Progress
from mesh.core.snapshot import Snapshot
from mesh.core.tree import Tree


class Blob(NamedTuple):
    """A blob in memory, below LARGE_BLOB bytes; `digest` has been checked against `data`."""

    digest: Digest
    data: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data)


@runtime_checkable
class Staged(Protocol):
    """A blob of LARGE_BLOB bytes or more that is hashed and durable, but not yet visible."""

    @property
    def digest(self) -> Digest:
        """The name that its bytes have."""

    @property
    def size(self) -> int:
        """Bytes."""


Item: TypeAlias = Blob | Staged


class Entry(NamedTuple):
    """One blob of a batch read: `size` is None when it is not here, `data` when it is large."""

    digest: Digest
    size: int | None
    data: bytes | None


class SnapshotFilter(NamedTuple):
    """Which snapshots are asked for; None: any."""

    host: str | None = None
    path: bytes | None = None
    tag: str | None = None


class ListedSnapshot(NamedTuple):
    """A blob that is a snapshot, and what it says."""

    digest: Digest
    snapshot: Snapshot


class Place(NamedTuple):
    """Where a blob is: its size in bytes, the file, and there the offset of its record.

    `offset`: None for a large blob, which has the file to itself, in so many `pieces`. `came`: when
    it came, in seconds since 1970 and to the minute; None when that is not known, as after the
    index was made anew.
    """

    size: int
    file: str
    offset: int | None
    pieces: int | None
    came: float | None


class Totals(NamedTuple):
    """How many blobs there are, and their sizes summed, in bytes."""

    blobs: int
    bytes: int


class Damage(NamedTuple):
    """What a read met: a blob whose bytes are not those of its name, or cannot be had.

    `piece`: where in a large blob; WHOLE when that is not known, RECORD when its bytes are good
    but the record that says so is not.
    """

    digest: Digest
    reason: str
    piece: int = -1


WHOLE = -1
RECORD = -2


class Wanted(NamedTuple):
    """A blob that was here and is damaged: why, and since when (seconds since 1970)."""

    digest: Digest
    reason: str
    since: float


class Wants(NamedTuple):
    """How many blobs are wanted, and the first of them."""

    total: int
    first: Sequence[Wanted]


class Cursor(NamedTuple):
    """How far a scrub has come: a place in the store that means something to the store alone."""

    segment: int = 0
    offset: int = 0
    piece: int = 0


class Scrubbed(NamedTuple):
    """One step of a scrub: where the next one begins (None at the end), and what was read."""

    cursor: Cursor | None
    blobs: int
    bytes: int
    damaged: int


# While a large blob is verified, its stream yields an empty chunk at least so often, in seconds:
# often enough for every rule that waits for progress, and rare enough to cost nothing.
HEARTBEAT = 0.25


class Verifying(NamedTuple):
    """A large blob that is being hashed against its name: bytes read so far, and in all."""

    digest: Digest
    done: int
    size: int


class Room(NamedTuple):
    """Bytes that are free where the store is, and in all."""

    free: int
    total: int


class Incoming(Protocol):
    """A blob that arrives in chunks. What has not been committed leaves no trace."""

    @property
    def size(self) -> int:
        """Bytes so far."""

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes; Full when there is no room for them."""

    async def finish(self) -> Item:
        """All bytes are there: hash them, make them durable when they are large."""


class Resumed(Protocol):
    """A large blob that arrives in several goes. What came of it is kept until it is whole.

    The caller sees to it that there is one source at a time.
    """

    @property
    def progress(self) -> Progress:
        """What has come, and from whom; `progress.size` is where to go on."""

    async def recall(self) -> bool:
        """Hash a part of what came earlier; False when nothing of it is left to be hashed."""

    async def write(self, chunk: bytes, bringer: Bringer | None = None) -> None:
        """Take the next bytes; Full when there is no room for them.

        `bringer`: who brought these, when it is not the one that goes on with the blob.
        """

    async def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of what has come, checked against the sums of their pieces.

        May be called beside all other methods. StoreError when they are not on the disk (the last
        ones may be in memory yet), or are not what they were.
        """

    async def save(self) -> None:
        """Make what has come survive a crash. Leaving does it as well."""

    async def finish(self) -> Item:
        """All bytes are there: their name, which may be another one, and they are durable."""

    async def liars(self) -> list[Bringer]:
        """After `finish` with the right name: who sent wrong parts of an earlier try."""

    async def restart(self, *, alone: bool) -> None:
        """Drop what has come and begin anew; `alone`: from one source, parts kept as evidence."""

    async def done(self) -> None:
        """The blob is here, whoever brought it: nothing more is kept of this."""


class BlobStore(Protocol):
    """A set of blobs. All methods may raise StoreError."""

    @property
    def totals(self) -> Totals:
        """How much there is; known once the store is open."""

    async def open(self) -> str:
        """Make every acknowledged blob visible; in a line, what was found and done."""

    async def close(self) -> None:
        """Let go of threads and files. Everything committed is durable already."""

    async def commit(self, items: Sequence[Item]) -> list[bool]:
        """Store `items` as one batch; durable and visible on return; True for what was new.

        One commit at a time: its caller is the one writer. On an error nothing of the batch is
        acknowledged, though parts of it may turn up after a restart.
        """

    async def size(self, digest: Digest) -> int | None:
        """The size of a blob in bytes; None when it is not here."""

    async def read(self, digest: Digest) -> bytes | None:
        """A blob below LARGE_BLOB bytes, checked against its name; None when it is not here.

        Raises Corrupt when its bytes are not what they were, or cannot be read.
        """

    def stream(self, digest: Digest, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes [start, stop) of a blob that is here, in pieces, each checked before.

        A large blob whose sums are not known is verified as a whole first. Meanwhile the stream
        yields an empty chunk each HEARTBEAT seconds: it is alive, and has nothing to give yet.
        Raises Corrupt at the first piece that is not what it was, or cannot be read, and when the
        blob is not here: it may have been let go of since the caller was told of it.
        """

    async def verified(self, digest: Digest, seconds: float) -> bool:
        """Whether a stream of this blob would give bytes at once, after up to so many seconds.

        When it would not, its verification is under way afterwards, whoever asked for it; see
        `verifying` for how far it is. True also for a blob that is not here. Raises Corrupt when
        the verification finds that it is not the blob.
        """

    @property
    def verifying(self) -> Sequence[Verifying]:
        """The large blobs that are being verified."""

    async def run(self) -> None:
        """The store's own work, until cancelled: a task of whoever opened it.

        It drives verifications, which so outlive those who asked for them. Without it they go on
        as long as somebody waits.
        """

    async def batch(self, digests: Sequence[Digest], most: int) -> list[Entry]:
        """Entries for the first of `digests`, at least one, until there are `most` bytes.

        A damaged blob is said to be not here.
        """

    async def listing(self, prefix: str, after: bytes, limit: int) -> list[tuple[Digest, int]]:
        """Up to `limit` digests below `prefix` and greater than `after`, with sizes, ascending."""

    async def snapshots(
        self, wanted: SnapshotFilter, before: tuple[str, Digest] | None, limit: int
    ) -> list[ListedSnapshot]:
        """Up to `limit` of the blobs that are snapshots, by their times, the newest first.

        Those of one time descend by digest. `before`: time and digest of the last one of the page
        before.
        """

    async def place(self, digest: Digest) -> Place | None:
        """Where a blob is stored; None when it is not here."""

    async def tree(self) -> Tree:
        """The Merkle tree over everything that is here, by one ordered scan."""

    def incoming(self) -> AbstractAsyncContextManager[Incoming]:
        """Take in a blob of unknown size. Leaving without a commit drops it."""

    # --- damage ------------------------------------------------------------------------------

    def watch(self, on_damage: Callable[[Damage], None], on_rebuilt: Callable[[], None]) -> None:
        """Tell of damage that any read or scrub meets; and that the set may have changed by itself.

        Called on the event loop, and must not block.
        """

    async def discard(self, damages: Sequence[Damage]) -> list[Digest]:
        """Look again at what is damaged, and let go of it: the digests that are not here any more.

        Their bytes are set aside, and they are wanted from then on, durably, until they are
        committed again. Called by the one writer, as `commit` is.
        """

    @property
    def wants(self) -> Wants:
        """What was discarded and has not come back."""

    @property
    def reads(self) -> int:
        """How many reads of blobs there were, scrubs aside: who scrubs wants to be in no way."""

    async def scrub(self, cursor: Cursor, most: int) -> Scrubbed:
        """Check about `most` bytes from `cursor` on against their names."""

    async def note(self, name: str, value: bytes) -> None:
        """Keep a small value over restarts; it may be lost, as an index may."""

    async def noted(self, name: str) -> bytes | None:
        """What was kept under a name; None when nothing was."""

    # --- blobs that arrive in several goes, and the disk --------------------------------------

    def resume(
        self, digest: Digest, bringer: Bringer
    ) -> AbstractAsyncContextManager[Resumed | None]:
        """Go on with a large blob that `bringer` brings.

        None while somebody else does so, and for STRANGERS where a configured peer has a part.
        Leaving makes the blob free for the next one, whatever became of it. So nobody leaves while
        a commit of what `finish` gave is under way: `Keeper.put` returns only when it is over.
        """

    async def room(self, *, trial: bool) -> Room:
        """How much room there is. With `trial` a little is written first.

        Raises what a write would meet: ReadOnly; and with `trial` Full and StoreError.
        """

    async def partials(self) -> list[Kept]:
        """The blobs of which a part has come."""

    async def drop_partial(self, digest: Digest) -> None:
        """Forget what has come of a blob, unless it is arriving now."""
