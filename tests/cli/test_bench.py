"""`mesh bench`, and with it what comparing costs at 20,000 blobs a side, pinned as numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import anyio
import msgspec
import pytest
from typer.testing import CliRunner

from mesh.cli.bench_reconcile import Case, Report, measure
from mesh.cli.main import app
from mesh.errors import InputError

BLOBS = 20_000


@cache
def report(differ: int, one_sided: bool, method: str) -> Report:
    return anyio.run(measure, Case(BLOBS, differ, one_sided, method), 3)


@pytest.mark.parametrize(
    ("differ", "one_sided", "up", "down", "trips"),
    [
        (0, False, 147, 42, 1),
        (1, False, 189, 229, 2),
        (10, False, 201, 561, 2),
        (100, False, 336, 4778, 2),
        (1000, False, 1687, 33_935, 2),
        (10, True, 216, 653, 2),
        (100, True, 487, 5764, 2),
        (1000, True, 3187, 42_487, 2),
    ],
)
def test_what_differs_is_found_in_two_round_trips(
    differ: int, one_sided: bool, up: int, down: int, trips: int
) -> None:
    found = report(differ, one_sided, "auto")
    assert (found.bytes_up, found.bytes_down) == (up, down)
    assert found.round_trips == found.round_trips_most == trips
    assert (found.at_most_two_round_trips, found.by_tree, found.wrong) == (1.0, 0, 0)


@pytest.mark.parametrize(
    ("differ", "one_sided", "up", "down", "trips"),
    [(1, False, 259, 973, 4), (1000, False, 9209, 201_260, 5), (1000, True, 9269, 217_435, 5)],
)
def test_the_tree_alone_finds_it_as_well(
    differ: int, one_sided: bool, up: int, down: int, trips: int
) -> None:
    found = report(differ, one_sided, "tree")
    assert (found.bytes_up, found.bytes_down, found.round_trips_most) == (up, down, trips)
    assert (found.by_tree, found.wrong) == (3, 0)


def test_too_much_for_a_sketch_is_listed() -> None:
    found = report(30_000, True, "auto")
    assert (found.by_tree, found.wrong) == (3, 0)


def test_the_command_prints_a_table_or_json() -> None:
    options = ["bench", "reconcile", "--blobs", "300", "--differ", "9", "--seeds", "2"]
    table = CliRunner().invoke(app, options)
    assert table.exit_code == 0
    assert "300 blobs, 9 differ on both sides, 2 seeds" in table.output
    for extra in ([], ["--one-sided", "--method", "sketch"], ["--method", "tree"]):
        result = CliRunner().invoke(app, [*options, *extra, "--json", "--backend", "trio"])
        assert result.exit_code == 0
        said = json.loads(result.output)
        assert msgspec.convert(said, Report).wrong == 0
        assert {"bytes_up", "bytes_down", "round_trips", "cpu_seconds"} <= set(said)


def test_a_sketch_that_does_not_do_is_an_exit_code() -> None:
    options = ["--blobs", "10", "--differ", "40", "--seeds", "1", "--json"]
    for method, code in (("sketch", 1), ("auto", 0)):
        result = CliRunner().invoke(app, ["bench", "reconcile", *options, "--method", method])
        assert result.exit_code == code


def test_a_method_that_there_is_not_is_said() -> None:
    with pytest.raises(InputError, match="no method 'guess'; there are auto, sketch, tree"):
        anyio.run(measure, Case(1, 1, False, "guess"), 1)


@pytest.mark.parametrize("command", ["put", "get", "status", "main"])
def test_client_commands_do_not_load_numpy(command: str) -> None:
    code = f"import sys, mesh.cli.{command}, mesh.node; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
