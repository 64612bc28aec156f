"""What is shown of one peer: its verdict and its trouble with their dates, and what has moved.

The peer actor owns it and has it `look` after everything that happens, so that the dates are those
of the events and not of the question.
"""

from __future__ import annotations

from mesh.actors.metered import Metered
from mesh.actors.round import Round
from mesh.core.digest import Digest
from mesh.core.meter import seconds_left
from mesh.core.round import Tally
from mesh.core.standing import Standing
from mesh.core.verdict import GOOD, Since, Verdict, judge
from mesh.dates import Dates
from mesh.status import ErrorRow, PeerStatus
from mesh.wire.messages import Hello


class Showing:
    """See the module."""

    def __init__(self, standing: Standing, metered: Metered) -> None:
        self._standing = standing
        self._metered = metered
        self._verdict = Since(Verdict.UNKNOWN)
        self._trouble: Since[str | None] = Since(None)
        self._moved = Tally()

    def look(self, ours: Digest | None, lie: str | None, now: float) -> None:
        """Something has happened. `ours`: our root; `lie`: what the peer was shown to have done."""
        self._verdict.look(judge(self._standing, ours), now)
        self._trouble.look(self._standing.error or lie, now)

    def grown(self, now: float) -> None:
        """New blobs have come here, which the peer has not, as far as is known."""
        if self._verdict.value in GOOD:
            self._verdict.look(Verdict.APART, now)

    def ended(self, run: Round) -> None:
        """A round is over: what it moved counts."""
        _add(self._moved, run.ledger.tally)

    def trouble(self, name: str, dates: Dates) -> ErrorRow | None:
        """The failures of rounds as one row; None when no round fails, or none is run."""
        standing = self._standing
        if standing.paused or not standing.failures:
            return None
        return ErrorRow(
            digest=None,
            peer=name,
            missing=None,
            reason=standing.error or "the last round failed",
            tries=standing.failures,
            first_at=dates.at(self._trouble.at),
            first_seconds_ago=dates.ago(self._trouble.at),
            last_at=dates.at(standing.failed_at),
            last_seconds_ago=dates.ago(standing.failed_at),
        )

    def status(
        self,
        name: str,
        url: str,
        direction: str,
        hello: Hello | None,
        run: Round | None,
        announced: Tally,
        ours: Digest | None,
        dates: Dates,
    ) -> PeerStatus:
        """All of it, now. `run` is the round under way; `announced`: what announcements sent."""
        standing, metered = self._standing, self._metered
        here, there = standing.missing(ours)
        bytes_here, bytes_there = standing.missing_bytes(ours)
        moved = Tally()
        _add(moved, self._moved)
        if run is not None:
            here, there = run.ledger.known()
            bytes_here, bytes_there = run.weight.left((metered.here.parts, metered.there.parts))
            _add(moved, run.ledger.tally)
        fetching, sending = metered.here.rate(dates.now), metered.there.rate(dates.now)
        return PeerStatus(
            name=name,
            url=url,
            direction=direction,
            state=standing.state,
            in_sync=standing.in_sync(ours),
            standing=self._verdict.value,
            standing_since=dates.at(self._verdict.at),
            standing_seconds=dates.ago(self._verdict.at),
            node_id=hello.node.hex() if hello is not None else None,
            root=standing.root.hex() if standing.root is not None else None,
            blobs=hello.count if hello is not None else None,
            missing_here=here,
            missing_there=there,
            missing_here_bytes=bytes_here if here is not None else None,
            missing_there_bytes=bytes_there if there is not None else None,
            fetch_bytes_per_second=fetching,
            send_bytes_per_second=sending,
            fetch_seconds_left=seconds_left(bytes_here if here is not None else None, fetching),
            send_seconds_left=seconds_left(bytes_there if there is not None else None, sending),
            last_success_at=dates.at(standing.succeeded),
            last_success_seconds_ago=dates.ago(standing.succeeded),
            last_error=self._trouble.value,
            last_error_at=dates.at(self._trouble.at) if self._trouble.value else None,
            last_error_seconds_ago=dates.ago(self._trouble.at) if self._trouble.value else None,
            failures=standing.failures,
            rounds=standing.rounds,
            fetched_blobs=moved.fetched,
            fetched_bytes=moved.fetched_bytes,
            sent_blobs=moved.sent + announced.sent,
            sent_bytes=moved.sent_bytes + announced.sent_bytes,
            over_limit=standing.over_limit,
        )


def _add(total: Tally, more: Tally) -> None:
    """Count what moved in a round with what moved before."""
    total.fetched += more.fetched
    total.fetched_bytes += more.fetched_bytes
    total.sent += more.sent
    total.sent_bytes += more.sent_bytes
