"""Numbers in words that people read."""

from __future__ import annotations

from mesh.core.words import count_text, size_text
from mesh.errors import printable

__all__ = ["count_text", "size_text", "span_text"]


def span_text(seconds: float) -> str:
    """A time span for people, in its two largest units: 12 s, 3 min 5 s, 2 h 1 min, 5 d 4 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    for size, small, unit, below in ((3600, 60, "min", "s"), (86_400, 3600, "h", "min")):
        if whole < size:
            return _units(whole // small, unit, whole % small // (small // 60), below)
    return _units(whole // 86_400, "d", whole % 86_400 // 3600, "h")


def _units(many: int, unit: str, few: int, below: str) -> str:
    return f"{many} {unit} {few} {below}" if few else f"{many} {unit}"


def calls_from_text(name: str, source: str) -> str:
    """What a person may do about a peer that does not answer and calls from another address."""
    place = f"[{source}]" if ":" in source else source
    return printable(
        f"its id calls from {source} now, which is not proven; if it has moved there: "
        f"mesh peers set-url {name} {place}:PORT"
    )
