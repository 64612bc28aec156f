"""docs/reliability.md names tests that exist, in an order in which a fault is found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "reliability.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))
FAULTS = [line for line in TEXT.splitlines() if re.match(r"\| \d+ ", line)]


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_the_table_names_exists(file: str, name: str) -> None:
    source = (ROOT / file).read_text("utf-8")
    assert re.search(rf"^\s*(async )?def {name}\(", source, re.MULTILINE)


def test_each_fault_has_one_row_with_a_test_and_the_rows_are_sorted() -> None:
    numbers = [int(line.split()[1]) for line in FAULTS]
    assert len(numbers) >= 15
    assert numbers == sorted(set(numbers))
    for line in FAULTS:
        assert re.search(r"`tests/[\w/]+\.py::\w+`", line), line


def test_commands_by_hand_are_modules() -> None:
    modules = re.findall(r"`python -m (tests[\w.]+)", TEXT)
    assert modules
    for module in modules:
        assert (ROOT / f"{module.replace('.', '/')}.py").exists()
