from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import anyio
import pytest

from mesh.core.digest import digest_of
from mesh.core.tree import Tree
from mesh.node import Node
from mesh.store.base import Blob
from mesh.store.directory import DataDirectory
from tests.e2e.rot import NAMES, Campaign, mesh_of, open_store, outcomes


def test_a_byte_flipped_anywhere_is_healed_and_nothing_wrong_is_served(tmp_path: Path) -> None:
    found = list(outcomes(20, seed=5, base=tmp_path))
    kinds = Counter(each.place.kind for each in found)
    # A campaign in which a kind of file was never hit says nothing about it.
    assert kinds.keys() == {"segment", "large", "sums", "index.sqlite", "node.json"}, kinds
    assert Counter(each.note for each in found)["healed"] >= 3


@pytest.mark.parametrize("index", ["as old", "newer", "gone"])
def test_an_old_backup_gets_only_what_is_missing(tmp_path: Path, index: str) -> None:
    anyio.run(restored, tmp_path, index)


async def restored(base: Path, index: str) -> None:
    campaign = Campaign(base, seed=7, small=40, large=1)
    await campaign.prepare()
    backup = base / "backup"
    shutil.copytree(base / "b", backup)
    new = [b"new %d" % number for number in range(25)]
    for name in NAMES:
        directory = DataDirectory.claim(base / name)
        store = open_store(directory)
        await store.open()
        assert await store.commit([Blob(digest_of(data), data) for data in new]) == [True] * 25
        await store.close()
        directory.release()
    if index == "newer":
        shutil.copy(base / "b" / "index.sqlite", backup / "index.sqlite")
    elif index == "gone":
        (backup / "index.sqlite").unlink()
    root = Tree([*campaign.contents, *map(digest_of, new)]).root
    async with mesh_of({"a": base / "a", "b": backup, "c": base / "c"}) as nodes:
        b = nodes["b"]
        with anyio.fail_after(60):
            while b.keeper.ready_tree().root != root:
                await b.keeper.wait_for_change(0.05)
            while moved(nodes) < 25:  # a round that brought something is counted at its end
                await b.keeper.wait_for_change(0.05)
        assert moved(nodes) == 25
        assert all(node.keeper.ready_tree().root == root for node in nodes.values())
        sent = sum(peer.sent_blobs for peer in b.status().peers)
        assert sent == 0, "nothing that a backup has is sent again"


def moved(nodes: dict[str, Node]) -> int:
    """Blobs that b has got: it asked for them, or another one pushed them before it could."""
    fetched = sum(peer.fetched_blobs for peer in nodes["b"].status().peers)
    statuses = [nodes[name].status() for name in "ac"]
    return fetched + sum(peer.sent_blobs for status in statuses for peer in status.peers)
