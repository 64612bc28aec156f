"""Makes tree.json, the golden roots of the trie, from the oracle alone.

Run from the top of the repository: `python -m tests.vectors.make_tree`. A root that changes here
is a change of the protocol.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.oracles import blobs, oracle_bucket

SIZES = (0, 1, 16, 17, 300, 5000)
# Of the largest set: two inner buckets (292 and 20 digests), a leaf of four, one of those alone,
# and one with nothing in it.
PREFIXES = ("7", "7f", "7fe", "7fe2", "7f3")


def vectors() -> dict[str, object]:
    roots = []
    for size in SIZES:
        count, digest = oracle_bucket(blobs(0, size))
        roots.append({"count": count, "root": digest.hex()})
    buckets = []
    for prefix in PREFIXES:
        count, digest = oracle_bucket(blobs(0, max(SIZES)), prefix)
        buckets.append({"prefix": prefix, "count": count, "digest": digest.hex()})
    return {
        "digests": "BLAKE2b-256 of 'mesh test blob <i>' in ASCII, for i from 0 to count - 1",
        "roots": roots,
        "buckets_of": max(SIZES),
        "buckets": buckets,
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("tree.json")
    path.write_text(json.dumps(vectors(), indent=2) + "\n", encoding="ascii")
