"""A large blob over a link that is cut again and again: how many bytes it takes.

    python -m tests.benchmarks.bench_resume [--size BYTES] [--every BYTES] [--kill N]

The default is 2 GiB over a connection that is cut every 200 MB, which must not take more than
2.2 GiB; with --kill the receiver is also killed and started again N times on the way.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from pathlib import Path

from tests.processes import NodeProcess, mesh, nodes, until
from tests.relay import Cutter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2 * 1024**3)
    parser.add_argument("--every", type=int, default=200_000_000)
    parser.add_argument("--kill", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, nodes() as start:
        root = Path(place)
        name = made(root / "blob", asked.size)
        limit = ("--max-blob", str(asked.size))
        source = start(root / "source", *limit)
        put = mesh("put", root / "blob", "--node", source.url, seconds=600)
        assert put.returncode == 0, put.stderr
        (root / "blob").unlink()
        with Cutter(source.place, asked.every) as link:
            began = time.monotonic()
            options = (*limit, "--peers", link.place, "--interval", "0.5")
            part = root / "target" / "partial" / name
            for number in range(asked.kill):
                target = start(root / "target", *options)
                least = asked.size * (number + 1) // (asked.kill + 1)
                until(lambda least=least: part.exists() and part.stat().st_size >= least, 600)
                target.kill()
            target = start(root / "target", *options)
            until(lambda: target.status()["blobs"] == 1, 600)
            seconds = time.monotonic() - began
        check(target, name)
        print(
            f"{asked.size} bytes, cut every {asked.every} ({link.cuts} cuts, {asked.kill} kills): "
            f"{link.moved} moved, {link.moved / asked.size:.4f} of the size, {seconds:.1f} s, "
            f"peak {target.peak_bytes() / 1e6:.0f} MB"
        )


def made(path: Path, size: int) -> str:
    """A file of so many random bytes; its name as a blob."""
    hasher = hashlib.blake2b(digest_size=32)
    with path.open("wb") as out:
        while size:
            piece = os.urandom(min(size, 1 << 24))
            hasher.update(piece)
            out.write(piece)
            size -= len(piece)
    return hasher.hexdigest()


def check(node: NodeProcess, name: str) -> None:
    """What the node has is what the name says."""
    file = node.data / "large" / name[:2] / name
    with file.open("rb") as data:
        assert (
            hashlib.file_digest(data, lambda: hashlib.blake2b(digest_size=32)).hexdigest() == name
        )


if __name__ == "__main__":
    main()
