"""Numbers in words that people read."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size_text(size: float) -> str:
    """Bytes for people: 1.5 MiB."""
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"


def count_text(count: int, what: str) -> str:
    """A number of things: 1 blob, 2 blobs."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


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
