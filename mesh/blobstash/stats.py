"""SyncStats, in the JSON form of BlobStash's `sync` package."""

from __future__ import annotations

import msgspec


class SyncStats(msgspec.Struct, kw_only=True, rename={
    "downloaded": "blobs_downloaded",
    "uploaded": "blobs_uploaded",
    "duration": "sync_duration",
    "already_synced": "already_in_sync",
    "one_way": "one_way_sync",
}):  # fmt: skip
    """What a sync moved. Counts of blobs, sizes in bytes; `duration` as Go writes one.

    Downloaded is what came here and uploaded what went there; BlobStash has them the other way
    round.
    """

    downloaded: int = 0
    downloaded_size: int = 0
    uploaded: int = 0
    uploaded_size: int = 0
    duration: str = ""
    already_synced: bool = False
    one_way: bool = False


def go_duration(seconds: float) -> str:
    """A duration as Go's time.Duration prints it: 1h2m3.5s, 250ms, 12.5µs, 0s.

    Source: the documentation of Go's package time, `Duration.String`.
    """
    nanoseconds = round(seconds * 1e9)
    if not nanoseconds:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if nanoseconds < 1000 * size:
            return _decimal(nanoseconds, size) + unit
    whole, rest = divmod(nanoseconds, 60 * 10**9)
    text = _decimal(rest, 10**9) + "s"
    if whole:
        text = f"{whole % 60}m{text}"
    if whole >= 60:
        text = f"{whole // 60}h{text}"
    return text


def _decimal(value: int, unit: int) -> str:
    """value / unit without trailing zeros."""
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    return f"{whole}.{rest:0{len(str(unit)) - 1}d}".rstrip("0")
