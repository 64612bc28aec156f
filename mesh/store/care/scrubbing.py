"""One step of a scrub: the next records in the order of the log, or pieces of a large blob.

Rows come from the index, in the order in which their records stand, so that a disk reads on.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.offload import Offload
from mesh.store.base import Cursor, Damage, Scrubbed
from mesh.store.files import Files
from mesh.store.large.pieces import PIECE
from mesh.store.log.index import Row
from mesh.store.log.segments import RECORD_HEADER
from mesh.store.reading import Hashing, LargeFile, Records, Rotten


class Scrubbing:
    """Keeps the large blob at which a scrub is, between its steps."""

    ROWS = 1024
    """Rows that a step is given: tiny blobs would otherwise be as many as fit."""

    def __init__(self, files: Files, work: Offload) -> None:
        self._files = files
        self._work = work
        self._file: LargeFile | None = None
        self._hashing: Hashing | None = None

    async def step(
        self, rows: Sequence[Row], cursor: Cursor, most: int
    ) -> tuple[Scrubbed, list[Damage]]:
        """Check the first of `rows`, which are those from `cursor` on."""
        if not rows:
            return Scrubbed(None, 0, 0, 0), []
        if rows[0].large:
            return await self._work(self._large, rows[0], cursor, most)
        return await self._work(self._small, rows, most)

    def _small(self, rows: Sequence[Row], most: int) -> tuple[Scrubbed, list[Damage]]:
        records = Records(self._files)
        damages: list[Damage] = []
        blobs = read = 0
        for row in rows:
            if row.large or (blobs and read + row.size > most):
                break
            damage = records.damage(row)
            if damage is not None:
                damages.append(damage)
            blobs += 1
            read += row.size + RECORD_HEADER
        after = Cursor(rows[blobs - 1].segment, rows[blobs - 1].offset + 1)
        return Scrubbed(after, blobs, read, len(damages)), damages

    def _large(self, row: Row, cursor: Cursor, most: int) -> tuple[Scrubbed, list[Damage]]:
        done = Cursor(row.segment, row.offset + 1)
        same = (cursor.segment, cursor.offset) == (row.segment, row.offset)
        at = cursor.piece if same else 0
        try:
            if at == 0:
                damage = Records(self._files).damage(row)
                if damage is not None:
                    return Scrubbed(done, 1, RECORD_HEADER, 1), [damage]
            stop = self._on(row, at, most)
        except Rotten as rotten:
            self._file = self._hashing = None
            return Scrubbed(done, 1, 0, 1), [rotten.damage]
        if stop < row.size:
            return Scrubbed(Cursor(row.segment, row.offset, stop), 0, max(0, stop - at), 0), []
        self._file = self._hashing = None
        return Scrubbed(done, 1, stop - at, 0), []

    def _on(self, row: Row, at: int, most: int) -> int:
        """Read on in a large blob from `at`; how far it is checked then."""
        file = self._file
        if file is None or file.row != row or at == 0:
            file = self._file = LargeFile(self._files, row)
            self._hashing = None
        if file.sums is None:
            # Without sums only the whole says something: after a restart it begins anew.
            hashing = self._hashing = self._hashing or Hashing(file)
            hashing.step(most)
            return hashing.at
        while most > 0 and at < row.size:
            data = file.piece(at - at % PIECE)
            most -= len(data)
            at = min(at - at % PIECE + PIECE, row.size)
        return at
