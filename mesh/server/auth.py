"""Who may ask, and for what: keys and their roles; and what a browser must not be made to do."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable

from quart import Response, request
from werkzeug.routing import Rule

from mesh.config import Key
from mesh.decoding import from_base64
from mesh.errors import Undecodable
from mesh.server.answers import problem
from mesh.server.browsers import Names, foreign_host, foreign_page
from mesh.server.callers import Refusals, note_caller
from mesh.server.roles import Need, said

_BLOBSTASH = "/api/"


class _Ring:
    """Finds the key that a request shows, among any number of keys.

    The search goes by a keyed hash of what was shown, so how long it takes tells nothing about the
    keys: nobody outside knows which of them a guess would come near to.
    """

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(16)
        self._keys: tuple[Key, ...] = ()
        self._by_mark: dict[bytes, Key] = {}

    def find(self, keys: tuple[Key, ...], shown: bytes) -> Key | None:
        """The one of `keys` that was shown, or None."""
        if keys is not self._keys:
            marks = ((self._mark(key.secret.reveal()), key) for key in keys)
            self._keys, self._by_mark = keys, dict(marks)
        key = self._by_mark.get(self._mark(shown))
        good = key is not None and hmac.compare_digest(shown, key.secret.reveal())
        return key if good else None

    def _mark(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, digest_size=16, key=self._salt).digest()


def guard(
    names: Names, accepted: Callable[[], tuple[Key, ...]], need: Callable[[Rule | None, str], Need]
) -> Callable[[], Awaitable[Response | None]]:
    """A hook that lets a request pass (None) or answers in its place.

    `names`: how the node is called. `accepted`: the keys that count now, the same tuple for as long
    as they do. `need`: the roles that a route needs.
    """
    ring = _Ring()
    refusals = Refusals()

    async def check() -> Response | None:
        headers = request.headers  # once: `request` is looked up anew each time that it is named
        if keys := accepted():
            header = headers.get("Authorization")
            key = ring.find(keys, _shown(header or "", request.path))
            if key is None:
                if header is not None:
                    refusals.note(None)
                return _unauthorized(header)
            note_caller(key)
            wanted = need(request.url_rule, request.method)
            if wanted and wanted.isdisjoint(key.roles):
                refusals.note(key)
                return problem(
                    403, f"the key {key.name} may not do this: it needs the role {said(wanted)}"
                )
        elif refusal := foreign_host(headers, names):
            # With a key the Host does not matter: a page that got here by a name of its own has no
            # key to show.
            return refusal
        if refusal := foreign_page(request.method, request.path, request.scheme, headers):
            return refusal
        if "Transfer-Encoding" in headers and "Content-Length" in headers:
            # Two lengths are how requests are smuggled past proxies (RFC 9112, 6.3). Our own server
            # has refused them before (repairs/framing.py); this is for one that mounts a node.
            text = "a body has a Content-Length or a Transfer-Encoding, not both"
            return problem(400, text, {"Connection": "close"})
        if headers.get("Content-Encoding", "identity") != "identity":
            return problem(415, "send bodies as they are, without Content-Encoding")
        return None

    return check


def _shown(header: str, path: str) -> bytes:
    """The key in a header: Bearer for mesh's own paths, Basic with an empty user for BlobStash's.

    b"" for anything else, which no key is.
    """
    scheme, _, value = header.partition(" ")
    if not path.startswith(_BLOBSTASH):
        return value.strip().encode("utf-8", "replace") if scheme.lower() == "bearer" else b""
    if scheme.lower() != "basic":
        return b""
    try:
        user, _, password = from_base64(value.strip()).partition(b":")
    except Undecodable:
        return b""
    return password if not user else b""


def _unauthorized(header: str | None) -> Response:
    if request.path.startswith(_BLOBSTASH):
        # Exactly what a BlobStash server says.
        body = b'{"error":"Unauthorized"}'
        headers = {"WWW-Authenticate": 'Basic realm="BlobStash"'}
        return Response(body, 401, headers, content_type="application/json")
    if header is not None:
        text = "this node does not accept the key that was sent: it is not in its key file"
        if not header.lower().startswith("bearer "):
            text = "this node takes a key as `Authorization: Bearer KEY`, and it came otherwise"
    else:
        text = (
            "this node wants a key, and none was sent: commands take --key-file, nodes "
            "--peer-key-file, programs send `Authorization: Bearer KEY`"
        )
    return problem(401, text, {"WWW-Authenticate": 'Bearer realm="mesh"'})
