"""What happened in one round, as a value: the ledger.

Theory of operation
-------------------
A round compares two sets, fetches what is missing here, and pushes what is missing there. Tasks do
that at the same time. Each of them tells the ledger what happened, as an event, and asks the
ledger what follows. The ledger awaits nothing, and nobody else counts.

What is missing here passes through these stages:

    found --> a window, in a Batch --> answered once --> settled
                                       | BLOB    taken, then landed or wrong
                                       | LATER   asked again, in the next request of the window
                                       | LARGE   in the line of large blobs, or put off
                                       | ABSENT  undelivered
                                       | silent  undelivered, when the answer ends

- Each Batch is judged by what was asked in it alone. A frame for a digest that was not asked for
  in it, or was answered already, is misbehaviour. What is wrong is counted when it is judged,
  whichever group of the answer it was in and whatever other batches do.
- `undelivered` counts what the peer listed and did not deliver. It is for the whole round: neither
  a new batch nor a restart forgives it. Beyond UNDELIVERED plus what did arrive the round stops.
- A restart of the comparison finds everything anew. So the counts of what was found, settled and
  left begin again, on both sides. A batch, a window or an offer of what was found before the
  restart no longer counts in them. What it moved, and what it failed to deliver, does count. A blob
  that was pushed meanwhile is remembered: the peer does not want it when it is offered once more.
- A large blob that waits in line is left until it arrives, also over a restart.

How many are missing is known when everything was compared (`compared`), and it is right for the
two sets at the end only if nothing else came to them meanwhile: see `explains`.

At the end `reasons` says in words why the two sets are not level.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from mesh.core.digest import Digest
from mesh.errors import MeshError, Misbehaved, one_line

# A peer that lists blobs and then does not deliver them, in whatever way: tolerated while it
# delivers as well.
UNDELIVERED = 1000

# Large blobs known and not begun; what is beyond, the next round finds.
LINE = 1000

# Beyond so many that found no place in that line, comparing on is of no use in this round.
PUT_OFF = 4000


class Tally(msgspec.Struct):
    """What a transfer moved: blobs and bytes here and there, and what could not be had."""

    fetched: int = 0
    fetched_bytes: int = 0
    sent: int = 0
    sent_bytes: int = 0
    failed: int = 0
    over_limit: int = 0
    refusal: str = ""  # why a blob was not taken, in the words of whoever would not take it

    def stored(self, fresh: int, size: int, rejected: int = 0) -> None:
        """The peer has stored `fresh` blobs that it had not; `size` bytes went there for it."""
        self.sent += fresh
        self.sent_bytes += size
        self.failed += rejected

    def untaken(self, why: str, *, blobs: int = 1) -> None:
        """So many blobs were not moved, for a reason that concerns them alone."""
        self.failed += blobs
        self.refusal = why

    def landed(self, fresh: int, size: int, wrong: Sequence[Digest]) -> None:
        """A group of blobs was judged: `fresh` new ones of `size` bytes; `wrong` were others."""
        self.fetched += fresh
        self.fetched_bytes += size
        self.failed += len(wrong)


class Batch:
    """One batch request, judged by what was asked in it. See the module."""

    def __init__(self, ledger: Ledger, digests: Sequence[Digest], epoch: int) -> None:
        self._ledger = ledger
        self._asked = len(digests)
        self._epoch = epoch
        self._open = set(digests)
        self._taken: set[Digest] = set()
        self._absent: list[Digest] = []
        self.later: list[Digest] = []

    def blob(self, digest: Digest, length: int) -> bool:
        """Its bytes have come; whether they are to be verified and stored."""
        self._answered(digest)
        if self._over_limit(length):
            return False
        self._taken.add(digest)
        return True

    def put_off(self, digest: Digest) -> None:
        """The peer says LATER."""
        self._answered(digest)
        self.later.append(digest)

    def large(self, digest: Digest, length: int) -> bool:
        """The peer says LARGE; whether it is to be fetched, and there is a place in the line."""
        self._answered(digest)
        return not self._over_limit(length) and self._ledger.queued(digest)

    def absent(self, digest: Digest) -> None:
        """The peer says ABSENT."""
        self._answered(digest)
        self._absent.append(digest)
        self._ledger.undelivered(1)

    def _over_limit(self, length: int) -> bool:
        """Whether a blob is larger than this node takes; it is counted where it is left."""
        over = length > self._ledger.max_bytes
        if over and self._epoch == self._ledger.epoch:
            self._ledger.tally.over_limit += 1
        return over

    def _answered(self, digest: Digest) -> None:
        if digest not in self._open:
            raise Misbehaved(f"the peer sent blob {digest.hex()}, which nobody asked for")
        self._open.discard(digest)

    def landed(self, fresh: int, size: int, wrong: Sequence[Digest]) -> None:
        """Blobs of this batch were judged; see Tally."""
        if not self._taken.issuperset(wrong):
            raise ValueError("judged a blob that was not taken in this batch")
        self._taken.difference_update(wrong)
        self._ledger.tally.landed(fresh, size, wrong)
        self._ledger.undelivered(len(wrong))

    def cut(self) -> list[Digest]:
        """The answer broke off: what the peer said that it does not have."""
        return self._absent

    def ended(self) -> list[Digest]:
        """The answer is complete: what was listed and not delivered, but for what came wrong.

        Raises Misbehaved when the peer put off everything: asking again would have no end.
        """
        if self._asked and len(self.later) == self._asked:
            raise Misbehaved("the peer puts off every blob that it is asked for")
        self._ledger.undelivered(len(self._open))
        return [*self._absent, *self._open]


class Window(NamedTuple):
    """So many digests that were found together, and after which restart of the comparison."""

    size: int
    epoch: int


class Pushing:
    """One push of blobs that the peer wants; what becomes of it is told to the ledger. See Tally.

    `epoch`: after how many restarts of the comparison the blobs were found.
    """

    def __init__(self, ledger: Ledger, digests: Sequence[Digest], epoch: int) -> None:
        self._ledger = ledger
        self._digests = digests
        self._epoch = epoch
        self._fresh = 0

    def stored(self, fresh: int, size: int, rejected: int = 0, *, exact: bool = True) -> None:
        """The peer has stored `fresh` blobs that it had not."""
        self._ledger.tally.stored(fresh, size, rejected)
        self._ledger.exact = self._ledger.exact and exact
        self._fresh += fresh
        if self._epoch == self._ledger.epoch:
            self._ledger.delivered(fresh)

    def untaken(self, why: str) -> None:
        """One blob was not moved, for a reason that concerns it alone."""
        self._ledger.tally.untaken(why)

    def put_off(self, why: str, seconds: float) -> None:
        """One blob cannot be sent yet, but in so many seconds."""
        self._ledger.tally.untaken(why)
        self._ledger.wishes(seconds)

    def ended(self) -> None:
        """All was sent that could be."""
        if self._epoch != self._ledger.epoch and self._fresh == len(self._digests):
            self._ledger.overtaken(self._digests)


class Ledger:
    """See the module. `max_bytes`: the largest blob that is taken.

    `wish`: seconds after which the peer wants to be asked again for what it has put off.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.tally = Tally()
        self.error: MeshError | None = None
        self.missing_here = 0
        self.missing_there = 0
        self.baseline_there = 0
        self.not_delivered = 0
        self.epoch = 0
        """How often the comparison was restarted."""
        self.compared = False
        """Whether all that differs was found, and proven."""
        self.exact = True
        """Whether the bytes sent are those of the blobs that the peer has stored."""
        self._settled = 0
        self._left = 0
        self._line: set[Digest] = set()
        self._left_in_line: set[Digest] = set()
        self._put_off = 0
        self._postponed = ""
        self.wish = 0.0
        """Seconds after which something that was put off can be moved; 0 for nothing."""
        self._elsewhere = 0
        self._closed = ""
        self._offered = 0
        self._wanted = 0
        self._delivered = 0
        self._overtaken: set[Digest] = set()

    # --- comparing -----------------------------------------------------------------------------

    def found(self, here: int, there: int, baseline: int) -> None:
        """The comparison found so many missing here, and there; of these, of the baseline."""
        self.missing_here += here
        self.missing_there += there
        self.baseline_there += baseline

    def restarted(self) -> None:
        """The peer's set has changed: everything is found anew."""
        self.epoch += 1
        self.missing_here = self.missing_there = self.baseline_there = 0
        self._settled = self._left = self._elsewhere = 0
        self._offered = self._wanted = self._delivered = 0
        self.tally.over_limit = 0
        self._left_in_line.clear()

    # --- fetching ------------------------------------------------------------------------------

    def window(self, digests: Sequence[Digest], claimed: int, epoch: int) -> Window:
        """Work on these begins, but for `claimed` of them, which other peers have claimed.

        `epoch`: after how many restarts they were found.
        """
        if epoch == self.epoch:
            self._elsewhere += claimed
        return Window(len(digests), epoch)

    def batch(self, digests: Sequence[Digest], epoch: int | None = None) -> Batch:
        """A request for these begins; they were found in `epoch`, None for the present one."""
        return Batch(self, digests, self.epoch if epoch is None else epoch)

    def settled(self, window: Window, absent: Collection[Digest]) -> None:
        """All was done for a window, but for large blobs in line; `absent` are not here."""
        if window.epoch != self.epoch:
            return  # found anew since, and counted there
        self._settled += window.size
        self._left += len(absent)
        self._left_in_line.update(self._line.intersection(absent))

    def undelivered(self, count: int) -> None:
        """The peer listed `count` blobs and did not deliver them."""
        self.not_delivered += count

    # --- large blobs ---------------------------------------------------------------------------

    def queued(self, digest: Digest) -> bool:
        """Whether there is a place in the line; without one, the next round finds it again."""
        if digest in self._line:
            return False  # asked for again after its claim had lapsed: it has its place
        if len(self._line) >= LINE:
            self._put_off += 1
            return False
        self._line.add(digest)
        return True

    def unqueued(self, digest: Digest) -> None:
        """Nobody serves the line any more."""
        self._line.discard(digest)
        self._put_off += 1

    def large_here(self, digest: Digest, size: int, *, fresh: bool) -> None:
        """A large blob has arrived, from this peer or, when it is not `fresh`, another."""
        if digest in self._left_in_line:
            self._left_in_line.discard(digest)
            self._left -= 1
        if fresh:
            self.tally.landed(1, size, [])

    def postponed(self, error: MeshError, seconds: float) -> None:
        """The peer has a large blob only later, and does nothing wrong: it verifies it, say."""
        self._postponed = one_line(error)
        self.wishes(seconds)

    def wishes(self, seconds: float) -> None:
        """Something can be moved in so many seconds, and not before."""
        self.wish = max(self.wish, seconds)

    def no_room(self, error: MeshError) -> None:
        """One large blob does not fit here; a smaller one may."""
        self.tally.refusal = one_line(error)

    def large_failed(self, error: MeshError) -> None:
        """The peer cannot deliver one large blob; nothing else is delayed."""
        self.tally.failed += 1
        self.failed(error)
        self.undelivered(1)

    def large_done(self, digest: Digest) -> None:
        """A large blob has left the line, whatever became of it."""
        self._line.discard(digest)
        self._left_in_line.discard(digest)

    # --- pushing -------------------------------------------------------------------------------

    def offered(self, digests: Sequence[Digest], wants: Sequence[Digest], epoch: int) -> None:
        """The peer wants `wants` of the `digests`, which were found missing there in `epoch`."""
        if epoch != self.epoch:
            return
        there = len(self._overtaken.intersection(digests).difference(wants))
        self.delivered(there)
        self._offered += len(digests) - there
        self._wanted += len(wants)

    def push(self, digests: Sequence[Digest], epoch: int) -> Pushing:
        """A push of these begins; they were found missing there in `epoch`."""
        return Pushing(self, digests, epoch)

    def delivered(self, count: int) -> None:
        """The peer has `count` more of the blobs that were found missing there."""
        self._delivered += count

    def overtaken(self, digests: Sequence[Digest]) -> None:
        """All of these were pushed while the comparison was restarted, and may be found again."""
        self._overtaken.update(digests)

    # --- what follows --------------------------------------------------------------------------

    def closed(self, why: str) -> None:
        """Nothing can be stored here."""
        self._closed = why

    def failed(self, error: MeshError) -> None:
        """A part of the round ended. The first error is kept; misbehaviour comes before others."""
        worse = isinstance(error, Misbehaved) and not isinstance(self.error, Misbehaved)
        if self.error is None or worse:
            self.error = error

    def check(self) -> None:
        """Raises Misbehaved when the peer has failed to deliver too much."""
        if self.not_delivered > UNDELIVERED + self.tally.fetched:
            raise Misbehaved(
                f"the peer listed {self.not_delivered} blobs that it did not deliver; it is tried "
                "again later"
            )

    @property
    def stop(self) -> bool:
        """Whether comparing on is of no use."""
        return isinstance(self.error, Misbehaved) or self._put_off > PUT_OFF

    @property
    def more(self) -> bool:
        """Whether there was more to do than this round took on."""
        return self._put_off > 0

    @property
    def elsewhere(self) -> bool:
        """Whether something missing here was left to another peer, which had claimed it."""
        return self._elsewhere > 0

    @property
    def left_here(self) -> int:
        """How many of the blobs found missing here are missing still."""
        return max(0, self.missing_here - self._settled) + self._left

    @property
    def left_there(self) -> int:
        """How many of the blobs found missing there are missing still, as far as is known."""
        return max(0, self.missing_there - self._delivered)

    def known(self) -> tuple[int | None, int | None]:
        """How many are missing here and there, in the midst of a round, None when not known.

        While the comparison goes on, there are at least as many as were found and not moved. None
        found so far says nothing.
        """
        here, there = self.left_here, self.left_there
        return (here, there) if self.compared else (here or None, there or None)

    def explains(self, ours: tuple[int, int], theirs: tuple[int, int]) -> bool:
        """Whether `left_here` and `left_there` are what the two sets at the end differ by.

        `ours`, `theirs`: how many blobs each side had when it was compared, and has now. When one
        of them has grown by anything but what the round moved, the numbers are not known.
        """
        came = self.missing_here - self.left_here
        went = self.missing_there - self.left_there
        return ours[1] - ours[0] == came and theirs[1] - theirs[0] == went

    def reasons(self) -> tuple[str, ...]:
        """Why the sides are not level, in words; one sentence for each thing that stood in the way.

        Empty when nothing did.
        """
        said: list[str] = []
        if self.left_here:
            said += self._why_here()
        if unwanted := self._offered - self._wanted:
            said.append(
                f"the peer did not take {unwanted} of the {self._offered} blobs offered to it: its "
                "store is full or takes no writes, or another push has claimed them; see its status"
            )
        if self.tally.refusal:
            said.append(self.tally.refusal)
        return tuple(said)

    def _why_here(self) -> list[str]:
        said: list[str] = []
        if self._closed:
            said.append(self._closed)
        if self.tally.over_limit:
            said.append(
                f"{self.tally.over_limit} blobs are larger than max_replica_bytes "
                f"({self.max_bytes}); raise it on this node"
            )
        if self._elsewhere:
            said.append(
                f"{self._elsewhere} blobs are left to another peer that has claimed them; they "
                "are asked of this one if that one does not bring them"
            )
        if self.not_delivered:
            said.append(f"the peer listed {self.not_delivered} blobs that it did not deliver")
        if self._postponed:
            said.append(self._postponed)
        if self._put_off:
            said.append(f"{self._put_off} large blobs wait for the next round")
        return said
