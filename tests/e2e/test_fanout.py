"""Three real nodes fetch one large blob from a fourth: what leaves the source is counted."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from mesh.core.trade import STRETCH
from tests.processes import NodeProcess, Valve, free_places, nodes, until

BLOB = Random(11).randbytes(24 * STRETCH + 77)
NAME = hashlib.blake2b(BLOB, digest_size=32).hexdigest()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_source_sends_a_blob_one_and_a_half_times_at_most(tmp_path: Path, backend: str) -> None:
    with nodes() as start:
        source = start(tmp_path / "source", backend=backend)
        with Valve(source.place, 10**12) as valve:
            where = free_places(3)
            workers: list[NodeProcess] = []
            for place in where:
                peers = ",".join([valve.place, *(other for other in where if other != place)])
                options = ("--peers", peers, "--interval", "3600")
                data = tmp_path / f"worker{len(workers)}"
                workers.append(start(data, *options, backend=backend, listen=place))
            for worker in workers:
                until(lambda: all(peer["in_sync"] for peer in worker.status()["peers"]))  # noqa: B023
            assert source.request("PUT", f"/v1/blobs/{NAME}", BLOB)[0] == 201
            before = valve.passed
            path = f"/v1/peers/{valve.place}/sync"
            with ThreadPoolExecutor(len(workers)) as threads:
                for answer in threads.map(lambda worker: worker.request("POST", path), workers):
                    assert answer[0] == 200, answer
            sent = valve.passed - before
        for worker in workers:
            status, _, body = worker.request("GET", f"/v1/blobs/{NAME}")
            assert status == 200
            assert hashlib.blake2b(body, digest_size=32).hexdigest() == NAME
        assert len(BLOB) <= sent <= 1.5 * len(BLOB)
