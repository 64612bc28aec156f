"""How long a node takes to start on what it has: until its store is open, and until it is ready.

    python -m tests.benchmarks.bench_start [--blobs 100000] [--size 1000]

After a clean stop, after kill -9, and with its index gone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.processes import fill, nodes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blobs", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=1000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, nodes() as start:
        root = Path(place)
        fill(root, [b"%d " % number + bytes(asked.size) for number in range(asked.blobs)])

        def measure(what: str) -> None:
            node = start(root, fresh=True)
            began = time.monotonic()  # it listens: all of Python is loaded
            while node.request("GET", "/v1/blobs?limit=1")[0] != 200:
                pass
            opened = time.monotonic() - began
            node.ready()
            ready = time.monotonic() - began
            code = node.stop()
            said = next(line for line in node.errors if "store:" in line)
            print(f"{what}: serves after {opened:.2f} s, ready after {ready:.2f} s, {code}: {said}")

        measure("after a clean stop")
        node = start(root, fresh=True)
        node.ready()
        node.request("POST", "/v1/blobs", b"one more")
        node.kill()
        measure("after kill -9")
        for path in root.glob("index.sqlite*"):
            path.unlink()
        measure("without its index")


if __name__ == "__main__":
    main()
