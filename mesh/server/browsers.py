"""What a browser must not be made to do: docs/protocol.md, "Browsers".

A page from anywhere can make a browser send a request to a node that the browser can reach, by its
address or by a name that the page's owner lets resolve to that address. The page cannot choose what
its browser says of it: the Host, the Origin, and Sec-Fetch-Site.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from quart import Response
from werkzeug.datastructures import Headers

from mesh.config import ANY_NAME, is_loopback
from mesh.server.answers import problem

# BlobStash's trigger changes something by GET.
_TRIGGER = "/api/sync/_trigger"

# What a Host is shown of in an error.
_SHOWN = 80


class Names:
    """The names under which a node is called, for the Host of its requests.

    An address is one of them, whatever address it is: no page can choose it, since a browser writes
    the address that it connects to, such as that of a tunnel or of a port that is passed on.
    """

    def __init__(self, listen: str, more: Iterable[str]) -> None:
        """`listen`: the host that the node listens on; `more`: names from its configuration."""
        own = {listen, "localhost", socket.gethostname(), *more}
        self._own = frozenset(name.lower().rstrip(".") for name in own)

    def include(self, host: str) -> bool:
        """Whether a Host header, with or without a port, names this node."""
        if ANY_NAME in self._own:
            return True
        name = _name_of(host.lower())
        return not name or name.rstrip(".") in self._own or _is_address(name) or is_loopback(name)


def foreign_host(headers: Headers, names: Names) -> Response | None:
    """An answer to a request for another host: what it asks for may be meant for that host."""
    host = headers.get("Host", "")
    if names.include(host):
        return None
    name = _name_of(host)[:_SHOWN]
    return problem(
        403, f"this node is not called {name!a}; use its address, or add the name to host_names"
    )


def foreign_page(method: str, path: str, scheme: str, headers: Headers) -> Response | None:
    """An answer to a request that a page of another origin has made, and that changes something."""
    if method in ("GET", "HEAD") and path != _TRIGGER:
        return None
    site = headers.get("Sec-Fetch-Site", "none")
    origin = headers.get("Origin")
    own = f"{scheme}://{headers.get('Host', '').lower()}"
    if site not in ("none", "same-origin") or (origin is not None and origin.lower() != own):
        return problem(403, "a page of another origin may not change anything here")
    return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
