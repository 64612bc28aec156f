"""kill -9 at random moments of everything that writes, against a log of what was acknowledged.

    python -m tests.e2e.crash_campaign [--rounds 200] [--seed 1] [--directory DIR]
        [--segment-bytes 65536]

One node is kept busy with puts of small and large blobs, with batches, and with what a peer has for
it, and is killed. Now and then its index is deleted, so that it is also killed while it rebuilds
it; now and then it is killed as it starts, and now and then while it scrubs. After each restart
everything that was acknowledged has to be there, with the right hash; so has whatever it listed.
With `--segment-bytes 65536` its segments are small; with 1 each commit has a segment of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random

from mesh.core.digest import digest_of
from mesh.wire.frames import FrameReader, Kind, end, frame
from mesh.wire.messages import BatchRequest, encode
from tests.forked import ForkedNode
from tests.processes import NodeProcess, until

LARGE = 5_000_000
_GONE = (OSError, HTTPException)

KINDS = ("put", "put large", "batch", "replicated or listed")


class Ledger:
    """What was offered, and what of it has been acknowledged, or seen in a listing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.known: dict[str, tuple[int, int]] = {}
        self.acknowledged: set[str] = set()
        self.counts: Counter[str] = Counter()

    def blob(self, random: Random, size: int) -> bytes:
        """A new blob, which can be made again from its seed."""
        seed = random.getrandbits(60)
        data = Random(seed).randbytes(size)
        with self._lock:
            self.known[digest_of(data).hex()] = seed, size
        return data

    def acknowledge(self, names: list[str], how: str) -> None:
        with self._lock:
            self.counts[how] += len(set(names) - self.acknowledged)
            self.acknowledged.update(names)


class Campaign:
    def __init__(
        self, directory: Path, source: NodeProcess, seed: int, segment_bytes: int | None = None
    ) -> None:
        self._segment_bytes = segment_bytes
        self._directory = directory
        self._source = source
        self._random = Random(seed)
        self._seed = seed
        self._rounds = 0
        self._checked: set[str] = set()
        self.ledger = Ledger()

    def round(self) -> None:
        """Start, check, keep busy, kill."""
        self._rounds += 1
        if self._rounds % 4 == 1:
            self.ledger.counts["rebuilds"] += 1
            for path in self._directory.glob("index.sqlite*"):
                path.unlink()
        if self._rounds % 3 == 0:
            self.ledger.counts["killed at a start"] += 1
            node = self._start()
            threading.Event().wait(self._random.uniform(0.0, 0.2))
            node.kill()
        if self._rounds % 4 == 2:
            self._kill_in_a_scrub()
        self._feed()
        node = self._start()
        try:
            where = node.address()
            self.check(where)
            self._busy(where, node)
        finally:
            log = node.kill()
        assert "Traceback" not in log, log

    def _start(self) -> ForkedNode:
        options = ("--peers", self._source.place, "--interval", "0.1")
        return ForkedNode(self._directory, *options, segment_bytes=self._segment_bytes)

    def _kill_in_a_scrub(self) -> None:
        """Have it scrub, and kill it; counted only when the scrub was under way just before."""
        node = self._start()
        try:
            link = HTTPConnection(*node.address(), timeout=60)
            until(lambda: _ask(link, "POST", "/v1/scrub/start")[0] == 200)
            threading.Event().wait(self._random.uniform(0.0, 0.05))
            said = json.loads(_ask(link, "GET", "/v1/scrub")[1])
            link.close()
        finally:
            log = node.kill()
        assert "Traceback" not in log, log
        self.ledger.counts["killed in a scrub"] += said["state"] == "running"

    def check(self, where: tuple[str, int], *, everything: bool = False) -> None:
        """What was acknowledged is listed, and is what it should be."""
        link = HTTPConnection(*where, timeout=60)
        listed = until(lambda: _listing(link))
        lost = self.ledger.acknowledged - listed
        assert not lost, f"seed {self._seed}, round {self._rounds}: lost {sorted(lost)}"
        fresh = sorted(self.ledger.acknowledged - self._checked)
        older = sorted(self._checked)
        if not everything:
            older = self._random.sample(older, min(10, len(older)))
        wrong = _wrong(link, [*fresh, *older])
        assert not wrong, f"seed {self._seed}, round {self._rounds}: wrong {wrong}"
        self._checked.update(fresh)
        link.close()

    def _feed(self) -> None:
        """Something new at the peer, to be replicated."""
        sizes = [self._random.randrange(20_000) for _ in range(30)]
        if self._random.random() < 0.3:
            sizes.append(LARGE)
        blobs = [self.ledger.blob(self._random, size) for size in sizes]
        small = [data for data in blobs if len(data) < LARGE]
        assert self._source.request("POST", "/v1/batch", _framed(small))[0] == 200
        for data in blobs[len(small) :]:
            assert self._source.request("POST", "/v1/blobs", data)[0] == 201

    def _busy(self, where: tuple[str, int], node: ForkedNode) -> None:
        """Writers of all kinds, until the node is killed under them."""
        works = (self._put, self._put_large, self._batch, self._list)
        seeds = [self._random.getrandbits(60) for _ in works]
        threads = [
            threading.Thread(target=_until_gone, args=(work, where, Random(seed)))
            for work, seed in zip(works, seeds, strict=True)
        ]
        for thread in threads:
            thread.start()
        # Not before something was acknowledged, each kind in its turn, however slow the machine is.
        kind, more = KINDS[self._rounds % len(KINDS)], self._rounds % 3
        before = self.ledger.counts[kind]
        until(lambda: self.ledger.counts[kind] >= before + more)
        threading.Event().wait(self._random.uniform(0.0, 0.1))
        node.kill()
        for thread in threads:
            thread.join(60)

    def _put(self, link: HTTPConnection, random: Random) -> None:
        data = self.ledger.blob(random, random.choice([0, 100, 4096, 200_000]))
        name = digest_of(data).hex()
        if _ask(link, "PUT", f"/v1/blobs/{name}", data)[0] in (200, 201):
            self.ledger.acknowledge([name], "put")

    def _put_large(self, link: HTTPConnection, random: Random) -> None:
        data = self.ledger.blob(random, LARGE)
        name = digest_of(data).hex()
        if _ask(link, "PUT", f"/v1/blobs/{name}", data)[0] in (200, 201):
            self.ledger.acknowledge([name], "put large")

    def _batch(self, link: HTTPConnection, random: Random) -> None:
        blobs = [self.ledger.blob(random, random.randrange(9000)) for _ in range(40)]
        status, body = _ask(link, "POST", "/v1/batch", _framed(blobs))
        if status == 200 and json.loads(body)["rejected"] == 0:
            self.ledger.acknowledge([digest_of(data).hex() for data in blobs], "batch")

    def _list(self, link: HTTPConnection, random: Random) -> None:
        """What is listed has been acknowledged as well: so are blobs that a peer brought."""
        names = _listing(link, f"{random.randrange(256):02x}")
        self.ledger.acknowledge(sorted(names), "replicated or listed")


def _framed(blobs: list[bytes]) -> bytes:
    frames = [frame(Kind.BLOB, digest_of(data), len(data)) + data for data in blobs]
    return b"".join([*frames, end(len(frames))])


def _wrong(link: HTTPConnection, names: list[str]) -> set[str]:
    """Those of `names` that do not come back as what they should be."""
    left = set(names)
    for at in range(0, len(names), 500):
        digests = bytes.fromhex("".join(names[at : at + 500]))
        link.request("POST", "/mesh/v1/batch", encode(BatchRequest(digests=digests)))
        answer = link.getresponse()
        assert answer.status == 200
        reader = FrameReader()
        frames = reader.feed(answer.read())
        reader.finish()
        for found in frames:
            data = found.data
            if found.kind == Kind.LARGE:
                _, data = _ask(link, "GET", f"/v1/blobs/{found.digest.hex()}")
            if hashlib.blake2b(data, digest_size=32).digest() == found.digest:
                left.discard(found.digest.hex())
    return left


def _until_gone(
    work: Callable[[HTTPConnection, Random], None], where: tuple[str, int], random: Random
) -> None:
    link = HTTPConnection(*where, timeout=60)
    with suppress(*_GONE):
        while True:
            work(link, random)
    link.close()


def _ask(link: HTTPConnection, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    link.request(method, path, body)
    answer = link.getresponse()
    return answer.status, answer.read()


def _listing(link: HTTPConnection, prefix: str = "") -> set[str]:
    """All names; empty while the store is not open."""
    names: set[str] = set()
    after = ""
    while after is not None:
        cursor = f"&after={after}" if after else ""
        status, body = _ask(link, "GET", f"/v1/blobs?limit=10000&prefix={prefix}{cursor}")
        if status != 200:
            return set()
        page = json.loads(body)
        names |= {blob["digest"] for blob in page["blobs"]}
        after = page["next"]
    return names


def run(directory: Path, rounds: int, seed: int, segment_bytes: int | None = None) -> Ledger:
    """A campaign; what it did. AssertionError when something was lost, or nothing was shown."""
    source = NodeProcess(directory / "source")
    try:
        source.ready()
        campaign = Campaign(directory / "victim", source, seed, segment_bytes)
        campaign.ledger.acknowledge([_first(source, campaign.ledger)], "seeded")
        victim = ForkedNode(directory / "victim", "--peers", source.place, "--interval", "0.1")
        try:
            link = HTTPConnection(*victim.address())
            until(lambda: _listing(link))
            link.close()
        finally:
            victim.kill()
        for _ in range(rounds):
            campaign.round()
        victim = ForkedNode(directory / "victim")
        try:
            campaign.check(victim.address(), everything=True)
        finally:
            victim.kill()
        counts = campaign.ledger.counts
        assert rounds < 4 or counts["killed in a scrub"], "void: it was never killed in a scrub"
        segments = len(list((directory / "victim" / "segments").iterdir()))
        counts["segments"] = segments
        return campaign.ledger
    finally:
        source.kill()


def _first(source: NodeProcess, ledger: Ledger) -> str:
    """One blob to begin with, so that an empty listing means that the store is not open yet."""
    data = ledger.blob(Random(0), 1000)
    source.request("POST", "/v1/blobs", data)
    return digest_of(data).hex()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--segment-bytes", type=int)
    asked = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=asked.directory) as place:
        ledger = run(Path(place), asked.rounds, asked.seed, asked.segment_bytes)
    seconds = time.monotonic() - began
    told = ", ".join(f"{count} {what}" for what, count in sorted(ledger.counts.items()))
    print(f"{asked.rounds} rounds, seed {asked.seed}, {seconds:.0f} s: {told}; nothing lost")


if __name__ == "__main__":
    main()
