"""The keeper: the one writer of the store, and the owner of the tree and of the claims.

How the keeper works
--------------------

The keeper takes puts from its mailbox. A turn of its loop takes all puts that wait, up to one
commit's worth, and then does three things in this order:

1. If the store had to rebuild its index, the tree is read anew. A tree that cannot be read does not
   hold up the puts: the keeper goes on with the tree that it has, and reads it again after `_AGAIN`
   seconds. The mark that it is due is wiped only when the reading has succeeded. What the old tree
   has and the new one has not was acknowledged, and is told of as damaged.
2. What was told of as damaged is set aside: the store looks again, and lets go of it; the digests
   leave the tree. What could not be set aside is tried again after `_AGAIN` seconds. How many puts
   come meanwhile changes nothing about these seconds.
3. The puts are committed. The tree grows, the claims on what came end, those who put are answered,
   and the node is told what is new.

Everybody else uses the store through `door`. Reads do not wait for the keeper. Whoever meets damage
tells it through the store, and waits, if need be, until it is `settled`.

While the tree is being built for the first time, puts are committed and remembered in `_early`, and
nothing is let go of.

A large item is a file that belongs to the task which puts it. So a put of one that is cancelled
ends only when the commit is over, or will never begin (see `lent` in `actor`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence

import anyio
from anyio import create_task_group

from mesh.actors.actor import Mailbox, Request, Turn
from mesh.actors.chronicle import Chronicle
from mesh.actors.disk import DiskWatch
from mesh.actors.door import Door, Known
from mesh.actors.journal import Journal
from mesh.actors.lies import Lies
from mesh.core.claims import Claims
from mesh.core.digest import Digest
from mesh.core.failing import Failing, Side
from mesh.core.holder import CLIENT, Configured, Holder
from mesh.core.tree import Tree
from mesh.core.tree.overlay import changes
from mesh.errors import StoreError, one_line
from mesh.store.base import Blob, BlobStore, Damage, Item

log = logging.getLogger("mesh")

# One commit's worth. The sync costs the same for one blob as for thousands, so the more wait,
# the better; 16 MiB keep a commit below 100 ms on a slow disk, and so the wait of the next one.
_BATCH_BLOBS = 4096
_BATCH_BYTES = 16 * 1024 * 1024

# Calls to look around that wait for the turn under way. One would do: the others find nothing left.
_MAILBOX = 1

# Seconds until something is tried again that the store refused: to read the tree, or to set aside
# what is damaged. Either may cost the disk a lot, and nothing wrong is served meanwhile.
_AGAIN = 10.0

# Damaged blobs told of and not yet let go of. What is beyond is met again by the next read.
_DAMAGES = 10_000

_NOT_FOUND = "the log did not tell of it when the index was made anew"


class _Put:
    __slots__ = ("began", "holder", "items", "size")

    def __init__(self, items: Sequence[Item], holder: Holder, began: float | None = None) -> None:
        self.items = items
        self.holder = holder
        self.began = began
        self.size = sum(item.size for item in items)


_Puts = list[Request[_Put, list[bool]]]


class Keeper:
    """Commits in groups: everything that arrived during one commit goes into the next.

    `tree` is immutable, and replaced after every commit; None while it is being built.
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
        journal: Journal | None = None,
        events: Chronicle | None = None,
    ) -> None:
        """`on_new` is told after each commit what is new and who brought it; it must not block.

        Nor must `on_lost`, which is told after blobs turned out to be damaged. `reserve`: bytes of
        the disk that stay free, None for the default. `on_recovery` is told when the store takes
        blobs again after it did not. `journal` and `events` are told what came
        and what was healed.
        """
        self.journal = journal or Journal()
        self.events = events or Chronicle()
        self._store = store
        self.disk = DiskWatch(store, reserve, on_recovery)
        self.failing = Failing()
        """Which blobs keep failing to move; for people."""
        self.door = Door(store, self.has, self.missing, self.disk.admit)
        self._on_lost = on_lost
        self._damages: dict[Digest, Damage] = {}
        self._discarding: frozenset[Digest] = frozenset()
        self._stuck: dict[Digest, Damage] = {}  # could not be set aside
        self._rebuilt = False
        self._again = -math.inf  # when what the store refused may be tried again
        self._changed = anyio.Event()
        store.watch(self.damaged, self._index_rebuilt)
        self.lies = Lies()
        self.tree: Tree | None = None
        self._on_new = on_new
        self._claims = Claims()
        self._early: list[Digest] = []
        self._built = anyio.Event()
        self._mailbox: Mailbox[_Put, list[bool]] = Mailbox("the keeper", _MAILBOX, StoreError)

    async def run(self) -> None:
        """Build the tree, and commit what comes, until cancelled."""
        async with create_task_group() as group:
            if self.tree is None:
                group.start_soon(self._build)
            group.start_soon(self.disk.run, self.has)
            self._wake()  # a run that crashed may have left something to do
            group.start_soon(self._store.run)
            while True:
                with self._mailbox.turn() as turn:
                    puts = await self._gather(turn)
                    await self._reread()
                    await self._discard()
                    await self._commit(puts)

    def close(self) -> None:
        """`run` has ended for good; whoever still waits is told so."""
        self._damages.clear()
        self._changes()
        self._mailbox.close()

    async def built(self) -> Tree:
        """The tree, once there is one."""
        await self._built.wait()
        return self.ready_tree()

    def ready_tree(self) -> Tree:
        """The tree; StoreError while it is being built."""
        if self.tree is None:
            raise StoreError("the tree is still being built; try again in a moment")
        return self.tree

    async def put(
        self, items: Sequence[Item], holder: Holder = CLIENT, began: float | None = None
    ) -> list[bool]:
        """Store `items`, which `holder` brought; True for each that was new. Raises StoreError.

        They are durable on return. `began`: when they began to come, for the journal's rates.
        A caller that is cancelled does not take the batch with it.
        """
        bring = [item for item in items if not isinstance(item, Known)]
        for item in items:
            if isinstance(item, Known) and not self.has(item.digest):
                raise StoreError(
                    f"blob {item.digest.hex()} was here when it began to come, and was found "
                    "damaged since; send it again"
                )
        if not bring:
            self.disk.vouch()
            return [False] * len(items)
        if not all(self.has(item.digest) for item in bring):
            self.disk.admit(0)  # what is known needs no room
        lent = not all(isinstance(item, Blob) for item in bring)
        flags = iter(await self._mailbox.ask(_Put(bring, holder, began), lent=lent))
        return [not isinstance(item, Known) and next(flags) for item in items]

    # --- damage ------------------------------------------------------------------------------

    def damaged(self, damage: Damage) -> None:
        """A read met a blob that is not what it was; soon it is not here any more."""
        told = len(self._damages) + len(self._stuck)
        if damage.digest not in self._damages and told < _DAMAGES:
            self._damages[damage.digest] = damage
            self._wake()

    def missing(self, digest: Digest) -> None:
        """The store does not have a blob; if the tree does, that is damage as well."""
        if self.has(digest) and digest not in self._discarding:
            self.damaged(Damage(digest, "its record is gone"))

    async def settled(self, digest: Digest) -> None:
        """Wait until what was told about a blob has been dealt with.

        While there is no tree, nothing is let go of; then the wait ends after `_AGAIN` seconds.
        """
        limit = _AGAIN if self.tree is None else math.inf
        with anyio.move_on_after(limit):
            while digest in self._damages or digest in self._discarding:
                await self._changed.wait()

    async def wait_for_change(self, seconds: float) -> None:
        """Wait until blobs have come or gone, for up to so many seconds."""
        changed = self._changed
        with anyio.move_on_after(seconds):
            await changed.wait()

    def _index_rebuilt(self) -> None:
        """The store had to rebuild its index: the tree may be another one."""
        self._rebuilt = True
        self._wake()

    def _wake(self) -> None:
        """Have the actor look around; one call in line is enough for all reasons."""
        self._mailbox.tell(_Put([], CLIENT))

    async def _reread(self) -> None:
        """Read the tree anew when that is due."""
        before = self.tree
        if not self._rebuilt or before is None or anyio.current_time() < self._again:
            return
        # Wiped before, so that another rebuild meanwhile is not overlooked; back if this one fails.
        self._rebuilt = False
        read = False
        try:
            after = await self._store.tree()
            read = True
            self.tree = self._with_what_is_gone(before, after)
            self._changes()
        except StoreError as error:
            log.error("%s; tried again in %d s", one_line(error), _AGAIN)
        finally:
            if not read:
                self._rebuilt = True
                self._put_off()

    def _with_what_is_gone(self, before: Tree, after: Tree) -> Tree:
        """The tree that was read anew, and what a rebuild of the index did not find again.

        All of that was acknowledged. So it is damage: it stays in the tree until the store has let
        go of it, and then it is wanted. What exceeds the bound is found by the next comparison.
        """
        if before.root == after.root:
            return after
        _, gone = changes(before, after)
        for digest in gone:
            self.damaged(Damage(digest, _NOT_FOUND))
        if any(digest not in self._damages and digest not in self._stuck for digest in gone):
            self._rebuilt = True
        return after.add(gone)

    async def _discard(self) -> None:
        """Let go of what is damaged, once there is a tree to take it out of."""
        if not self._damages or self.tree is None:
            return
        damages, self._damages = self._damages, {}
        self._discarding = frozenset(damages)
        self._stuck.update(damages)
        done = False
        gone: list[Digest] = []
        with anyio.CancelScope(shield=True):
            try:
                gone = await self._store.discard(list(damages.values()))
                self.tree = self.tree.remove(gone)
                for digest in damages:
                    del self._stuck[digest]
                done = True
            except StoreError as error:
                # Nothing wrong is served meanwhile.
                log.error("cannot set aside what is damaged: %s", one_line(error))
            finally:
                self._discarding = frozenset()
                if not done:
                    self._put_off()
                self._changes()
        if gone:
            self.events.damaged(damages[digest] for digest in gone)
            self._on_lost()

    def _put_off(self) -> None:
        """The store has refused something: it is not tried at once again."""
        self._again = anyio.current_time() + _AGAIN

    def _changes(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # --- claims ------------------------------------------------------------------------------

    def claim(self, holder: Configured, digests: Iterable[Digest]) -> list[Digest]:
        """Those of `digests` that are neither here nor on their way from somebody else."""
        return self._claims.take(holder, self._lacking(digests), anyio.current_time())

    def promise(self, digests: Iterable[Digest]) -> list[Digest]:
        """Those of the `digests` that a stranger offers, which it should push."""
        return self._claims.promise(self._lacking(digests), anyio.current_time())

    def pushing(self, digest: Digest) -> bool:
        """A stranger's push of one blob makes progress; whether it may go on."""
        return self._claims.pushing(digest, anyio.current_time())

    def _lacking(self, digests: Iterable[Digest]) -> list[Digest]:
        """Those that are not here, while the store takes blobs."""
        tree = self.tree
        if tree is None or not self.disk.condition.good:
            return []
        return [digest for digest in digests if digest not in tree]

    def hold(self, holder: Configured, digest: Digest) -> bool:
        """Whether a blob is still missing and the holder's to bring; renews its claim."""
        missing = bool(self._lacking([digest]))
        return missing and self._claims.hold(holder, digest, anyio.current_time())

    def coming(self, digest: Digest) -> bool:
        """Whether somebody has a claim on a blob that lives."""
        return self._claims.is_held(digest, anyio.current_time())

    def renew(self, holder: Holder, digests: Iterable[Digest]) -> None:
        """The holder makes progress."""
        if isinstance(holder, Configured):
            self._claims.renew(holder, digests, anyio.current_time())

    def release(self, holder: Holder, digests: Iterable[Digest]) -> None:
        """The holder gave up; another may bring them."""
        self._claims.release(holder, digests, anyio.current_time())

    def forget(self, holder: Configured) -> None:
        """A peer was removed: what it was to bring, others may bring at once."""
        self._claims.forget(holder, anyio.current_time())
        self.failing.forget(holder)

    def failed(self, holder: Holder, digests: Sequence[Digest], why: str) -> None:
        """The holder could not deliver these; a peer is not asked for them again for a while."""
        self._claims.failed(holder, digests, anyio.current_time())
        if isinstance(holder, Configured):
            self.stuck(Side.HERE, holder, digests, why)

    def stuck(self, side: Side, peer: Configured, digests: Sequence[Digest], why: str) -> None:
        """These are missing on `side` and could not be moved; see core.failing."""
        self.failing.failed(side, peer, digests, why, anyio.current_time())

    def forgive(self) -> None:
        """What failed may be asked of the same peers again at once."""
        self._claims.forgive()

    @property
    def wanted(self) -> int:
        """How many blobs were found damaged here and have not come back."""
        return self._store.wants.total

    def has(self, digest: Digest) -> bool:
        """Whether a blob is in the tree."""
        return self.tree is not None and digest in self.tree

    async def lacking(self, digests: Sequence[Digest]) -> list[Digest]:
        """Those of `digests` that are not here, or not known to be good.

        Waits until there is a tree, and until what was told as damaged has been dealt with.
        StoreError when the store is failing: nothing can be said of what it has then.
        """
        tree = await self.built()
        self.disk.vouch()
        suspects = self._damages.keys() | self._discarding | self._stuck.keys()
        if suspects:
            for digest in suspects.intersection(digests):
                await self.settled(digest)
            tree, suspects = self.ready_tree(), self._damages.keys() | self._stuck.keys()
        return [digest for digest in digests if digest not in tree or digest in suspects]

    # --- the actor ---------------------------------------------------------------------------

    async def _build(self) -> None:
        tree = await self._store.tree()
        # The scan may or may not have seen what was committed meanwhile: adding twice is adding.
        self.tree = tree.add(self._early)
        self._early = []
        self._built.set()
        if self._damages or self._rebuilt:
            self._wake()

    async def _gather(self, turn: Turn[_Put, list[bool]]) -> _Puts:
        """The puts of the next commit: the first one that comes, and all that wait behind it.

        Empty when nobody puts and it is time to try again what the store refused.
        """
        refused = self.tree is not None and (self._rebuilt or self._stuck)
        puts: _Puts = []
        with anyio.CancelScope(deadline=self._again if refused else math.inf):
            puts.append(await turn.take())
        if anyio.current_time() >= self._again:
            self._damages = self._stuck | self._damages
            self._stuck = {}
        blobs, size = sum(len(p.question.items) for p in puts), sum(p.question.size for p in puts)
        while blobs < _BATCH_BLOBS and size < _BATCH_BYTES:
            put = turn.take_nowait()
            if put is None:
                break
            puts.append(put)
            blobs += len(put.question.items)
            size += put.question.size
        return puts

    async def _commit(self, puts: _Puts) -> None:
        items = [item for put in puts for item in put.question.items]
        if not items:
            return
        with anyio.CancelScope(shield=True):
            wanted = self.wanted
            try:
                fresh = await self._store.commit(items)
            except StoreError as error:
                self.disk.met(error)
                for put in puts:
                    put.reply.fail(error)
            else:
                self._settle(puts, fresh)
                self.journal.healed(wanted - self.wanted, self.wanted)

    def _settle(self, puts: _Puts, fresh: list[bool]) -> None:
        """Everything is durable: the tree, the claims, the waiters and the peers learn of it."""
        at = 0
        told: list[tuple[list[Digest], Holder]] = []
        for request in puts:
            put = request.question
            flags = fresh[at : at + len(put.items)]
            at += len(put.items)
            came = [item for item, is_new in zip(put.items, flags, strict=True) if is_new]
            new = [item.digest for item in came]
            if self.tree is None:
                self._early.extend(new)
            else:
                # Also what was known to the store: a rebuilt index may have found more.
                self.tree = self.tree.add(item.digest for item in put.items)
            self._claims.arrived(item.digest for item in put.items)
            self.failing.arrived(item.digest for item in put.items)
            request.reply.set(flags)
            if new:
                told.append((new, put.holder))
                self.journal.came(put.holder, came, put.began)
                self.events.stored(put.holder, came)
        self._changes()
        for new, holder in told:
            self._on_new(new, holder)
