"""Which blob is on its way from whom, so that none is fetched twice at a time.

Pulls and accepted offers share one table of claims. A claim is a lease: bounded in number and in
time, renewed by progress, and free for another peer when its holder fails or is slow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from mesh.core.digest import Digest

K = TypeVar("K")

# Progress is seen, and renews a lease, whenever bytes come, some times a second on any link that
# works; a link with 2 s of latency is silent for 4. So a holder that hangs keeps its blobs from
# other peers for this long, and no longer.
LEASE = 10.0

# Digests on their way from one peer: four batches of 4,096. About 2 MB of table.
MAX_CLAIMS = 16_384

# Offers are granted while fewer claims than this are live. Who offers may be anybody, under any
# number of names; the rounds of our own peers are bounded by the number of these, and are not
# kept from claiming by what strangers offer.
MAX_OFFERED = 65_536

# A blob that a peer could not deliver is not asked of that peer again for this long, so that one
# bad blob costs a request a minute instead of one a round; others are asked at once.
PENALTY = 60.0
MAX_PENALTIES = 10_000  # oldest forgotten first; forgetting costs one more failed fetch


class Claims(Generic[K]):
    """The leases on missing blobs, by digest."""

    def __init__(self) -> None:
        # In the order of their ends: every grant and renewal is for LEASE, and goes to the end.
        self._leases: OrderedDict[Digest, tuple[K, float]] = OrderedDict()
        self._held: dict[K, int] = {}
        self._penalties: OrderedDict[tuple[K, Digest], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, digest: Digest) -> bool:
        """Whether it is on its way, as far as is known."""
        return digest in self._leases

    def held(self, holder: K) -> int:
        """How many digests `holder` has claimed."""
        return self._held.get(holder, 0)

    def take(
        self, holder: K, digests: Iterable[Digest], now: float, *, offered: bool = False
    ) -> list[Digest]:
        """Those of `digests` that `holder` may bring; they are claimed for LEASE seconds.

        Left out: what anybody has a live claim on, what this holder failed to deliver
        lately, and everything beyond MAX_CLAIMS, or MAX_OFFERED in all when it is `offered`.
        """
        self._lapse(now)
        granted: list[Digest] = []
        for digest in digests:
            if self.held(holder) >= MAX_CLAIMS or (offered and len(self._leases) >= MAX_OFFERED):
                break
            if digest in self._leases or self._penalties.get((holder, digest), now) > now:
                continue
            self._leases[digest] = (holder, now + LEASE)
            self._held[holder] = self.held(holder) + 1
            granted.append(digest)
        return granted

    def hold(self, holder: K, digest: Digest, now: float) -> bool:
        """Whether `holder` still has, or gets again, the claim on one digest; renews it."""
        self._lapse(now)
        if self._renewed(holder, digest, now):
            return True
        return bool(self.take(holder, [digest], now))

    def is_held(self, digest: Digest, now: float) -> bool:
        """Whether anybody has a live claim on a digest."""
        lease = self._leases.get(digest)
        return lease is not None and lease[1] > now

    def renew(self, holder: K, digests: Iterable[Digest], now: float) -> None:
        """`holder` makes progress on these."""
        for digest in digests:
            self._renewed(holder, digest, now)

    def arrived(self, digests: Iterable[Digest]) -> None:
        """These are here now, whoever brought them."""
        for digest in digests:
            if digest in self._leases:
                self._drop(digest)

    def release(self, holder: K, digests: Iterable[Digest]) -> None:
        """`holder` will not bring these; another may."""
        for digest in digests:
            lease = self._leases.get(digest)
            if lease is not None and lease[0] == holder:
                self._drop(digest)

    def abandon(self, holder: K) -> None:
        """`holder` will bring nothing of what it had claimed."""
        self.release(holder, [digest for digest, (who, _) in self._leases.items() if who == holder])

    def failed(self, holder: K, digests: Sequence[Digest], now: float) -> None:
        """`holder` could not deliver these: free for others, not asked of it for PENALTY s."""
        self.release(holder, digests)
        for digest in digests:
            self._penalties[(holder, digest)] = now + PENALTY
            self._penalties.move_to_end((holder, digest))
        while len(self._penalties) > MAX_PENALTIES:
            self._penalties.popitem(last=False)

    def _renewed(self, holder: K, digest: Digest, now: float) -> bool:
        lease = self._leases.get(digest)
        if lease is None or lease[0] != holder:
            return False
        self._leases[digest] = (holder, now + LEASE)
        self._leases.move_to_end(digest)
        return True

    def _lapse(self, now: float) -> None:
        """Forget the leases that are over; they are the first ones."""
        while self._leases:
            digest, (_, until) = next(iter(self._leases.items()))
            if until > now:
                return
            self._drop(digest)

    def _drop(self, digest: Digest) -> None:
        holder, _ = self._leases.pop(digest)
        left = self._held[holder] - 1
        if left:
            self._held[holder] = left
        else:
            del self._held[holder]
