"""Hypercorn's stop: connections that are still open at its deadline are cut.

Hypercorn 0.18 waits for what it has handed to the system, shielded from cancellation, also beyond
its own `graceful_timeout`. tests/server/test_connections.py shows it with a client that does not
read.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

import anyio


async def cut_at_last(port: int, stop: anyio.Event, served: anyio.Event, grace: float) -> None:
    """When a stop has lasted for `grace` seconds, end the connections that are still open.

    Without it one client that does not read holds up a stop for as long as the kernel waits for it.
    """
    await stop.wait()
    with anyio.move_on_after(grace):
        await served.wait()
        return
    for entry in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # it has been closed meanwhile, or is no connection
            if stat.S_ISSOCK(os.fstat(int(entry)).st_mode):
                with socket.socket(fileno=os.dup(int(entry))) as one:
                    if one.family != socket.AF_UNIX and one.getsockname()[1] == port:
                        one.shutdown(socket.SHUT_RDWR)
