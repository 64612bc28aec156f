"""Everything that repairs Quart, quart-trio and Hypercorn; each file says what is broken where.

These files replace or subclass parts of the three that are not meant for it. So they were proven
on certain versions, and on no others: when one of these versions moves, tests/test_repairs.py
fails, until somebody has read what changed, has run tests/server on the new set, and has added it
here. The bounds in pyproject.toml admit these sets only.
"""

from __future__ import annotations

from mesh.server.repairs import connections, logs, requests

# Sets of versions on which tests/server passes, oldest first.
PROVEN: tuple[dict[str, str], ...] = (
    {"quart": "0.22.0", "quart-trio": "0.12.0", "hypercorn": "0.18.0", "h11": "0.16.0"},
    {"quart": "0.23.1", "quart-trio": "0.13.0", "hypercorn": "0.18.0", "h11": "0.16.0"},
)


def install() -> None:
    """Put the repairs in place, before a server is started; a second time changes nothing."""
    logs.hush()
    connections.install()
    requests.install()
