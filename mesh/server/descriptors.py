"""Descriptors: what connections and files are made of. Load is shed before there are none left.

Hypercorn has no cap on connections. So requests are declined while few descriptors are left, and
idle connections go after some seconds in any case (server/serve.py).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
from quart import Response

from mesh.errors import ConfigError
from mesh.server.answers import problem

# What the process asks the system for, if it may: the usual 1,024 are few for 256 open segments
# (store/disk.py), 200 connections to peers and all that come in.
_WANTED = 65_536

# What a node has open that is idle, some 30, and as many for files and connections.
_LEAST = 64

# Kept for files: the segments that two readers keep open, and some more. Of a low limit a quarter.
_SPARE = 300

# Counting them reads a directory of the system's: a tenth of a millisecond for a hundred.
_COUNT_EVERY = 0.05

_RETRY_SECONDS = "2"


def raise_limit() -> None:
    """Take as many descriptors as the system lets this process have, up to what is of use.

    ConfigError when that is too few for a node: it would fail somewhere, sooner or later.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # a system that says no goes on with what there is
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _LEAST:
        raise ConfigError(
            f"cannot start: this process may open {soft} files and connections (`ulimit -n`); "
            f"a node needs {_LEAST} at least, and some thousand are good"
        )


class Descriptors:
    """How many this process has open, and whether few are left."""

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = _WANTED if soft == resource.RLIM_INFINITY else soft
        self._most -= min(_SPARE, self._most // 4)
        self._counted = float("-inf")
        self._short = False

    def short(self) -> bool:
        """Whether more connections would take those that files need."""
        now = anyio.current_time()
        if now - self._counted >= _COUNT_EVERY:
            self._counted = now
            self._short = _open_now(self._most) >= self._most
        return self._short


def _open_now(otherwise: int) -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except FileNotFoundError:
        return 0  # not Linux: nobody counts
    except OSError:
        return otherwise  # not even one for this


def spared(descriptors: Descriptors) -> Callable[[], Awaitable[Response | None]]:
    """A hook that declines requests while descriptors are short, and ends their connections."""

    async def check() -> Response | None:
        if not descriptors.short():
            return None
        headers = {"Retry-After": _RETRY_SECONDS, "Connection": "close"}
        return problem(503, "too many connections; try again in a moment", headers)

    return check
