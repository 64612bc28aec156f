"""Tests that run on both loops."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

LOOPS = ("asyncio", "trio")


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The asynchronous test on asyncio and on trio, each as a test of its own."""

    @functools.wraps(test)
    def run(*args: Any, loop: str, **fixtures: Any) -> None:
        anyio.run(functools.partial(test, *args, **fixtures), backend=loop)

    signature = inspect.signature(test)
    loop = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), loop]
    )
    return pytest.mark.parametrize("loop", LOOPS)(run)
