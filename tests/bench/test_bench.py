"""`mesh bench` on a small scale: that it measures what it says, not how fast anything is."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute

from mesh.bench.blobs import random_blobs
from mesh.bench.relay import relay
from tests.processes import mesh


def bench(*args: str | Path) -> dict[str, Any]:
    done = mesh("bench", *args, "--json")
    assert done.returncode == 0, done.stderr.decode()
    (line,) = done.stdout.splitlines()
    return json.loads(line)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_replicate_fills_an_empty_node(backend: str) -> None:
    result = bench("replicate", "--count", "300", "--size", "1KiB", "--backend", backend)
    assert (result["blobs"], result["bytes"]) == (300, 300 * 1024)
    assert result["blobs_per_second"] == pytest.approx(300 / result["seconds"])
    assert result["bytes_per_second"] == pytest.approx(300 * 1024 / result["seconds"])
    assert result["rss_bytes"] > 10_000_000
    assert list(result["sources"].values()) == [300]


def test_replicate_from_several_sources_behind_a_link_with_latency() -> None:
    result = bench(
        "replicate", "--count", "3000", "--size", "100", "--nodes", "3", "--latency", "20"
    )
    # Each blob came once, whoever brought it; and every request was 20 ms late at least twice.
    assert sum(result["sources"].values()) == 3000
    assert len(result["sources"]) == 2
    assert result["seconds"] > 0.04


def test_replicate_the_files_of_a_directory_with_a_probe(tmp_path: Path) -> None:
    for number, data in enumerate(random_blobs(50, 2000)):
        (tmp_path / str(number)).write_bytes(data)
    (tmp_path / "large").write_bytes(bytes(5 * 2**20))
    result = bench("replicate", "--from", tmp_path, "--probe")
    assert (result["blobs"], result["bytes"]) == (51, 50 * 2000 + 5 * 2**20)
    assert 0 < result["get_seconds_p50"] <= result["get_seconds_p99"]
    assert set(result["halfway"]) == {"below 64 KiB", "4 MiB and more"}


def test_rsync_beside_it() -> None:
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed, so there is nothing to measure beside")
    result = bench("replicate", "--count", "50", "--size", "1KiB", "--against", "rsync")
    (rival,) = result["rivals"]
    assert rival["name"] == "rsync"
    assert rival["ratio"] == pytest.approx(rival["seconds"] / result["seconds"])


def test_put_counts_files() -> None:
    result = bench("put", "--count", "200", "--size", "500")
    assert (result["files"], result["bytes"]) == (200, 100_000)
    assert result["files_per_second"] == pytest.approx(200 / result["seconds"])


def test_node_measures_a_start_a_put_and_a_round() -> None:
    result = bench("node", "--blobs", "2000")
    assert result["blobs"] == 2000
    assert 0 < result["served_seconds"] <= result["ready_seconds"]
    assert result["rss_bytes"] > 10_000_000
    assert result["equal_round_cpu_seconds"] > 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["replicate", "--against", "tar"], "no rival is called 'tar'"),
        (["replicate", "--size", "big"], "not a size"),
        (["replicate", "--backend", "curio"], "unknown backend 'curio'"),
        (["replicate", "--from", "/nonexistent"], "--from takes a directory"),
        (["plot"], "nothing to draw"),
        (["plot", "--replicate", "/nonexistent"], "cannot read /nonexistent"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(args: list[str], said: str) -> None:
    done = mesh("bench", *args)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert said in line


def test_plots_of_what_was_measured(tmp_path: Path) -> None:
    reconcile = [
        {"method": method, "blobs": 1000, "differ": d, "bytes_up": 100 * d, "bytes_down": 60}
        for method in ("sketch", "tree")
        for d in (0, 1, 10)
    ]
    replicate = [
        {"backend": "trio", "blobs": 10, "bytes": 10 * size, "blobs_per_second": 5.0,
         "bytes_per_second": 5.0 * size}
        for size in (1024, 4096)
    ]  # fmt: skip
    for name, points in (("reconcile", reconcile), ("replicate", replicate)):
        (tmp_path / name).write_text("".join(json.dumps(point) + "\n" for point in points))
    options = [f"--{name}={tmp_path / name}" for name in ("reconcile", "replicate")]
    done = mesh("bench", "plot", *options, "--out", tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    # What a person must be able to read off them.
    for name, words in (("reconcile", ["sketch", "tree"]), ("replicate", ["trio, blobs/s"])):
        drawing = (tmp_path / f"{name}.svg").read_text()
        assert all(f"<!-- {word} -->" in drawing for word in words)


@pytest.mark.trio
async def test_the_relay_is_late_by_what_it_says(autojump_clock: object) -> None:
    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream):
                while True:
                    await stream.send(await stream.receive())

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)
        place = f"127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        async with relay(place, 5.0) as late:
            host, _, port = late.rpartition(":")
            async with await anyio.connect_tcp(host, int(port)) as stream:
                began = anyio.current_time()
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"
                assert anyio.current_time() - began >= 5.0
        group.cancel_scope.cancel()
