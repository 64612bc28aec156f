"""Who sent the request at hand, and what the log tells of that: names of keys, never the keys."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
from quart import g, request

from mesh.config import Key
from mesh.core.holder import CLIENT, Client

log = logging.getLogger("mesh")

# A program with a wrong key asks again and again, and so does whoever guesses. One line in so many
# seconds is 8,640 a day at most.
_QUIET = 10.0


def note_caller(key: Key) -> None:
    """The request at hand has shown this key."""
    g.key = key


def caller() -> Key | None:
    """The key that the request at hand has shown; None where none is asked for."""
    key: Key | None = g.get("key")
    return key


def client() -> Client:
    """The client that sent the request at hand."""
    key = caller()
    return Client(key.name) if key is not None else CLIENT


def still_accepted(accepted: Callable[[], tuple[Key, ...]]) -> Callable[[], bool]:
    """Tells, while an answer lasts, whether the key of the request at hand is still one of ours.

    One whose roles have changed is another key. `accepted`: the keys that count now.
    """
    key = caller()

    def still() -> bool:
        keys = accepted()
        return not keys or key in keys

    return still


def order(what: str, *, control: bool = False) -> None:
    """Tell that the request at hand has had the node do something.

    `control`: it proved to have the control key.
    """
    key = caller()
    keys = ["the control key"] if control else []
    keys += [f"the key {key.name}"] if key is not None else []
    facts = {"event": "order", "order": what, "control": control}
    if key is not None:
        facts["key"] = key.name
    log.info(
        "order %s, given with %s", what, " and ".join(keys) or "no key", extra={"facts": facts}
    )


class Refusals:
    """Tells who was refused, one line in some seconds, and how many others there were."""

    def __init__(self) -> None:
        self._quiet_until = float("-inf")
        self._untold = 0

    def note(self, key: Key | None) -> None:
        """The request at hand was refused: `key` does not open it; None: a key that is none."""
        now = anyio.current_time()
        if now < self._quiet_until:
            self._untold += 1
            return
        who = "a key that is not accepted" if key is None else f"the key {key.name}"
        text = (
            f"refused: {request.method} {request.path[:80]} from {request.remote_addr}, with {who}"
        )
        facts: dict[str, str | int] = {"event": "refused", "address": request.remote_addr or ""}
        if key is not None:
            facts["key"] = key.name
        if self._untold:
            text += f"; and {self._untold} other requests since the last such line"
            facts["untold"] = self._untold
        log.warning("%s", text, extra={"facts": facts})
        self._quiet_until, self._untold = now + _QUIET, 0
