"""Hosts and ports: where a node listens, and where a peer is."""

from __future__ import annotations

import ipaddress
import re

from mesh.errors import ConfigError

DEFAULT_PORT = 7280

# Among the host_names: the node may be called anything.
ANY_NAME = "*"


def parse_listen(text: str) -> tuple[str, int]:
    """`host:port`, `:port` (loopback), `host`, `[::]:port`."""
    found = parse_place("127.0.0.1" + text if text[:1] in ("", ":") else text)
    if found is None:
        raise ConfigError(f"cannot listen on {text[:80]!a}; expected host:port")
    host, port = found
    return host, DEFAULT_PORT if port is None else port


# Strict on purpose: urllib's parser drops tabs and newlines, and what stands behind a bracket.
_PLACE = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9][A-Za-z0-9._-]{0,252}))(?::(\d{1,5}))?", re.ASCII
)


def parse_place(text: str) -> tuple[str, int | None] | None:
    """Host, without brackets, and port; None when `text` is no such thing."""
    match = _PLACE.fullmatch(text)
    if match is None or int(match[3] or 0) > 65535:
        return None
    if match[1] is None:
        return match[2].lower(), int(match[3]) if match[3] else None
    try:
        host = str(ipaddress.IPv6Address(match[1]))
    except ValueError:
        return None
    return host, int(match[3]) if match[3] else None


def is_host_name(text: str) -> bool:
    """Whether `text` is a name without a port, or stands for any name."""
    found = parse_place(text)
    return text == ANY_NAME or (found is not None and found[1] is None)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def join_host(host: str, port: int) -> str:
    """host:port as it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
