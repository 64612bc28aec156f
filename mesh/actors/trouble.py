"""What keeps failing, told to people, and tried again when they say so."""

from __future__ import annotations

from collections.abc import Sequence

from anyio import create_task_group

from mesh.actors.keeper import Keeper
from mesh.actors.peer import Peer
from mesh.core.failing import Row
from mesh.dates import Dates, rfc3339
from mesh.errors import printable
from mesh.status import ErrorRow, Errors
from mesh.store.base import Wanted, Wants


class Trouble:
    """Of one node, whose keeper has the rows of blobs."""

    def __init__(self, keeper: Keeper, peers: Sequence[Peer]) -> None:
        self._keeper = keeper
        self._peers = peers

    def told(self, wants: Wants, dates: Dates) -> Errors:
        """Peers with which rounds fail, blobs that do not move, and blobs that were lost."""
        names = {peer.holder: peer.name for peer in self._peers}
        failing = [peer.trouble(dates) for peer in self._peers]
        rows = [row for row in failing if row is not None]
        stuck = self._keeper.failing.rows(dates.now)
        rows += [_blob(row, names.get(row.peer, row.peer.url), dates) for row in stuck]
        rows += [_wanted(wanted, dates) for wanted in wants.first]
        more = self._keeper.failing.forgotten + wants.total - len(wants.first)
        return Errors(errors=rows, more=more)

    async def retry(self) -> None:
        """A round with every peer, now, in which what failed is asked for again.

        Returns when they are over. A round that fails says so in what is told next.
        """
        self._keeper.forgive()
        async with create_task_group() as group:
            for peer in self._peers:
                if peer.active:
                    peer.forgive()
                    group.start_soon(peer.sync)


def _blob(row: Row, name: str, dates: Dates) -> ErrorRow:
    return ErrorRow(
        digest=row.digest.hex(),
        peer=name,
        missing=row.side.value,
        reason=printable(row.reason),
        tries=row.tries,
        first_at=dates.at(row.first),
        first_seconds_ago=dates.ago(row.first),
        last_at=dates.at(row.last),
        last_seconds_ago=dates.ago(row.last),
    )


def _wanted(wanted: Wanted, dates: Dates) -> ErrorRow:
    """A blob that was lost here; its date is one of the time of day already."""
    return ErrorRow(
        digest=wanted.digest.hex(),
        peer=None,
        missing="here",
        reason=f"it was found damaged and has not come back: {printable(wanted.reason)}",
        tries=None,
        first_at=rfc3339(wanted.since),
        first_seconds_ago=max(0.0, dates.wall - wanted.since),
    )
