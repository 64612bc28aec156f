"""Which blob is on its way, so that none is fetched twice at a time.

Theory of operation. There are two tables, because there are two kinds of holder (core/holder.py).

**Leases** belong to configured peers, whom we ask by ourselves. A lease is exclusive: nobody else
is asked for the blob, and no offer of it is accepted. It ends LEASE seconds after the last
progress, when the blob has come, or when the peer gives up. What a peer could not deliver is not
asked of it for PENALTY seconds.

**Promises** are what strangers make when they offer blobs and we answer "push it". Nothing is
proven about a stranger, and a new name costs nothing. So a promise belongs to nobody: it is a
property of the digest, and whatever goes wrong with it is put down against the digest, never
against a name. A promise keeps the blob from others for a short time only, so that an honest push
is not doubled by a fetch:

1. A promise ends LEASE seconds after it was made, or after the last progress of a push.
2. When a configured peer asks for a promised blob, the peer is refused, and from then on the
   promise is not renewed any more. So that peer waits for one LEASE at most.
3. When a promise ends and the blob has not come, the digest is doubtful for DOUBT seconds,
   counted from the last offer. Offers of a doubtful digest are still accepted, from everybody, but
   they make no promise: they keep the blob from nobody.
4. Where a table is full, the claims fail open: offers are accepted without a promise. Whoever
   fills the tables makes us fetch some blobs twice, and keeps no blob away.

From 2, 3 and 4 follows what matters. Whatever strangers offer, in whatever order and under
whatever names: a configured peer that is refused a blob because of them, and asks again one LEASE
later, gets the claim. For the promise that refused it is over by then (2), and a later one cannot
have taken its place: the digest is doubtful (3), or all digests are (4). DOUBT is longer than the
longest time between two rounds with a failing peer, so this holds for a second round that comes
late, too. And an honest stranger is not kept away by a lying one for longer than one LEASE:
afterwards both are told to push.

A configured peer is trusted that far: one that makes progress and never ends keeps a blob from
strangers, who would push it, as long as it is on its way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from mesh.core.digest import Digest
from mesh.core.holder import Anonymous, Configured, Holder

# Progress is seen, and renews a claim, whenever bytes come, some times a second on any link that
# works; a link with 2 s of latency is silent for 4. So a peer that hangs keeps its blobs from
# other peers for this long, and no longer.
LEASE = 10.0

# Digests on their way from one peer: four batches of 4,096. About 2 MB of table.
MAX_CLAIMS = 16_384

# Digests that are promised at a time: 16 full offers, about 8 MB of table. Anybody can fill it.
MAX_PROMISES = 65_536

# How long a digest stays doubtful after the last broken promise, or the last offer since. A peer
# whose rounds fail is tried every 300 s at least (core/schedule.py), so twice that covers its
# second round.
DOUBT = 600.0
MAX_DOUBTS = 65_536  # as many as promises that can be broken at once; about 8 MB

# A push that a configured peer waits for ends so many seconds before its promise does. A push
# looks once a second whether it may go on, so it has ended when the peer asks again, and the peer
# goes on with the bytes that the push has brought.
NOTICE = 2.0

# A blob that a peer could not deliver is not asked of that peer again for this long. So one bad
# blob costs a request a minute instead of one a round. Other peers are asked at once.
PENALTY = 60.0
MAX_PENALTIES = 10_000  # oldest forgotten first; forgetting costs one more failed fetch


class _Promise:
    """When it ends, and whether a configured peer was refused because of it."""

    __slots__ = ("until", "waited_for")

    def __init__(self, until: float) -> None:
        self.until = until
        self.waited_for = False


class Claims:
    """The leases and promises on missing blobs, by digest. All times are seconds on one clock."""

    def __init__(self) -> None:
        # Both in the order of their ends: what is made or renewed is for LEASE, and goes last.
        self._leases: OrderedDict[Digest, tuple[Configured, float]] = OrderedDict()
        self._promises: OrderedDict[Digest, _Promise] = OrderedDict()
        self._held: dict[Configured, int] = {}
        self._penalties: OrderedDict[tuple[Configured, Digest], float] = OrderedDict()
        self._doubts: OrderedDict[Digest, float] = OrderedDict()
        self._all_doubtful = float("-inf")

    def __len__(self) -> int:
        return len(self._leases) + len(self._promises)

    def __contains__(self, digest: Digest) -> bool:
        """Whether it is on its way, as far as is known."""
        return digest in self._leases or digest in self._promises

    def held(self, holder: Configured) -> int:
        """How many leases `holder` has."""
        return self._held.get(holder, 0)

    def take(self, holder: Configured, digests: Iterable[Digest], now: float) -> list[Digest]:
        """Those of `digests` that `holder` is to be asked for; they are its for LEASE seconds.

        Left out: what is leased or promised, what this holder failed to deliver lately, and
        everything beyond MAX_CLAIMS. No promise on any of them is renewed from now on.
        """
        self._lapse(now)
        granted: list[Digest] = []
        for digest in digests:
            if self.held(holder) >= MAX_CLAIMS:
                break
            if digest in self._leases or self._penalties.get((holder, digest), now) > now:
                continue
            promise = self._promises.get(digest)
            if promise is not None:
                promise.waited_for = True
                continue
            self._leases[digest] = (holder, now + LEASE)
            self._held[holder] = self.held(holder) + 1
            granted.append(digest)
        return granted

    def promise(self, digests: Iterable[Digest], now: float) -> list[Digest]:
        """Those of the offered `digests` that are to be pushed, each once.

        Left out: what is leased or promised. What is not doubtful is promised from now on.
        """
        self._lapse(now)
        wanted: list[Digest] = []
        for digest in dict.fromkeys(digests):
            if digest in self:
                continue
            if digest in self._doubts:
                self._doubt(digest, now)
            elif self._all_doubtful <= now and len(self._promises) < MAX_PROMISES:
                self._promises[digest] = _Promise(now + LEASE)
            wanted.append(digest)
        return wanted

    def hold(self, holder: Configured, digest: Digest, now: float) -> bool:
        """Whether `holder` still has, or gets again, the lease on one digest; renews it."""
        self._lapse(now)
        return self._renewed(holder, digest, now) or bool(self.take(holder, [digest], now))

    def pushing(self, digest: Digest, now: float) -> bool:
        """A stranger's push of one blob makes progress; whether it may go on.

        It may not when a configured peer brings the blob, or waits to.
        """
        self._lapse(now)
        if digest in self._leases:
            return False
        promise = self._promises.get(digest)
        if promise is None:
            return True  # it keeps the blob from nobody
        if promise.waited_for:
            return promise.until - now > NOTICE
        promise.until = now + LEASE
        self._promises.move_to_end(digest)
        return True

    def is_held(self, digest: Digest, now: float) -> bool:
        """Whether there is a live lease or promise on a digest."""
        lease, promise = self._leases.get(digest), self._promises.get(digest)
        return (lease is not None and lease[1] > now) or (
            promise is not None and promise.until > now
        )

    def renew(self, holder: Configured, digests: Iterable[Digest], now: float) -> None:
        """`holder` makes progress on these."""
        for digest in digests:
            self._renewed(holder, digest, now)

    def arrived(self, digests: Iterable[Digest]) -> None:
        """These are here now, whoever brought them."""
        for digest in digests:
            if digest in self._leases:
                self._drop(digest)
            self._promises.pop(digest, None)
            self._doubts.pop(digest, None)

    def release(self, holder: Holder, digests: Iterable[Digest], now: float) -> None:
        """`holder` will not bring these; another may. A promise on them is broken."""
        self._lapse(now)
        for digest in digests:
            if isinstance(holder, Anonymous):
                self._break(digest, now)
            elif (lease := self._leases.get(digest)) is not None and lease[0] == holder:
                self._drop(digest)

    def forget(self, holder: Configured, now: float) -> None:
        """`holder` is gone for good: nothing is waited for from it, or held against it."""
        self.release(holder, [d for d, (who, _) in self._leases.items() if who == holder], now)
        for penalty in [each for each in self._penalties if each[0] == holder]:
            del self._penalties[penalty]

    def forgive(self) -> None:
        """Somebody says that what failed is to be tried again now."""
        self._penalties.clear()

    def failed(self, holder: Holder, digests: Sequence[Digest], now: float) -> None:
        """`holder` could not deliver these: free for others.

        A configured peer is not asked for them for PENALTY seconds.
        """
        self.release(holder, digests, now)
        if not isinstance(holder, Configured):
            return
        for digest in digests:
            self._penalties[(holder, digest)] = now + PENALTY
            self._penalties.move_to_end((holder, digest))
        while len(self._penalties) > MAX_PENALTIES:
            self._penalties.popitem(last=False)

    def _renewed(self, holder: Configured, digest: Digest, now: float) -> bool:
        lease = self._leases.get(digest)
        if lease is None or lease[0] != holder:
            return False
        self._leases[digest] = (holder, now + LEASE)
        self._leases.move_to_end(digest)
        return True

    def _lapse(self, now: float) -> None:
        """Forget the leases, promises and doubts that are over; they are the first ones."""
        while self._leases and next(iter(self._leases.values()))[1] <= now:
            self._drop(next(iter(self._leases)))
        while self._promises and next(iter(self._promises.values())).until <= now:
            digest = next(iter(self._promises))
            # Doubtful from the moment when it ended, which may be long ago.
            self._break(digest, self._promises[digest].until)
        while self._doubts and next(iter(self._doubts.values())) <= now:
            self._doubts.popitem(last=False)

    def _break(self, digest: Digest, now: float) -> None:
        """A promise, if there is one, was not kept."""
        if self._promises.pop(digest, None) is not None:
            self._doubt(digest, now)

    def _doubt(self, digest: Digest, now: float) -> None:
        self._doubts[digest] = now + DOUBT
        self._doubts.move_to_end(digest)
        if len(self._doubts) > MAX_DOUBTS:
            self._doubts.popitem(last=False)
            self._all_doubtful = max(self._all_doubtful, now + DOUBT)

    def _drop(self, digest: Digest) -> None:
        holder, _ = self._leases.pop(digest)
        left = self._held[holder] - 1
        if left:
            self._held[holder] = left
        else:
            del self._held[holder]
