"""Who may ask: keys, compared in constant time, and what a browser must not be made to do."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Sequence

from quart import Response, request

from mesh.config import Secret, is_loopback
from mesh.decoding import from_base64
from mesh.errors import Undecodable
from mesh.server.answers import problem

_BLOBSTASH = "/api/"


def guard(
    listen: str, accepted: Callable[[], Sequence[Secret]]
) -> Callable[[], Awaitable[Response | None]]:
    """A hook that lets a request pass (None) or answers in its place.

    `accepted`: the keys that count now.
    """
    local = is_loopback(listen)

    async def check() -> Response | None:
        if keys := accepted():
            if not _known(keys):
                return _unauthorized()
        elif local and (refusal := _browser()):
            return refusal
        if "Transfer-Encoding" in request.headers and "Content-Length" in request.headers:
            # Two lengths are how requests are smuggled past proxies (RFC 9112, 6.3).
            return problem(400, "a body has a Content-Length or a Transfer-Encoding, not both")
        if request.headers.get("Content-Encoding", "identity") != "identity":
            return problem(415, "send bodies as they are, without Content-Encoding")
        return None

    return check


def _known(keys: Sequence[Secret]) -> bool:
    """Whether the request shows one of the keys; every key is looked at, whichever it is."""
    shown = _shown(request.headers.get("Authorization", ""))
    good = False
    for key in keys:
        good |= hmac.compare_digest(shown, key.reveal())
    return good


def _shown(header: str) -> bytes:
    """The key in a header: Bearer for mesh's own paths, Basic with an empty user for BlobStash's.

    b"" for anything else, which no key is.
    """
    scheme, _, value = header.partition(" ")
    if not request.path.startswith(_BLOBSTASH):
        return value.strip().encode("utf-8", "replace") if scheme.lower() == "bearer" else b""
    if scheme.lower() != "basic":
        return b""
    try:
        user, _, password = from_base64(value.strip()).partition(b":")
    except Undecodable:
        return b""
    return password if not user else b""


def _unauthorized() -> Response:
    if request.path.startswith(_BLOBSTASH):
        # Exactly what a BlobStash server says.
        body = b'{"error":"Unauthorized"}'
        headers = {"WWW-Authenticate": 'Basic realm="BlobStash"'}
        return Response(body, 401, headers, content_type="application/json")
    how = "(clients: --key-file; nodes: --peer-key-file)"
    if "Authorization" in request.headers:
        text = f"this node does not accept the key that was sent {how}"
    else:
        text = f"this node wants a key, and none was sent {how}"
    return problem(401, text, {"WWW-Authenticate": 'Bearer realm="mesh"'})


def _browser() -> Response | None:
    """Refuse what a web page makes a browser send: docs/protocol.md, "Browsers".

    A page from anywhere can reach a port on loopback, by its address or by a name that resolves to
    it. So a foreign Origin may change nothing, and a Host that is a name is refused. A Host that is
    an address is admitted, since no page can choose it: a browser writes the address that it
    connects to, such as that of a tunnel or of a port that is passed on.
    """
    host = request.headers.get("Host", "").lower()
    name = _host_name(host)
    if name and not _is_address(name) and not is_loopback(name):
        return problem(403, f"this node is not called {name[:80]!a}; use its address")
    # BlobStash's trigger changes something by GET.
    if request.method in ("GET", "HEAD") and request.path != "/api/sync/_trigger":
        return None
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    own = f"{request.scheme}://{host}"
    if site not in ("none", "same-origin") or (origin is not None and origin.lower() != own):
        return problem(403, "a page of another origin may not change anything here")
    return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _host_name(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
