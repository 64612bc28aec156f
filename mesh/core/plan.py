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

# A blob from this size on travels alone and by offset, and is kept as a file of its own: below
# it, a frame or a record is small enough to be held in memory until its hash is known; above it,
# a request and a file each cost little beside the bytes.
LARGE_BLOB = 4 * 1024 * 1024

# A batch of this machine's peers takes a second or two; a holder that shows no progress for
# longer than the transport's own no-progress limit has been cut by it already.
LEASE = 30.0

# Digests on their way from one peer: four batches of 4,096. About 2 MB of table.
MAX_CLAIMS = 16_384

# A blob that a peer could not deliver is not asked of that peer again for this long, so that one
# bad blob costs a request a minute instead of one a round; others are asked at once.
PENALTY = 60.0
MAX_PENALTIES = 10_000  # oldest forgotten first; forgetting costs one more failed fetch


class Claims(Generic[K]):
    """The leases on missing blobs, by digest."""

    def __init__(self) -> None:
        self._leases: dict[Digest, tuple[K, float]] = {}
        self._held: dict[K, int] = {}
        self._penalties: OrderedDict[tuple[K, Digest], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._leases)

    def held(self, holder: K) -> int:
        """How many digests `holder` has claimed."""
        return self._held.get(holder, 0)

    def take(self, holder: K, digests: Iterable[Digest], now: float) -> list[Digest]:
        """Those of `digests` that `holder` may bring; they are claimed for LEASE seconds.

        Left out: what anybody has a live claim on, what this holder failed to deliver
        lately, and everything beyond MAX_CLAIMS.
        """
        if self.held(holder) >= MAX_CLAIMS:
            self._lapse(holder, now)
        granted: list[Digest] = []
        for digest in digests:
            if self.held(holder) >= MAX_CLAIMS:
                break
            lease = self._leases.get(digest)
            if lease is not None and lease[1] > now:
                continue
            if self._penalties.get((holder, digest), now) > now:
                continue
            if lease is not None:
                self._drop(digest)
            self._leases[digest] = (holder, now + LEASE)
            self._held[holder] = self.held(holder) + 1
            granted.append(digest)
        return granted

    def hold(self, holder: K, digest: Digest, now: float) -> bool:
        """Whether `holder` still has, or gets again, the claim on one digest; renews it."""
        lease = self._leases.get(digest)
        if lease is not None and lease[0] == holder:
            self._leases[digest] = (holder, now + LEASE)
            return True
        return bool(self.take(holder, [digest], now))

    def is_held(self, digest: Digest, now: float) -> bool:
        """Whether anybody has a live claim on a digest."""
        lease = self._leases.get(digest)
        return lease is not None and lease[1] > now

    def renew(self, holder: K, digests: Iterable[Digest], now: float) -> None:
        """`holder` makes progress on these."""
        for digest in digests:
            lease = self._leases.get(digest)
            if lease is not None and lease[0] == holder:
                self._leases[digest] = (holder, now + LEASE)

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

    def failed(self, holder: K, digests: Sequence[Digest], now: float) -> None:
        """`holder` could not deliver these: free for others, not asked of it for PENALTY s."""
        self.release(holder, digests)
        for digest in digests:
            self._penalties[(holder, digest)] = now + PENALTY
            self._penalties.move_to_end((holder, digest))
        while len(self._penalties) > MAX_PENALTIES:
            self._penalties.popitem(last=False)

    def _lapse(self, holder: K, now: float) -> None:
        """Forget the leases of `holder` that are over: they must not count against it."""
        over = [d for d, (who, until) in self._leases.items() if who == holder and until <= now]
        for digest in over:
            self._drop(digest)

    def _drop(self, digest: Digest) -> None:
        holder, _ = self._leases.pop(digest)
        left = self._held[holder] - 1
        if left:
            self._held[holder] = left
        else:
            del self._held[holder]
