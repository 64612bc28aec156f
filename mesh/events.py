"""What a node tells of what happens: to a program that holds it, and as `GET /v1/events`.

Plain values. Nobody may rely on having been told everything: see `Dropped`.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """The field `event` of the JSON says which of them it is."""


class Began(_Event, frozen=True, kw_only=True, tag="began"):
    """The first event: what happens from now on is told. `root` is null while it is computed."""

    node_id: str
    name: str
    root: str | None
    blobs: int


class Stored(_Event, frozen=True, kw_only=True, tag="stored"):
    """A blob is new here, and durable. `size` in bytes.

    `bringer`: "client"; "peer" when it was fetched from a peer that this node lists; "push" when
    another node sent it, whichever that was.
    """

    digest: str
    size: int
    bringer: str


class Damaged(_Event, frozen=True, kw_only=True, tag="damaged"):
    """A blob was found to be other bytes than its name says, and is not here any more."""

    digest: str
    reason: str


class Healed(_Event, frozen=True, kw_only=True, tag="healed"):
    """A blob that was told of as damaged is back."""

    digest: str


class PeerEvent(_Event, frozen=True, kw_only=True, tag="peer"):
    """A peer stands otherwise than before. `peer`: its name; `url`: its address.

    `state`: "in sync", "not in sync", "failing" (`why` says what fails) or "paused".
    """

    peer: str
    url: str
    state: str
    why: str | None = None


class RoundEvent(_Event, frozen=True, kw_only=True, tag="round"):
    """A round with a peer is over. Counts of blobs, sizes in bytes; missing still, after it."""

    peer: str
    seconds: float
    fetched: int
    fetched_bytes: int
    sent: int
    sent_bytes: int
    missing_here: int
    missing_there: int
    error: str | None = None


class Dropped(_Event, frozen=True, kw_only=True, tag="dropped"):
    """So many events were not told, since whoever listens was too slow for them."""

    count: int


Event: TypeAlias = Began | Stored | Damaged | Healed | PeerEvent | RoundEvent | Dropped

KINDS = frozenset({"began", "stored", "damaged", "healed", "peer", "round", "dropped"})
