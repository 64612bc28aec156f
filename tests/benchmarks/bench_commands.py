"""How long a short command takes, the start of Python included: the best of ten runs of each.

    python -m tests.benchmarks.bench_commands

Bytecode is cached, as it is once a package has been installed, and standard output is a pipe. The
time of a processor is that of the command alone; on a busy machine it says more than the clock.
"""

from __future__ import annotations

import resource
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
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(RUNS + 1):  # the first one writes the bytecode
            for name, words in commands.items():
                began, used = time.perf_counter(), cpu_of_children()
                subprocess.run([sys.executable, *words], env=env, check=True, capture_output=True)
                took = time.perf_counter() - began
                times[name].append((took, cpu_of_children() - used))
        for name, each in times.items():
            clock, cpu = (min(numbers) for numbers in zip(*each[1:], strict=True))
            print(f"{name}: {clock:.3f} s, {cpu:.3f} s of a processor")


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
