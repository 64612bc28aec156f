"""How long a short command takes, the start of Python included: the best of ten runs of each.

    python -m tests.benchmarks.bench_commands

Bytecode is cached, as it is once a package has been installed, and standard output is a pipe.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.processes import environment, nodes

RUNS = 10


def main() -> None:
    with tempfile.TemporaryDirectory() as place, nodes() as start:
        env = environment({"PYTHONPYCACHEPREFIX": f"{place}/bytecode"})
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        node = start(Path(place) / "data")
        node.ready()
        commands = {
            "python -c pass": ["-c", "pass"],
            "mesh --help": ["-m", "mesh", "--help"],
            "mesh status": ["-m", "mesh", "status", "--node", node.url],
            "mesh ls": ["-m", "mesh", "ls", "--node", node.url],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(RUNS + 1):  # the first one writes the bytecode
            for name, words in commands.items():
                began = time.perf_counter()
                subprocess.run([sys.executable, *words], env=env, check=True, capture_output=True)
                times[name].append(time.perf_counter() - began)
        for name, each in times.items():
            print(f"{name}: {min(each[1:]):.3f} s")


if __name__ == "__main__":
    main()
