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

    `missing_here` and `missing_there` are missing still, now that the round is over;
    `baseline_there` was missing of a given set when the round began. `reasons`: one line for each
    reason why blobs could not be moved. `direction`: both, pull or push, as the peer is configured.
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
    reasons: tuple[str, ...] = ()
    direction: str = "both"
    missing_here: int = 0
    missing_there: int = 0
    baseline_there: int = 0
    seconds: float = 0.0
    error: str | None = None

    @property
    def level(self) -> bool:
        """Whether nothing is left to move, in the directions in which blobs are moved."""
        left_here = self.missing_here if self.direction != "push" else 0
        left_there = self.missing_there if self.direction != "pull" else 0
        return self.error is None and self.proven and not left_here and not left_there


class PeerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A peer in `status`. `state` is one of core.standing.State, or "paused".

    `standing` is one of core.verdict.Verdict: what the peer is to somebody who raises an alarm, and
    since when it is that. `missing_*` are null while they are not known; in the midst of a round
    they count what has been found so far. `root` and `blobs` are what the peer named last. The
    rates are those of the last ten seconds; the times that are left follow from them, and are null
    where they do not. What ends in `_at` or `_since` is a date in UTC (RFC 3339), what ends in
    `_seconds` or `_ago` is an age. For `calls_from` see ListedPeer. `key`: the name of the
    key that a node showed last which says this peer's id; null where none did.
    """

    name: str
    url: str
    direction: str = "both"
    state: str
    in_sync: bool
    standing: str = "unknown"
    standing_since: str | None = None
    standing_seconds: float | None = None
    node_id: str | None
    root: str | None
    blobs: int | None
    missing_here: int | None
    missing_there: int | None
    missing_here_bytes: int | None = None
    missing_there_bytes: int | None = None
    fetch_bytes_per_second: float = 0.0
    send_bytes_per_second: float = 0.0
    fetch_seconds_left: float | None = None
    send_seconds_left: float | None = None
    last_success_at: str | None = None
    last_success_seconds_ago: float | None
    last_error: str | None
    last_error_at: str | None = None
    last_error_seconds_ago: float | None = None
    failures: int
    rounds: int
    fetched_blobs: int
    fetched_bytes: int
    sent_blobs: int
    sent_bytes: int
    over_limit: int
    calls_from: str | None = None
    key: str | None = None


class ListedPeer(msgspec.Struct, frozen=True, kw_only=True):
    """A peer in `GET /v1/peers`.

    `origin`: configuration or added. `state` as in PeerStatus, or "removed" for one of the
    configuration that was removed. `moved_from`: the URL that it had before `set-url`, else null.
    `calls_from`: the address from which a node with this peer's id called, while the peer does not
    answer at `url`; unproven, and else null.
    """

    name: str
    url: str
    protocol: str
    direction: str
    origin: str
    state: str
    node_id: str | None = None
    moved_from: str | None = None
    last_error: str | None = None
    calls_from: str | None = None


class PeersAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/peers`, and the answer to an order about a peer: `said` tells what it did."""

    peers: list[ListedPeer]
    said: str = ""


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """What reading the configuration again did: `changed` now, `restart` waits for a restart."""

    changed: list[str]
    restart: list[str]

    @property
    def said(self) -> str:
        """All of it, in one line for people."""
        lines = ["; ".join(self.changed) or "nothing has changed"]
        if self.restart:
            lines.append(f"these take effect when the node is restarted: {', '.join(self.restart)}")
        return "; ".join(lines)


class InboundStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A node that asks us without being listed as a peer, as it described itself; unproven.

    `key`: the name of the key that it showed, which is proven; null where no key is wanted.
    `root` is null when it named none. `missing` is how many of our blobs it lacks at least, by the
    counts; null when that is not known.
    """

    name: str
    node_id: str
    root: str | None = None
    in_sync: bool
    blobs: int
    missing: int | None
    key: str | None = None
    last_seen_at: str | None = None
    last_seen_seconds_ago: float


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
    """A blob that was found damaged and is not back yet.

    `since` in seconds since 1970, `since_at` as a date in UTC (RFC 3339).
    """

    digest: str
    reason: str
    since: float
    since_at: str | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/status`. `root` is null while the tree is being built.

    `max_blob_bytes`: the largest blob that a client may put; null from a node that does not tell.
    `wanted` has the first hundred of the `wanted_blobs`. `inbound`: nodes that pull from this one
    without being its peers. `time` is when it was said, `started_at` when the node started: dates
    in UTC (RFC 3339).
    """

    node_id: str
    name: str
    version: str
    state: str
    root: str | None
    blobs: int
    bytes: int
    time: str | None = None
    started_at: str | None = None
    uptime_seconds: float
    max_blob_bytes: int | None = None
    wanted_blobs: int = 0
    wanted: list[WantedStatus] = []
    store: StoreStatus
    peers: list[PeerStatus]
    inbound: list[InboundStatus] = []


class BlobHolders(msgspec.Struct, frozen=True):
    """Whether a blob is on the node that was asked, and on how many of its peers it is."""

    digest: str
    here: bool
    peers: int


class SilentPeer(msgspec.Struct, frozen=True):
    """A peer that could not say which blobs it has, and why."""

    peer: str
    reason: str


class HoldersAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST /v1/holders`. `peers`: how many there are, the silent ones included."""

    blobs: list[BlobHolders]
    peers: int
    silent: list[SilentPeer]


class PlaceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /v1/blobs/DIGEST/place`: a blob's size in bytes, and where it is.

    `file`: below the data directory; `offset`: of the record there, null for a large blob, which
    has the file to itself, in `pieces` with a checksum each. `came`: when it came, RFC 3339 and to
    the minute; null when that is not known.
    """

    digest: str
    size: int
    file: str
    offset: int | None
    pieces: int | None
    came: str | None


class SnapshotAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A snapshot in the answer of `GET /v1/snapshots`; the fields are those of the blob."""

    digest: str
    time: str
    host: str
    path: str | None = None
    path_hex: str | None = None
    tag: str | None = None
    files: int
    bytes: int
    manifest: str


class SnapshotsAnswer(msgspec.Struct, frozen=True):
    """A page of `GET /v1/snapshots`; `next` is the `after` of the next page, null at the end."""

    snapshots: list[SnapshotAnswer]
    next: str | None


class WaitReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one peer stands in a `wait`; `level` is final.

    `direction`: both, pull or push: only what moves in it was looked at. `counts` is false for an
    address that turned out to be this node itself, or a peer that is listed twice.
    """

    peer: str
    level: bool
    direction: str = "both"
    counts: bool = True
    missing_here: int | None = None
    missing_there: int | None = None
    error: str | None = None


class WaitAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `POST /v1/wait`.

    `level`: all that was asked for is level. `said`: how far that reaches, in one line for people.
    `beyond`: one line for each node behind the peers that is not level, or that cannot be seen.
    """

    level: bool
    said: str
    peers: list[WaitReport]
    beyond: list[str] = []


class DiffEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a comparison: how many blobs only this node has, and only the peer.

    `proven`: these, and no others, are what the two sets differ by. `reason`: why it is not.
    """

    peer: str
    only_here: int
    only_there: int
    proven: bool
    reason: str | None = None


class DiffLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of `GET /v1/peers/NAME/diff`: digests that one side has alone; or the end."""

    here: list[str] = []
    there: list[str] = []
    end: DiffEnd | None = None


class ErrorRow(msgspec.Struct, frozen=True, kw_only=True):
    """Something that keeps failing.

    `digest` is null where all rounds with a peer fail, `peer` where a blob was lost here and has
    not come back. `missing`: where the blob is missing, here or there. `tries`: how often it has
    failed, null where that is not counted. `first_*`: since when.
    """

    digest: str | None
    peer: str | None
    missing: str | None
    reason: str
    tries: int | None
    first_at: str | None
    first_seconds_ago: float | None
    last_at: str | None = None
    last_seconds_ago: float | None = None


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/errors`. `more`: how many were too many to be kept or told."""

    errors: list[ErrorRow]
    more: int
