"""What the Merkle tree costs at a million digests.

python tests/benchmarks/bench_tree.py [--digests 1000000]
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from mesh.core.digest import Digest
from mesh.core.tree import Tree

BATCH = 1000
NEW = 20_000


def timed(what: str, per: int, unit: str, work: Callable[[], object]) -> None:
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    print(f"{what}: {seconds:.2f} s, {seconds / per * 1e6:.2f} µs a {unit}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--digests", type=int, default=1_000_000)
    count = parser.parse_args().digests
    source = random.Random(1)
    chunks = [b"".join(group) for group in _groups(sorted(map(source.randbytes, [32] * count)))]
    trees: list[Tree] = []
    timed(f"build {count:,}", count, "digest", lambda: trees.append(Tree.from_sorted(chunks)))
    timed("hash", count, "digest", lambda: trees[0].root)
    new = [Digest(source.randbytes(32)) for _ in range(NEW)]

    def add() -> None:
        for at in range(0, NEW, BATCH):
            trees[0] = trees[0].add(new[at : at + BATCH])

    timed(f"add {NEW:,} in batches of {BATCH:,}", NEW, "digest", add)
    timed("hash again", NEW, "new digest", lambda: trees[0].root)
    timed("look up", NEW, "digest", lambda: [digest in trees[0] for digest in new])


def _groups(digests: list[bytes]) -> list[list[bytes]]:
    return [digests[at : at + 4096] for at in range(0, len(digests), 4096)]


if __name__ == "__main__":
    main()
