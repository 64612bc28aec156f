"""Why a round left something behind, in lines for people: `sync` and `status` show them."""

from __future__ import annotations

from mesh.actors.keeper import Keeper
from mesh.actors.round import Round
from mesh.config import Address


def reasons(
    run: Round, address: Address, keeper: Keeper, max_replica_bytes: int, left_there: int
) -> list[str]:
    """One line for each reason; none when nothing is left to move.

    `left_there`: blobs that were offered to the peer and are not there.
    """
    found: list[str] = []
    if run.tally.refusal:
        found.append(run.tally.refusal)
    if run.left_here and address.pulls:
        found += _not_here(run, keeper, max_replica_bytes)
    if left_there and not run.tally.refusal:
        found.append(
            f"the peer did not take {left_there} of the blobs that it lacks: it is full, or waits "
            "for another transfer of them; see `mesh status` of the peer"
        )
    return found


def _not_here(run: Round, keeper: Keeper, limit: int) -> list[str]:
    found: list[str] = []
    disk = keeper.disk.condition
    if not disk.good:
        found.append(f"nothing is fetched, the store is {disk.state}: {disk.reason}")
    if run.tally.over_limit:
        found.append(
            f"{run.tally.over_limit} blobs are larger than max_replica_bytes ({limit}); raise it "
            "on this node"
        )
    if run.more:
        found.append(
            "more large blobs are missing here than one round takes; the next round goes on"
        )
    if run.elsewhere:
        found.append("another peer has begun to bring some of the blobs that are missing here")
    if not (found or run.tally.refusal):
        found.append(f"the peer did not deliver {run.left_here} of the blobs that it listed")
    return found
