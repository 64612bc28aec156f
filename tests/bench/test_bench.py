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

from mesh.bench.blobs import photos, random_blobs
from mesh.bench.relay import Passed, relay
from tests.processes import mesh


def bench(*args: str | Path) -> dict[str, Any]:
    # A benchmark starts up to seven processes and waits for rounds: on a machine that is busy
    # with other tests that may take a minute. It has to end before the test's own limit of 120 s.
    done = mesh("bench", *args, "--json", seconds=110)
    assert done.returncode == 0, done.stderr.decode()
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def test_replicate_fills_an_empty_node() -> None:
    result = bench("replicate", "--count", "300", "--size", "1KiB", "--backend", "trio")
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


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tree_brings_a_directory_to_every_node_beside_rsync(tmp_path: Path, backend: str) -> None:
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed, so there is nothing to measure beside")
    (tmp_path / "below").mkdir()
    for number, data in enumerate(random_blobs(20, 2000)):
        (tmp_path / "below" / str(number)).write_bytes(data)
        (tmp_path / f"same{number}").write_bytes(b"the same bytes")
    result = bench("tree", tmp_path, "--against", "rsync", "--backend", backend)
    assert (result["files"], result["blobs"], result["bytes"]) == (40, 21, 20 * 2000 + 14)
    for one in (result["first"], result["again"]):
        assert 0 < one["put_seconds"] < one["seconds"]
        assert one["client_cpu_seconds"] > 0
        assert len(one["other_cpu_seconds"]) == 2
    (rival,) = result["rivals"]
    assert len(rival["each_seconds"]) == 2
    assert rival["seconds"] == pytest.approx(sum(rival["each_seconds"]))
    assert rival["ours_over_theirs"] == pytest.approx(result["first"]["seconds"] / rival["seconds"])


def test_tree_of_photos_into_a_node_without_peers() -> None:
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed, so there is nothing to measure beside")
    result = bench("tree", "--photos", "12MB", "--nodes", "1", "--against", "rsync-unsynced")
    assert (result["files"], result["bytes"]) == (result["blobs"], 12_000_000)
    # Nothing to wait for, and one destination.
    assert result["first"]["put_seconds"] == result["first"]["seconds"]
    (rival,) = result["rivals"]
    assert (rival["name"], len(rival["each_seconds"])) == ("rsync-unsynced", 1)


def test_photos_have_the_sizes_of_photos(tmp_path: Path) -> None:
    photos(tmp_path, 20_000_000)
    sizes = [path.stat().st_size for path in sorted(tmp_path.rglob("*.jpg"))]
    assert sum(sizes) == 20_000_000
    assert all(3_000_000 <= size <= 8_000_000 for size in sizes[:-1])


def test_fanout_brings_one_blob_to_every_worker() -> None:
    size = 5 * 2**20
    result = bench("fanout", "--workers", "2", "--size", "5MiB")
    assert (result["workers"], result["size"]) == (2, size)
    assert result["ratio"] == pytest.approx(result["seconds"] / result["alone_seconds"])
    assert len(result["worker_cpu_seconds"]) == 2
    # Somebody had it from the source, and at most each worker did, with what HTTP adds.
    assert size <= result["source_sent_bytes"] < 2.1 * size
    assert result["source_sent_ratio"] == pytest.approx(result["source_sent_bytes"] / size)


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
        (["tree"], "give a directory, or --photos"),
        (["tree", "/", "--photos", "1MB"], "not both"),
        (["tree", "/nonexistent"], "/nonexistent is not a directory"),
        (["tree", "--photos", "1MB", "--against", "tar"], "no rival is called 'tar'"),
        (["fanout", "--size", "0"], "1 byte or more"),
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
    tree = [
        {"name": "site-packages", "backend": backend, "nodes": nodes, "first": {"seconds": 2.0},
         "rivals": [{"name": "rsync", "seconds": 3.0}]}
        for backend, nodes in (("asyncio", 3), ("trio", 1))
    ]  # fmt: skip
    fanout = [
        {"backend": "trio", "workers": n, "size": 2**30, "seconds": 2.0 * n, "alone_seconds": 2.0}
        for n in (1, 3)
    ]
    lines = {"reconcile": reconcile, "replicate": replicate, "tree": tree, "fanout": fanout}
    for name, points in lines.items():
        (tmp_path / name).write_text("".join(json.dumps(point) + "\n" for point in points))
    options = [f"--{name}={tmp_path / name}" for name in lines]
    done = mesh("bench", "plot", *options, "--out", tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    # What a person must be able to read off them.
    for name, words in {
        "reconcile": ["sketch", "tree"],
        "replicate": ["trio, blobs/s"],
        "tree": ["mesh, asyncio", "mesh, trio", "rsync"],
        "fanout": ["trio"],
    }.items():
        drawing = (tmp_path / f"{name}.svg").read_text()
        assert all(f"<!-- {word} -->" in drawing for word in words)


@pytest.mark.trio
async def test_the_relay_is_late_by_what_it_says_and_counts(autojump_clock: object) -> None:
    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream):
                while True:
                    await stream.send(await stream.receive())

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)
        place = f"127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        passed = Passed()
        async with relay(place, 5.0, passed) as late:
            host, _, port = late.rpartition(":")
            async with await anyio.connect_tcp(host, int(port)) as stream:
                began = anyio.current_time()
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"
                assert anyio.current_time() - began >= 5.0
                assert passed.bytes == 5
        group.cancel_scope.cancel()
