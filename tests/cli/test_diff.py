"""`mesh diff` between real nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.processes import NodeProcess, environment, fill, free_places, mesh, nodes, until

SHARED = [b"shared %d" % number for number in range(300)]
OURS = [b"ours %d" % number for number in range(1500)]
# More than the first node fetches.
THEIRS = [b"%d" % number * (5 * 1024 * 1024) for number in range(3)]


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[NodeProcess, list[str], list[str]]]:
    """A node that sends nothing to its peer and may not fetch all; what only one of them has."""
    base = tmp_path_factory.mktemp("diff")
    ours = fill(base / "one", SHARED + OURS)[len(SHARED) :]
    fill(base / "two", SHARED)
    config = base / "mesh.toml"
    (nobody,) = free_places(1)
    with nodes() as start:
        two = start(base / "two", "--name", "two")
        two.ready()
        theirs = [
            json.loads(two.request("POST", "/v1/blobs", data)[2])["digest"] for data in THEIRS
        ]
        config.write_text(
            f'peers = [{{ url = "two={two.place}", direction = "pull" }}, "ghost={nobody}"]\n'
            "max_replica_bytes = 4194304\ninterval_seconds = 3600\n"
        )
        one = start(base / "one", "--name", "one", "--config", str(config))
        until(lambda: one.status()["peers"][0]["missing_here"] == len(theirs))
        yield one, ours, theirs


def test_what_differs_is_listed_and_counted(
    pair: tuple[NodeProcess, list[str], list[str]],
) -> None:
    one, ours, theirs = pair
    done = mesh("diff", "two", "--node", one.url)
    assert (done.returncode, done.stderr) == (1, b"")
    *lines, last = done.stdout.decode().splitlines()
    assert sorted(lines) == sorted(
        [f"< {name}" for name in ours] + [f"> {name}" for name in theirs]
    )
    assert last == "two: 1500 blobs only here, 3 only there"
    done = mesh("diff", "two", "--count", "--node", one.url)
    assert (done.returncode, done.stdout.decode().splitlines()) == (1, [last])
    assert one.status()["peers"][0]["missing_here"] == 3, "nothing was moved"


def test_what_differs_is_told_to_programs(
    pair: tuple[NodeProcess, list[str], list[str]],
) -> None:
    one, ours, theirs = pair
    summary = {
        "event": "summary", "command": "diff",
        "peer": "two", "only_here": 1500, "only_there": 3, "proven": True, "reason": None,
    }  # fmt: skip

    def told(*options: str) -> list[dict[str, Any]]:
        done = mesh("diff", "two", *options, "--node", one.url)
        assert (done.returncode, done.stderr) == (1, b"")
        return [json.loads(line) for line in done.stdout.splitlines()]

    *lines, end = told("--json-lines")
    assert end == {**summary, "count": 1503}
    assert {each.pop("event") for each in lines} == {"blob"}
    for only, names in (("here", ours), ("there", theirs)):
        assert sorted(x["digest"] for x in lines if x["only"] == only) == sorted(names)
    (one_object,) = told("--json")
    assert one_object == {**end, "blobs": lines}
    assert told("--json", "--count") == told("--json-lines", "--count") == [summary]


def test_who_has_seen_enough_may_go(pair: tuple[NodeProcess, list[str], list[str]]) -> None:
    one, *_ = pair
    command = f"{sys.executable} -m mesh diff two --node {one.url} | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, env=environment())
    assert (done.stdout.count(b"\n"), done.stderr) == (1, b"")


def test_what_cannot_be_compared_has_a_code_of_its_own(
    pair: tuple[NodeProcess, list[str], list[str]],
) -> None:
    one, *_ = pair
    done = mesh("diff", "ghost", "--node", one.url)
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"refused" in done.stderr
    assert done.stderr.count(b"\n") == 1
    (place,) = free_places(1)
    done = mesh("diff", "two", "--node", place)
    assert (done.returncode, done.stdout) == (3, b""), "1 would say that they differ"
    assert done.stderr.count(b"\n") == 1
    done = mesh("diff", "nobody", "--node", one.url)
    assert done.returncode == 2
    assert b"no peer is called 'nobody'" in done.stderr


def test_equal_nodes_are_equal(pair: tuple[NodeProcess, list[str], list[str]]) -> None:
    one, *_ = pair
    with nodes() as start:
        other = start(one.data.parent / "three", "--peers", f"one={one.place}", "--name", "three")
        until(lambda: other.status()["peers"][0]["in_sync"])
        done = mesh("diff", "one", "--node", other.url)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"one: equal\n", b"")


def test_a_node_on_trio_tells_the_same(pair: tuple[NodeProcess, list[str], list[str]]) -> None:
    one, _, theirs = pair
    base = one.data.parent
    with nodes() as start:
        other = start(base / "four", "--config", str(base / "mesh.toml"), backend="trio")
        until(lambda: other.status()["peers"][0]["missing_here"] == len(theirs))
        done = mesh("diff", "two", "--node", other.url)
        assert (done.returncode, done.stderr) == (1, b"")
        *lines, last = done.stdout.decode().splitlines()
        assert sorted(lines) == sorted(f"> {name}" for name in theirs)
        assert last == "two: 0 blobs only here, 3 only there"
