"""The keeper: the one writer of the store, and the owner of the tree and of the claims.

Whoever meets damage tells it through the store; it lets go of the blob in one step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import anyio
from anyio import create_memory_object_stream, create_task_group

from mesh.actors.actor import Reply
from mesh.actors.disk import DiskWatch
from mesh.actors.lies import Lies
from mesh.core.claims import Claims
from mesh.core.digest import Digest
from mesh.core.tree import Tree
from mesh.errors import StoreError, one_line
from mesh.store.base import BlobStore, Damage, Item

log = logging.getLogger("mesh")

# One commit's worth. The sync costs the same for one blob as for thousands, so the more wait,
# the better; 16 MiB keep a commit below 100 ms on a slow disk, and so the wait of the next one.
_BATCH_BLOBS = 4096
_BATCH_BYTES = 16 * 1024 * 1024

# Puts that wait for the commit under way. Each holds at most a transfer's group of some MiB.
_MAILBOX = 8

# Damaged blobs told of and not yet let go of. What is beyond is met again by the next read.
_DAMAGES = 10_000

Holder = bytes
"""Who brings a blob: a peer's node id, or an address for peers without one. b"" is a client."""

CLIENT: Holder = b""


class _Put:
    __slots__ = ("items", "reply", "size", "source")

    def __init__(self, items: Sequence[Item], source: Holder) -> None:
        self.items = items
        self.source = source
        self.size = sum(item.size for item in items)
        self.reply: Reply[list[bool]] = Reply()


class Keeper:
    """Commits in groups: everything that arrived during one commit goes into the next.

    `tree` is an immutable snapshot, replaced after every commit; None while it is being built.
    The claims are changed by plain calls, between two awaits, on the event loop that owns them.
    """

    def __init__(
        self,
        store: BlobStore,
        on_new: Callable[[Sequence[Digest], Holder], None],
        *,
        on_lost: Callable[[], None] = lambda: None,
        reserve: int | None = None,
        on_recovery: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_new` is told after each commit what is new and who brought it; it must not block.

        Nor must `on_lost`, which is told after blobs turned out to be damaged. `reserve`: bytes of
        the disk that stay free, None for the default. `on_recovery` is told when the store takes
        blobs again after it did not.
        """
        self.store = store
        self.disk = DiskWatch(store, reserve, on_recovery)
        self._on_lost = on_lost
        self._damages: dict[Digest, Damage] = {}
        self._discarding: frozenset[Digest] = frozenset()
        self._rebuilt = False
        self._changed = anyio.Event()
        store.watch(self.damaged, self._index_rebuilt)
        self.lies = Lies()
        self.tree: Tree | None = None
        self._on_new = on_new
        self._claims: Claims[Holder] = Claims()
        self._early: list[Digest] = []
        self._built = anyio.Event()
        self._in, self._mailbox = create_memory_object_stream[_Put](_MAILBOX)

    async def run(self) -> None:
        """Build the tree, and commit what comes, until cancelled."""
        async with create_task_group() as group:
            if self.tree is None:
                group.start_soon(self._build)
            group.start_soon(self.disk.run, self.has)
            group.start_soon(self.store.run)
            while True:
                puts = await self._gather()
                if self._rebuilt and self.tree is not None:
                    self._rebuilt = False
                    self.tree = await self.store.tree()
                await self._discard()
                await self._commit(puts)

    def close(self) -> None:
        """`run` has ended for good; whoever still waits is told so."""
        self._in.close()
        self._damages.clear()
        self._changes()
        with suppress(anyio.EndOfStream, anyio.WouldBlock):
            while True:
                self._mailbox.receive_nowait().reply.fail(StoreError("the node is stopping"))
        self._mailbox.close()

    async def built(self) -> Tree:
        """The tree, once there is one."""
        await self._built.wait()
        return self.known()

    def known(self) -> Tree:
        """The tree; StoreError while it is being built."""
        if self.tree is None:
            raise StoreError("the tree is still being built; try again in a moment")
        return self.tree

    async def put(self, items: Sequence[Item], source: Holder = CLIENT) -> list[bool]:
        """Store `items`; durable on return. True for each that was new. Raises StoreError.

        A caller that is cancelled does not take the batch with it.
        """
        if not items:
            return []
        if not all(self.has(item.digest) for item in items):
            self.disk.admit(0)  # what is known needs no room
        put = _Put(items, source)
        try:
            await self._in.send(put)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            raise StoreError("the node is stopping") from None
        return await put.reply.wait()

    # --- damage ------------------------------------------------------------------------------

    def damaged(self, damage: Damage) -> None:
        """A read met a blob that is not what it was; soon it is not here any more."""
        if damage.digest not in self._damages and len(self._damages) < _DAMAGES:
            self._damages[damage.digest] = damage
            self._wake()

    def missing(self, digest: Digest) -> None:
        """The store does not have a blob; if the tree does, that is damage as well."""
        if self.tree is not None and digest in self.tree:
            self.damaged(Damage(digest, "its record is gone"))

    async def settled(self, digest: Digest) -> None:
        """Wait until what was told about a blob has been dealt with."""
        while digest in self._damages or digest in self._discarding:
            await self._changed.wait()

    async def change(self, seconds: float) -> None:
        """Wait until blobs have come or gone, for up to so many seconds."""
        changed = self._changed
        with anyio.move_on_after(seconds):
            await changed.wait()

    def _index_rebuilt(self) -> None:
        """The store had to rebuild its index: the tree may be another one."""
        self._rebuilt = True
        self._wake()

    def _wake(self) -> None:
        """Have the actor look around; a mailbox that is full keeps it awake anyway."""
        with suppress(anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._in.send_nowait(_Put([], CLIENT))

    async def _discard(self) -> None:
        """Let go of what is damaged, once there is a tree to take it out of."""
        if not self._damages or self.tree is None:
            return
        damages, self._damages = list(self._damages.values()), {}
        self._discarding = frozenset(damage.digest for damage in damages)
        gone: list[Digest] = []
        with anyio.CancelScope(shield=True):
            try:
                gone = await self.store.discard(damages)
                self.tree = self.tree.remove(gone)
            except StoreError as error:
                # Nothing wrong is served meanwhile, and the next read tells of it again.
                log.error("cannot set aside what is damaged: %s", one_line(error))
            finally:
                self._discarding = frozenset()
                self._changes()
        if gone:
            self._on_lost()

    def _changes(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # --- claims ------------------------------------------------------------------------------

    def claim(
        self, holder: Holder, digests: Iterable[Digest], *, offered: bool = False
    ) -> list[Digest]:
        """Those of `digests` that are neither here nor on their way from another peer."""
        tree = self.tree
        if tree is None or not self.disk.condition.good:
            return []
        missing = [digest for digest in digests if digest not in tree]
        return self._claims.take(holder, missing, anyio.current_time(), offered=offered)

    def awaited(self, digests: Iterable[Digest]) -> bool:
        """Whether any of these is on its way, from whomever."""
        return any(digest in self._claims for digest in digests)

    def hold(self, holder: Holder, digest: Digest) -> bool:
        """Whether a blob is still missing and the holder's to bring; renews its claim."""
        tree = self.tree
        missing = tree is not None and digest not in tree and self.disk.condition.good
        return missing and self._claims.hold(holder, digest, anyio.current_time())

    def coming(self, digest: Digest) -> bool:
        """Whether somebody has a claim on a blob that lives."""
        return self._claims.is_held(digest, anyio.current_time())

    def renew(self, holder: Holder, digests: Iterable[Digest]) -> None:
        """The holder makes progress."""
        self._claims.renew(holder, digests, anyio.current_time())

    def release(self, holder: Holder, digests: Iterable[Digest]) -> None:
        """The holder gave up; another may bring them."""
        self._claims.release(holder, digests)

    def abandon(self, holder: Holder) -> None:
        """The holder has been restarted: what it had claimed, it knows nothing of."""
        self._claims.abandon(holder)

    def failed(self, holder: Holder, digests: Sequence[Digest]) -> None:
        """The holder could not deliver these; it is not asked for them again for a while."""
        self._claims.failed(holder, digests, anyio.current_time())

    def has(self, digest: Digest) -> bool:
        """Whether a blob is in the tree."""
        return self.tree is not None and digest in self.tree

    # --- the actor ---------------------------------------------------------------------------

    async def _build(self) -> None:
        tree = await self.store.tree()
        # The scan may or may not have seen what was committed meanwhile: adding twice is adding.
        self.tree = tree.add(self._early)
        self._early = []
        self._built.set()
        if self._damages or self._rebuilt:
            self._wake()

    async def _gather(self) -> list[_Put]:
        """The puts of the next commit: the first one that comes, and all that wait behind it."""
        puts = [await self._mailbox.receive()]
        blobs, size = len(puts[0].items), puts[0].size
        while blobs < _BATCH_BLOBS and size < _BATCH_BYTES:
            try:
                put = self._mailbox.receive_nowait()
            except anyio.WouldBlock:
                break
            puts.append(put)
            blobs += len(put.items)
            size += put.size
        return puts

    async def _commit(self, puts: list[_Put]) -> None:
        items = [item for put in puts for item in put.items]
        if not items:
            return
        # A bug in the store must not leave anybody waiting for ever: this is what they hear then.
        failure = StoreError("the store failed; see the log of the node")
        with anyio.CancelScope(shield=True):
            try:
                fresh = await self.store.commit(items)
                self._settle(puts, fresh)
            except StoreError as error:
                failure = error
                self.disk.met(error)
            finally:
                for put in puts:
                    put.reply.fail(failure)

    def _settle(self, puts: list[_Put], fresh: list[bool]) -> None:
        """Everything is durable: the tree, the claims, the waiters and the peers learn of it."""
        at = 0
        told: list[tuple[list[Digest], Holder]] = []
        for put in puts:
            flags = fresh[at : at + len(put.items)]
            at += len(put.items)
            new = [item.digest for item, is_new in zip(put.items, flags, strict=True) if is_new]
            if self.tree is None:
                self._early.extend(new)
            else:
                # Also what was known to the store: a rebuilt index may have found more.
                self.tree = self.tree.add(item.digest for item in put.items)
            self._claims.arrived(item.digest for item in put.items)
            put.reply.set(flags)
            if new:
                told.append((new, put.source))
        self._changes()
        for new, source in told:
            self._on_new(new, source)
