"""The seed's state, hash for hash."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import msgspec
import pytest

from mesh.blobstash import LeafState, StateTree, new_hash
from mesh.blobstash.stats import SyncStats, go_duration
from mesh.blobstash.tree import PREFIXES, under
from mesh.core.tree import Tree
from mesh.errors import InputError

VECTORS = Path(__file__).parents[1] / "vectors" / "blobstash"
DIGESTS: list[str] = json.loads((VECTORS / "blobs.json").read_text())["digests"]
STATE = json.loads((VECTORS / "state.json").read_text())["response"]["json"]


def recorded_leaf(name: str) -> LeafState:
    exchange = json.loads((VECTORS / name).read_text())
    return msgspec.convert(exchange["response"]["json"], LeafState)


@pytest.mark.parametrize("seed", range(5))
def test_additions_in_any_order_give_the_recorded_state(seed: int) -> None:
    digests = list(DIGESTS)
    random.Random(seed).shuffle(digests)
    tree = StateTree()
    for digest in digests:
        tree.add(digest)
        tree.add(digest)
    assert msgspec.to_builtins(tree.state()) == STATE
    assert tree.count() == len(DIGESTS)


def test_the_hash_of_nothing_is_the_seeds() -> None:
    nothing = "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"
    assert StateTree().root() == nothing == new_hash().hexdigest()
    assert StateTree().level1() == {}
    assert StateTree().level1_prefix("27") == ""


def test_state_between_additions_follows_a_dumb_oracle() -> None:
    tree = StateTree()
    for number, digest in enumerate(DIGESTS, 1):
        tree.add(digest)
        if number % 50 == 0:
            known = sorted(DIGESTS[:number])
            assert (
                tree.root() == hashlib.blake2b("".join(known).encode(), digest_size=32).hexdigest()
            )
            for prefix in PREFIXES:
                mine = "".join(digest for digest in known if digest.startswith(prefix)).encode()
                expected = hashlib.blake2b(mine, digest_size=32).hexdigest() if mine else ""
                assert tree.level1_prefix(prefix) == expected


def test_the_state_of_another_set_takes_over_what_is_alike() -> None:
    digests = [bytes.fromhex(digest) for digest in DIGESTS]
    before = StateTree(Tree(digests[:-1]))
    before.state()
    after = before.following(Tree(digests))
    assert msgspec.to_builtins(after.state()) == STATE
    assert before.count() == len(DIGESTS) - 1


def test_a_malformed_digest_is_refused() -> None:
    with pytest.raises(InputError):
        StateTree().add("zz")


@pytest.mark.parametrize(
    ("name", "prefix", "listed"), [("leaf-27.json", "27", 254), ("leaf-fd.json", "fd", 3)]
)
def test_a_recorded_leaf_is_cut_to_its_prefix(name: str, prefix: str, listed: int) -> None:
    leaf = recorded_leaf(name)
    assert leaf.hashes is not None
    assert len(leaf.hashes) == listed
    expected = sorted(digest for digest in DIGESTS if digest.startswith(prefix))
    assert [digest.hex() for digest in under(prefix, leaf.hashes)] == expected
    assert under(prefix, None) == []


def test_texts_name_root_and_counts() -> None:
    tree = StateTree()
    tree.add(DIGESTS[0])
    assert tree.root() in str(tree)
    assert tree.root() in str(tree.state())
    tree.close()
    assert tree.count() == 1


def test_stats_are_in_the_seeds_json_form() -> None:
    stats = SyncStats(downloaded=1, downloaded_size=2, uploaded=3, uploaded_size=4, duration="5ms")
    assert json.loads(msgspec.json.encode(stats)) == {
        "blobs_downloaded": 1,
        "downloaded_size": 2,
        "blobs_uploaded": 3,
        "uploaded_size": 4,
        "sync_duration": "5ms",
        "already_in_sync": False,
        "one_way_sync": False,
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (1e-9, "1ns"), (1.5e-6, "1.5µs"), (0.25, "250ms"), (1.5, "1.5s"), (60, "1m0s"),
     (61, "1m1s"), (3600, "1h0m0s"), (3723.5, "1h2m3.5s"), (0.0105, "10.5ms")],
)  # fmt: skip
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text
