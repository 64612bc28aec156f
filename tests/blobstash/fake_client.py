"""A BlobStash's own sync, as the recordings have it: what a mesh node has to live with.

It takes its own leaf from its own over-long listing, compares hash strings with what the remote
lists, and moves every difference of every diverging leaf, whatever it has moved already. Blobs
are posted as snappy blocks.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cramjam

from tests.blobstash.fake_server import KEY, hash_of, name_of

EMPTY = hash_of([])


class Conflict(Exception):
    """A one-way sync found blobs that exist only on the client; nothing was transferred."""


@dataclass(frozen=True)
class Synced:
    """What a sync did. Blobs moved, repetitions counted."""

    already: bool
    uploaded: int = 0
    downloaded: int = 0


class FakeClient:
    """One BlobStash that syncs with the server at `place`; `blobs` by digest."""

    def __init__(self, place: str, blobs: Iterable[bytes] = (), *, key: str = KEY) -> None:
        self.blobs = {name_of(data): data for data in blobs}
        self.uploads: Counter[str] = Counter()
        self.downloads: Counter[str] = Counter()
        host, _, port = place.partition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=60)
        self._headers = {
            "User-Agent": "Go-http-client/1.1",
            "Authorization": "Basic " + base64.b64encode(b":" + key.encode()).decode(),
            "Accept-Encoding": "gzip",
        }

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def sync(self, *, one_way: bool = False) -> Synced:
        """One sync."""
        remote = self._json("/api/sync/state")
        mine = self.leaves()
        if remote["root"] == hash_of(self.blobs):
            return Synced(already=True)
        theirs = remote["leaves"]
        wanted: list[str] = []
        spare: list[str] = []
        for prefix in theirs.keys() - mine.keys():
            wanted += self.remote_leaf(prefix)
        for prefix in mine.keys() - theirs.keys():
            spare += self._leaf(prefix)
        for prefix in mine.keys() & theirs.keys():
            if mine[prefix] != theirs[prefix]:
                here, there = set(self._leaf(prefix)), set(self.remote_leaf(prefix))
                spare += here - there
                wanted += there - here
        if one_way and spare:
            raise Conflict(f"{len(set(spare))} blobs only here")
        for digest in spare:
            self._upload(digest)
        for digest in wanted:
            self._download(digest)
        return Synced(False, len(spare), len(wanted))

    def leaves(self) -> dict[str, str]:
        """The hash of each of its leaves."""
        buckets: dict[str, list[str]] = {}
        for digest in self.blobs:
            buckets.setdefault(digest[:2], []).append(digest)
        return {prefix: hash_of(members) for prefix, members in buckets.items()}

    def _leaf(self, prefix: str) -> list[str]:
        """Its own leaf, which does not end where the prefix does either."""
        return [digest for digest in self.blobs if digest >= prefix]

    def remote_leaf(self, prefix: str) -> list[str]:
        """What the remote lists, all of it."""
        return self._json(f"/api/sync/state/leaf/{prefix}")["hashes"] or []

    def _upload(self, digest: str) -> None:
        block = bytes(cramjam.snappy.compress_raw(self.blobs[digest]))
        path = f"/api/blobstore/blob/{digest}"
        status, _, body = self._ask("POST", path, block, {"Content-Type": "snappy"})
        assert status == 201, body
        self.uploads[digest] += 1

    def _download(self, digest: str) -> None:
        status, _, body = self._ask("GET", f"/api/blobstore/blob/{digest}")
        assert status == 200, body
        assert name_of(body) == digest
        self.blobs[digest] = body
        self.downloads[digest] += 1

    def _json(self, path: str) -> Any:
        status, headers, body = self._ask("GET", path)
        assert status == 200, body
        # The Go client switches on the whole header.
        assert headers["content-type"] == "application/json"
        return json.loads(body)

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Any = None
    ) -> tuple[int, dict[str, str], bytes]:
        self._connection.request(method, path, body, {**self._headers, **(headers or {})})
        answer = self._connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
