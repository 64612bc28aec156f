"""Flip a byte at hundreds of places, one run each: python -m tests.e2e.rot_campaign --places 500

Exits 1 at the first run that serves something wrong or does not end with equal roots.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from mesh.store.log.segments import SEGMENT_MAX
from tests.e2e.rot import outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--segment-bytes", type=int, default=SEGMENT_MAX)
    parser.add_argument("--verbose", action="store_true", help="say what came of each place")
    options = parser.parse_args()
    logging.getLogger("mesh").setLevel(logging.CRITICAL)
    began = time.monotonic()
    kinds: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as base:
        for outcome in outcomes(options.places, options.seed, Path(base), options.segment_bytes):
            kinds[outcome.place.kind] += 1
            notes[outcome.note] += 1
            if options.verbose:
                print(outcome, flush=True)
    seconds = time.monotonic() - began
    print(f"{options.places} places, seed {options.seed}: all roots equal, nothing wrong served")
    print("flipped in:", ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    print("it was:", ", ".join(f"{note} {count}" for note, count in notes.most_common()))
    print(f"{seconds:.0f} s, {seconds / options.places:.2f} s a place")


if __name__ == "__main__":
    main()
