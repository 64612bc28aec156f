"""Requests to a BlobStash server: state, leaves, blobs. Everything that comes is checked."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh import decoding
from mesh.blobstash.tree import PREFIXES, LeafState, State
from mesh.core.digest import Digest
from mesh.errors import Misbehaved, Undecodable
from mesh.transport.http import Body, Http
from mesh.transport.pace import CALL, Paced, Pulse, within

# 256 leaves of 70 bytes, and room for another spelling.
_MAX_STATE = 1024 * 1024

# A leaf's own digests at a hundred million blobs. What a real server lists beyond the prefix is
# not read to its end.
_MAX_LEAF = 32 * 1024 * 1024

# What may stand before, between and behind the digests of a leaf: some words and blanks.
_MAX_BETWEEN = 64 * 1024

_STATE = decoding.json_of(State)
_HASHES = re.compile(rb'"hashes"\s*:\s*')
_ITEM = re.compile(rb'\s*[\[,]\s*"([0-9a-f]{64})"')
_END = re.compile(rb"\s*(null|\[\s*\]|\])\s*\}\s*")
_PREFIX = re.compile(r"[0-9a-f]{2}", re.ASCII)
_TEXT = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Remote:
    """One BlobStash server. Raises PeerErrors only; a connection that it closes is one."""

    def __init__(self, http: Http, place: str) -> None:
        """`http` carries the key; `place` names the server in errors."""
        self._http = http
        self._place = place

    async def state(self) -> State:
        """What the server holds, in short."""
        with within(CALL, f"{self._place} (state)"):
            async with self._http.open("GET", "/api/sync/state") as answer:
                if answer.status != 200:
                    raise await self._http.refusal(answer)
                body = await self._http.whole(answer, _MAX_STATE)
        try:
            state = _STATE.read(body)
        except Undecodable as error:
            raise Misbehaved(f"{self._place} sent a state that is none: {error}") from error
        good = all(_PREFIX.fullmatch(p) and _TEXT.fullmatch(h) for p, h in state.leaves.items())
        if not good or not _TEXT.fullmatch(state.root) or state.count < 0:
            raise Misbehaved(f"{self._place} sent a state with malformed hashes")
        return state

    async def leaf(self, prefix: str) -> LeafState:
        """The digests of one bucket, cut to its prefix however far the server lists on."""
        if prefix not in PREFIXES:
            raise ValueError(prefix)
        async with self._http.open("GET", f"/api/sync/state/leaf/{prefix}") as answer:
            if answer.status != 200:
                raise await self._http.refusal(answer)
            listing = _Listing(prefix, self._place)
            async for chunk in Paced(answer.chunks, f"leaf {prefix} of {self._place}"):
                if listing.feed(chunk):
                    break  # beyond the prefix: the rest is the rest of the store
        hashes = listing.hashes()
        return LeafState(prefix, len(hashes), hashes or None)

    async def has(self, digest: Digest) -> bool:
        """Whether the server holds a blob."""
        with within(CALL, f"{self._place} (head)"):
            async with self._http.open("HEAD", _path(digest)) as answer:
                if answer.status not in (200, 204, 404):
                    raise await self._http.refusal(answer)
                return answer.status != 404

    @asynccontextmanager
    async def get(
        self, digest: Digest
    ) -> AsyncIterator[tuple[int | None, AsyncIterator[bytes]] | None]:
        """A blob's size, when the server says it, and its bytes; None when it is not there."""
        async with self._http.open("GET", _path(digest)) as answer:
            if answer.status == 404:
                yield None
                return
            if answer.status != 200:
                raise await self._http.refusal(answer)
            length = answer.headers.get("content-length", "")
            size = int(length) if length.isascii() and length.isdigit() else None
            yield size, Paced(answer.chunks, f"blob {digest.hex()} from {self._place}")

    async def post(self, digest: Digest, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Store a blob of `size` bytes on the server."""
        pulse = Pulse(f"sending to {self._place}")
        headers = {"content-length": str(size), "content-type": "application/octet-stream"}
        body: Body = pulse.beat(chunks)
        with pulse.watch():
            async with self._http.open(
                "POST", _path(digest), body, headers, patient=True
            ) as answer:
                if answer.status not in (200, 201):
                    raise await self._http.refusal(answer)

    async def close(self) -> None:
        """The client below is shared: nothing to do here."""


def _path(digest: Digest) -> str:
    return f"/api/blobstore/blob/{digest.hex()}"


class _Listing:
    """A leaf's answer, read only as far as its own prefix goes."""

    def __init__(self, prefix: str, place: str) -> None:
        self._prefix = prefix
        self._place = place
        self._text = bytearray()
        self._found: list[str] = []
        self._begun = False
        self._beyond = False

    def feed(self, chunk: bytes) -> bool:
        """Take a chunk; True when everything under the prefix has been seen."""
        self._text += chunk
        if len(self._found) * 67 + len(self._text) > _MAX_LEAF:
            raise Misbehaved(f"{self._place} lists too much under '{self._prefix}'")
        if not self._begun:
            start = _HASHES.search(self._text)
            if start is None:
                return self._waiting()
            self._begun = True
            del self._text[: start.end()]
        end = 0
        while match := _ITEM.match(self._text, end):
            end = match.end()
            text = decoding.utf8(match[1])
            if text.startswith(self._prefix):
                self._found.append(text)
            elif text > self._prefix:
                self._beyond = True
                return True
        del self._text[:end]
        return self._waiting()

    def _waiting(self) -> bool:
        """False: more has to come. What is not understood yet is looked at again each time."""
        if len(self._text) > _MAX_BETWEEN:
            raise Misbehaved(f"{self._place} sent a leaf '{self._prefix}' that is none")
        return False

    def hashes(self) -> list[str]:
        """The digests, ascending and distinct; Misbehaved when the answer was cut or is no leaf."""
        whole = self._begun and _END.fullmatch(self._text) is not None
        if not self._beyond and not whole:
            raise Misbehaved(f"{self._place} sent a leaf '{self._prefix}' that is none, or a part")
        return sorted(set(self._found))
