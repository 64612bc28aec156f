"""What putting an unchanged tree again costs, beside its first put and beside a command that does
next to nothing.

    python -m tests.benchmarks.bench_put_again [--files 50000] [--size 1000]
    python -m tests.benchmarks.bench_put_again --files 700 --size 4300000

Times of commands as a whole, from start to exit; the CPU is that of the command. Bytecode is
cached, as it is once a package has been installed. What the node writes is what the kernel counts
for its process.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.processes import NodeProcess, environment, nodes, until

# How often the unchanged tree is put; the best time is that of the command, the others are the
# machine's.
_TIMES = 5


def planted(root: Path, files: int, size: int) -> None:
    """So many files of random bytes, a thousand to a directory."""
    generator = random.Random(1)
    for number in range(files):
        path = root / f"{number // 1000:04d}" / f"{number:08d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(generator.randbytes(size))
    # A file that was just written is not noted; and what is dirty in memory would be written on
    # the first put's time.
    os.sync()
    made = time.monotonic()
    until(lambda: time.monotonic() > made + 2.2)


def written(node: NodeProcess) -> int:
    text = Path(f"/proc/{node.process.pid}/io").read_text("utf-8")
    return int(text.partition("\nwrite_bytes: ")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=1000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, nodes() as start:
        root = Path(place) / "files"
        planted(root, asked.files, asked.size)
        node = start(Path(place) / "data", fresh=True)
        node.ready()
        one = root / "0000" / "00000000"
        env = environment({"PYTHONPYCACHEPREFIX": f"{place}/bytecode"})
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        nothing = [sys.executable, "-m", "mesh", "put", "-", "--node", node.url]
        subprocess.run(nothing, input=b"", check=True, stdout=subprocess.DEVNULL, env=env)

        def run(what: str, path: Path) -> float:
            before, cpu = written(node), resource.getrusage(resource.RUSAGE_CHILDREN)
            began = time.perf_counter()
            command = [sys.executable, "-m", "mesh", "put", str(path), "--node", node.url]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
            seconds = time.perf_counter() - began
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
            print(
                f"{what}: {seconds:.2f} s, {used:.2f} s of CPU, "
                f"the node wrote {written(node) - before:,} bytes",
                flush=True,
            )
            return seconds

        first = run("first put", root)
        again = min(run("unchanged", root) for _ in range(_TIMES))
        little = min(run("one known file", one) for _ in range(_TIMES))
        print(f"the first put takes {first / again:.0f} times as long as an unchanged one")
        print(f"beyond the start of the command, the unchanged tree takes {again - little:.2f} s")


if __name__ == "__main__":
    main()
