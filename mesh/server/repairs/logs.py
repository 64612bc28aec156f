"""What trio's and asyncio's accept loops, and asyncio's streams, say of connections that broke.

Hypercorn 0.18 leaves accepting to trio and asyncio. Both log a traceback for every accept that
fails when no descriptors are left, trio ten times a second (tests/e2e/test_descriptors.py shows
it). asyncio also logs one for a connection that broke, and with Python 3.11 one for a connection
that a stop has cancelled.
"""

from __future__ import annotations

import logging
import time

_QUIET_SECONDS = 60.0


def hush() -> None:
    """Make a failing accept a line now and then instead of a traceback each time.

    And a connection that a stop cuts, nothing.
    """
    for name in ("trio.serve_listeners", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Hush) for each in logger.filters):
            logger.addFilter(_Hush())


class _Hush(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._said = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ConnectionError | TimeoutError):
            # A connection that broke, or that the kernel gave up: Hypercorn has closed it.
            return False
        if type(error).__name__ == "CancelledError":
            # Python 3.11's streams report a connection whose task a stop has cancelled.
            return False
        if "accept" not in record.getMessage():
            return True
        now = time.monotonic()
        if now - self._said < _QUIET_SECONDS:
            return False
        self._said = now
        record.msg, record.args = "no descriptors are left: new connections wait", ()
        record.exc_info = record.exc_text = None
        return True
