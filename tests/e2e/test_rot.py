from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.e2e.rot import outcomes


def test_a_byte_flipped_anywhere_is_healed_and_nothing_wrong_is_served(tmp_path: Path) -> None:
    found = list(outcomes(20, seed=5, base=tmp_path))
    kinds = Counter(each.place.kind for each in found)
    # A campaign in which a kind of file was never hit says nothing about it.
    assert kinds.keys() == {"segment", "large", "sums", "index.sqlite", "node.json"}, kinds
    assert Counter(each.note for each in found)["healed"] >= 3
