"""Three real nodes fetch one large blob from a fourth: what leaves the source is counted."""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random

import pytest

from mesh.core.trade import STRETCH
from tests.processes import Valve, fill_large, free_places, nodes, until

BLOB = Random(11).randbytes(14 * STRETCH + 77)
NAME = hashlib.blake2b(BLOB, digest_size=32).hexdigest()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_source_sends_a_blob_at_most_one_and_a_half_times(tmp_path: Path, backend: str) -> None:
    pass
