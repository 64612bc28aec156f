"""An index of the version before gets what it lacks, instead of being made anew from the log.

It lacks the snapshots. Only small blobs of the right length can be some, and of these only the
first bytes are read: some 15 s a million such blobs, where hashing the log may take minutes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from mesh.core.digest import Digest, digest_of
from mesh.core.snapshot import BEGINNING, MAX_BYTES, MIN_BYTES
from mesh.store.faults import means_damage
from mesh.store.files import Files, Reader
from mesh.store.log.index import Index
from mesh.store.log.segments import RECORD_HEADER, segment_name

log = logging.getLogger("mesh")


def upgrade(files: Files, index: Index) -> None:
    """Add what an outdated index lacks, in one transaction. Raises OSError, sqlite3.Error."""
    log.info("index: looking for snapshots, once, since it is of an earlier version")
    index.upgrade(_candidates(files, index))


def _candidates(files: Files, index: Index) -> Iterator[tuple[Digest, bytes]]:
    """The blobs that begin as snapshots do. One that is damaged is met by whoever reads it."""
    segment: Reader | None = None
    number = 0
    for row in index.sized(MIN_BYTES, MAX_BYTES):
        try:
            if segment is None or number != row.segment:
                segment = None
                segment, number = files.open(segment_name(row.segment)), row.segment
            start = row.offset + RECORD_HEADER
            if segment.read_at(start, len(BEGINNING)) != BEGINNING:
                continue
            data = segment.read_at(start, row.size)
        except OSError as error:
            if not means_damage(error):
                raise
            continue
        if digest_of(data) == row.digest:
            yield row.digest, data
