"""httpx without what a client command never uses: most of the time that it takes to load.

httpcore 1.0 loads trio whenever that is installed, also for a program that runs on asyncio, and h2
(HTTP/2) also for one that speaks HTTP/1.1 alone. httpx 0.28 loads its own command line, with click,
rich and pygments, in the same way. All three expect an ImportError where the module is not
installed, and do without it (tests/cli/test_loading.py).
"""

from __future__ import annotations

import importlib
import sys

_UNUSED = ("trio", "h2", "httpx._main")


def load_lean() -> None:
    """Load httpx and httpcore as if trio, h2 and httpx's command line were not installed.

    For a process that runs on asyncio alone, and speaks HTTP/1.1 alone: httpcore does without trio
    and h2 from then on. Nothing is hidden of what is loaded already.
    """
    hidden = [name for name in _UNUSED if name not in sys.modules]
    for name in hidden:
        # None is what Python's import system takes as "there is no such module".
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        for name in ("httpx", "httpcore"):
            importlib.import_module(name)
    finally:
        for name in hidden:
            del sys.modules[name]
