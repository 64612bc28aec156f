"""What happened to blobs, gathered until it is told: a line for each kind and peer, not each blob.

A thousand blobs that come within a second are one line, with their count, their bytes and the
rate. A large blob takes long enough to have a line of its own; only where several of them end
within the same time they share one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from mesh.core.digest import Digest
from mesh.core.words import count_text, size_text

# A rate over less than so many seconds says more about the clock than about the transfer.
_BRIEF = 0.1


class Way(StrEnum):
    """How blobs moved."""

    PUT = "put"
    FETCHED = "fetched"
    PUSHED = "pushed"
    SENT = "sent"


_WORDS = {
    Way.PUT: "put by clients",
    Way.FETCHED: "fetched from {}",
    Way.PUSHED: "pushed by other nodes",
    Way.SENT: "sent to {}",
}


class Line(NamedTuple):
    """What a person reads, and the same as facts for a program."""

    text: str
    facts: dict[str, str | int | float]


@dataclass(slots=True)
class _Moved:
    began: float
    ended: float
    blobs: int = 0
    size: int = 0
    digest: Digest | None = None


class Gathered:
    """What is not told yet. Peers go by their addresses until then, since names may change.

    As many entries as there are peers and keys, times the ways: nothing that a stranger says is one
    of them.
    """

    def __init__(self) -> None:
        self._moved: dict[tuple[Way, str, str, bool], _Moved] = {}
        self._announced: dict[str, tuple[int, int]] = {}
        self._healed = 0
        self._wanted = 0

    def moved(
        self, way: Way, peer: str, blobs: int, size: int, began: float, now: float,
        large: Digest | None = None, key: str = "",
    ) -> None:  # fmt: skip
        """So many blobs of `size` bytes in all, from `began` until `now`, both in seconds.

        `peer`: its address, "" for a client, and for somebody unknown. `large`: the name of a blob
        that moved alone. `key`: the name of the key that was shown, "" for none.
        """
        entry = self._moved.setdefault((way, peer, key, large is not None), _Moved(began, now))
        entry.began, entry.ended = min(entry.began, began), max(entry.ended, now)
        entry.blobs += blobs
        entry.size += size
        entry.digest = large

    def announced(self, peer: str, blobs: int, wanted: int) -> None:
        """So many blobs were offered to `peer`, which wanted some of them."""
        before = self._announced.get(peer, (0, 0))
        self._announced[peer] = before[0] + blobs, before[1] + wanted

    def healed(self, blobs: int, wanted: int) -> None:
        """So many blobs that had been lost are back; others are still wanted."""
        self._healed += blobs
        self._wanted = wanted

    def take(self, called: Callable[[str], str] = str) -> list[Line]:
        """The lines for all of it, which is forgotten then. `called`: the name for an address."""
        lines = [
            _moved(way, called(peer) if peer else "", key, large, entry)
            for (way, peer, key, large), entry in self._moved.items()
        ]
        lines += [_announced(called(peer), *counts) for peer, counts in self._announced.items()]
        if self._healed:
            lines.append(_healed(self._healed, self._wanted))
        self._moved, self._announced, self._healed = {}, {}, 0
        return lines


def _moved(way: Way, peer: str, key: str, large: bool, entry: _Moved) -> Line:
    facts: dict[str, str | int | float] = {"event": way.value}
    if peer:
        facts["peer"] = peer
    if key:
        facts["key"] = key
    if large and entry.blobs == 1 and entry.digest is not None:
        what = f"blob {entry.digest.hex()}"
        facts["digest"] = entry.digest.hex()
    else:
        what = count_text(entry.blobs, "large blob" if large else "blob")
    facts |= {"blobs": entry.blobs, "bytes": entry.size}
    who = _WORDS[way].format(peer) + (f" with the key {key}" if key else "")
    text = f"{who}: {what}, {size_text(entry.size)}"
    seconds = entry.ended - entry.began
    if seconds >= _BRIEF:
        rate = entry.size / seconds
        text += f" in {seconds:.1f} s, {size_text(rate)}/s"
        facts |= {"seconds": round(seconds, 3), "bytes_per_second": round(rate)}
    return Line(text, facts)


def _announced(peer: str, blobs: int, wanted: int) -> Line:
    text = f"announced to {peer}: {count_text(blobs, 'blob')}; it wanted {wanted}"
    return Line(text, {"event": "announced", "peer": peer, "blobs": blobs, "wanted": wanted})


def _healed(blobs: int, wanted: int) -> Line:
    text = f"healed: {count_text(blobs, 'blob')} came back; {wanted} still wanted"
    return Line(text, {"event": "healed", "blobs": blobs, "wanted": wanted})
