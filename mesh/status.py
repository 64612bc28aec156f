"""What a node says of itself to people and programs: the answers of its control requests.

Plain values, so that a client command reads them without loading a node.
"""

from __future__ import annotations

import msgspec

from mesh.core.scrub import Pass


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The store in `status`: ok, full, read-only or failing, and why. Sizes in bytes.

    `partial_*`: large blobs of which a part has come.
    """

    state: str
    reason: str
    free_bytes: int | None
    reserve_bytes: int | None
    partial_blobs: int
    partial_bytes: int


class RoundStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a round did, as `sync` prints it. Counts of blobs, sizes in bytes.

    `level`: the sides were equal at its end. `reasons`: what stood in the way, a sentence each.
    """

    peer: str
    state: str
    proven: bool = False
    fetched: int = 0
    fetched_bytes: int = 0
    sent: int = 0
    sent_bytes: int = 0
    failed: int = 0
    over_limit: int = 0
    refusal: str = ""
    level: bool = False
    reasons: tuple[str, ...] = ()
    missing_here: int = 0
    missing_there: int = 0
    baseline_there: int = 0
    seconds: float = 0.0
    error: str | None = None

    @property
    def useless(self) -> bool:
        """Whether nothing could be moved though the sides differ, and there is a reason."""
        return not self.level and not self.fetched and not self.sent and bool(self.reasons)


class PeerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A peer in `status`. `missing_*` are null until a round has compared."""

    name: str
    url: str
    state: str
    in_sync: bool
    node_id: str | None
    root: str | None
    blobs: int | None
    missing_here: int | None
    missing_there: int | None
    last_success_seconds_ago: float | None
    last_error: str | None
    failures: int
    rounds: int
    fetched_blobs: int
    fetched_bytes: int
    sent_blobs: int
    sent_bytes: int
    over_limit: int


class ScrubStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/scrub`. `state`: starting, waiting, running or paused; sizes in bytes.

    `now` is the pass under way, or the last one; `next_seconds` is null unless it waits.
    """

    state: str
    passes: int
    blobs: int
    bytes: int
    bytes_per_second: float
    next_seconds: float | None
    now: Pass
    before: Pass | None


class WantedStatus(msgspec.Struct, frozen=True):
    """A blob that was found damaged and is not back yet; `since` in seconds since 1970."""

    digest: str
    reason: str
    since: float


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/status`. `root` is null while the tree is being built.

    `wanted` has the first hundred of the `wanted_blobs`.
    """

    node_id: str
    name: str
    version: str
    state: str
    root: str | None
    blobs: int
    bytes: int
    uptime_seconds: float
    wanted_blobs: int = 0
    wanted: list[WantedStatus] = []
    store: StoreStatus
    peers: list[PeerStatus]


class WaitReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one peer stands in a `wait`; `level` is final."""

    peer: str
    level: bool
    missing_here: int | None = None
    missing_there: int | None = None
    error: str | None = None
