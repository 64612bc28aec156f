"""How many bytes the two sides of a round lack, as far as that follows from what is known.

A comparison finds digests, and a digest does not tell how large its blob is. Three things do:

- Each side names the bytes of all its blobs. What the two numbers differ by is what is missing
  here, less what is missing there.
- Where nothing is missing on one side, the difference is what is missing on the other.
- What is missing there is here, so its sizes can be looked up, if it is not too much for that.

During the round what has moved is taken off. Where something came that the round did not move, or
where the peer stored only a part of what was sent, the bytes that are left are not known any more.
"""

from __future__ import annotations

from mesh.core.round import Ledger


def weighed(
    missing: tuple[int, int], totals: tuple[int | None, int | None], there: int | None
) -> tuple[int | None, int | None]:
    """The bytes of the blobs that are missing here and there; None where that is not known.

    `missing`: how many are missing here and there. `totals`: the bytes of all blobs here, and of
    all there, of the two sets that were compared. `there`: the bytes of what is missing there,
    where they were looked up.
    """
    here = 0 if not missing[0] else None
    there = 0 if not missing[1] else there
    ours, theirs = totals
    if ours is not None and theirs is not None:
        if here is None and there is not None:
            here = theirs - ours + there
        elif there is None and here is not None:
            there = ours - theirs
    return _sound(here), _sound(there)


def _sound(size: int | None) -> int | None:
    """Somebody's number is wrong where bytes come out below 0."""
    return size if size is None or size >= 0 else None


class Weight:
    """The bytes that a round found missing, and what is left of them. `ledger` is the round's."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._found: tuple[int | None, int | None] = (None, None)
        self._epoch = -1

    def found(self, here: int | None, there: int | None) -> None:
        """Everything was compared: so many bytes are missing, None where that is not known."""
        self._found, self._epoch = (here, there), self.ledger.epoch

    def left(self, parts: tuple[int, int] = (0, 0)) -> tuple[int | None, int | None]:
        """The bytes that are missing still, here and there; None where that is not known.

        `parts`: bytes that have come, here and there, of blobs that are on their way.
        """
        ledger, tally = self.ledger, self.ledger.tally
        # What was moved before a restart of the comparison is in the tally, and not in `_found`.
        if not ledger.compared or ledger.epoch or self._epoch:
            return None, None
        here = there = None
        if not ledger.left_here:
            here = 0
        elif self._found[0] is not None:
            # Others have brought some when fewer were fetched than are not missing any more.
            others = tally.fetched < ledger.missing_here - ledger.left_here or ledger.elsewhere
            here = None if others else max(0, self._found[0] - tally.fetched_bytes - parts[0])
        if not ledger.left_there:
            there = 0
        elif self._found[1] is not None and ledger.exact:
            there = max(0, self._found[1] - tally.sent_bytes - parts[1])
        return here, there
