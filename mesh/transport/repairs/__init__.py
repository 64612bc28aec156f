"""Everything that repairs httpx, httpcore and h11; each file says what is broken where.

When one of these versions moves, tests/test_repairs.py fails, until somebody has read what changed,
has run tests/transport and tests/e2e on the new set, and has added it here.
"""

from __future__ import annotations

# Sets of versions on which tests/transport and tests/e2e pass, oldest first.
PROVEN: tuple[dict[str, str], ...] = ({"httpx": "0.28.1", "httpcore": "1.0.9", "h11": "0.16.0"},)
