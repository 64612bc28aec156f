"""What a round came to: for the standing of its peer, and for the schedule."""

from __future__ import annotations

from mesh.actors.acquaintance import Copied
from mesh.actors.keeper import Keeper
from mesh.actors.round import Round
from mesh.core.claims import LEASE
from mesh.core.digest import Digest
from mesh.core.round import Ledger
from mesh.core.schedule import HINT_SPACING
from mesh.core.standing import Event, Outcome
from mesh.errors import MeshError, Refused, Unreachable


def outcome(
    run: Round, keeper: Keeper, theirs: Digest | None, count: int, *, proven: bool
) -> Outcome:
    """What a round without an error found; `theirs`, `count`: the peer's root and blobs now."""
    ledger, tally = run.ledger, run.ledger.tally
    tree = keeper.ready_tree()
    # What passes by itself is no error: blobs on their way, with something moved already.
    good = keeper.disk.condition.good
    lasts = tally.refusal or not (good and (tally.fetched or tally.sent))
    return Outcome(
        proven=proven,
        ours=tree.root,
        theirs=theirs,
        left_here=ledger.left_here,
        left_there=0 if theirs == tree.root else ledger.left_there,
        left_bytes=run.weight.left(),
        known=ledger.explains((run.own_count, len(tree)), (run.count, count)),
        pulled=good,
        over_limit=tally.over_limit,
        reasons=ledger.reasons() if lasts else (),
    )


def next_round(ledger: Ledger, *, unproven: bool, mute: bool) -> float | None:
    """After how many seconds the next round can do something that this one left; None for nothing.

    `mute`: the peer cannot tell how it stands afterwards, and is asked again.
    """
    if ledger.more or unproven or (mute and ledger.tally.sent):
        return HINT_SPACING
    if ledger.wish:
        return ledger.wish
    if ledger.elsewhere and ledger.left_here:
        return LEASE  # should the other one hang, its claims are over by then
    return None


def kind_of(error: MeshError) -> Event:
    """Which event of the standing an error is that ended a round."""
    if isinstance(error, Copied):
        return error.event
    if isinstance(error, Unreachable):
        return Event.UNREACHABLE
    return Event.REFUSED if isinstance(error, Refused) else Event.BROKEN
