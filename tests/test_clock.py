"""Nobody asks what time of day it is: a clock that jumps changes nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

# All that these modules offer but what is monotonic, or only turns one form into another.
CLOCKS = {"time", "datetime"}
MONOTONIC = {"monotonic", "monotonic_ns", "perf_counter", "process_time"}

# Files that may, each for its reason: most show or keep something for people, and decide nothing.
ALLOWED: dict[str, str] = {
    "mesh/cli/logs.py": "says when a line was logged",
    "mesh/cli/stamp.py": "compares with times of files; a jump of the clock costs a read",
    "mesh/dates.py": "dates what is shown to people, and decides nothing by it",
    "mesh/store/disk.py": "dates what is wanted and what came, and decides nothing by it",
}


def asked(source: str) -> Iterator[str]:
    """Where a source text names something of a module that knows the time of day."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in CLOCKS:
                if name not in MONOTONIC:
                    yield f"line {node.lineno}: {module}.{name}"
            case ast.ImportFrom(module=str(module), names=names) if module in CLOCKS:
                for alias in names:
                    if alias.name not in MONOTONIC:
                        yield f"line {node.lineno}: from {module} import {alias.name}"


def test_nothing_depends_on_the_time_of_day() -> None:
    files = sorted((ROOT / "mesh").rglob("*.py"))
    assert len(files) > 50
    for path in files:
        if str(path.relative_to(ROOT)) not in ALLOWED:
            assert list(asked(path.read_text("utf-8"))) == [], path


def test_the_time_of_day_is_found_where_it_is_asked_for() -> None:
    source = "import time\nfrom datetime import datetime\ntime.time()\ntime.monotonic()\n"
    assert list(asked(source)) == ["line 2: from datetime import datetime", "line 3: time.time"]
