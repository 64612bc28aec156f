"""How a node and its peers stand, as lines for people and as one line for a monitor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from mesh.cli.columns import folded
from mesh.cli.words import calls_from_text, count_text, size_text, span_text
from mesh.errors import printable
from mesh.status import InboundStatus, PeerStatus, Status

_GOOD = ("in sync", "level")
_BAD = ("unreachable", "failing")

# What the first key of a file is called that has no name. A mesh with one key has no other.
_FIRST = "key-1"

# The states of a peer that say more than the verdict beside them.
_TELLING = ("building", "syncing", "unsure", "over limit", "self", "duplicate")

_INDENT = "  "
_COLOURS = {"good": "\x1b[32m", "bad": "\x1b[31m", "other": "\x1b[33m"}
_PLAIN = "\x1b[0m"

Paint = Callable[[str, str], str]


def no_colour(text: str, verdict: str) -> str:
    """For pipes: the text as it is."""
    del verdict
    return text


def in_colour(text: str, verdict: str) -> str:
    """For terminals: green is well, red does not work, yellow is everything between."""
    kind = "good" if verdict in _GOOD else "bad" if verdict in _BAD else "other"
    return f"{_COLOURS[kind]}{text}{_PLAIN}"


def lines(node: Status, paint: Paint = no_colour) -> list[str]:
    """Everything, in lines of at most 80 columns."""
    up = span_text(node.uptime_seconds)
    head = f"{printable(node.name)} ({node.node_id}), mesh {node.version}, {node.state}, up {up}"
    shown = folded(head, _INDENT)
    shown.append(f"{count_text(node.blobs, 'blob')}, {size_text(node.bytes)}")
    shown.append(f"root {node.root or 'is being built'}")
    if node.store.state != "ok":
        shown += folded(f"store: {node.store.state}: {printable(node.store.reason)}", _INDENT)
    shown += _wanted(node)
    shown += ["", *folded(_summary(node.peers))]
    for peer in node.peers:
        shown += ["", *_peer(peer, paint)]
    if node.inbound:
        shown += ["", "nodes that pull from this one and are not among its peers, by their words:"]
    for stranger in node.inbound:
        shown += ["", *_inbound(stranger)]
    return shown


def _summary(peers: list[PeerStatus]) -> str:
    if not peers:
        return "no peers"
    verdicts = Counter(peer.standing for peer in peers)
    each = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    return f"{count_text(len(peers), 'peer')}: {each}"


def _peer(peer: PeerStatus, paint: Paint) -> list[str]:
    only = "" if peer.direction == "both" else f" ({peer.direction} only)"
    name = printable(peer.name)
    place = peer.url.partition("://")[2]
    head = peer.url if name == place else f"{name}  {peer.url}"
    shown = folded(head + only, _INDENT)
    first, *rest = folded(_INDENT + _state(peer), _INDENT * 2)
    # The verdict stands at the beginning, where no line breaks.
    at = len(_INDENT) + len(peer.standing)
    shown += [_INDENT + paint(peer.standing, peer.standing) + first[at:], *rest]
    if peer.standing not in ("in sync", "ignored"):
        shown += _missing("here ", peer.missing_here, peer.missing_here_bytes,
                          peer.fetch_bytes_per_second, peer.fetch_seconds_left)  # fmt: skip
        shown += _missing("there", peer.missing_there, peer.missing_there_bytes,
                          peer.send_bytes_per_second, peer.send_seconds_left)  # fmt: skip
    if peer.last_error:
        shown += folded(_INDENT + _error(peer), _INDENT * 2)
    if peer.calls_from is not None:
        shown += folded(_INDENT + calls_from_text(peer.name, peer.calls_from), _INDENT * 2)
    if peer.key is not None and peer.key != _FIRST:
        shown += folded(f"{_INDENT}calls with the key {printable(peer.key)}", _INDENT * 2)
    return shown


def _state(peer: PeerStatus) -> str:
    """The verdict, for how long, and what the node does about it."""
    lasting = "" if peer.standing_seconds is None else f" for {span_text(peer.standing_seconds)}"
    said = [peer.standing + lasting]
    if peer.state in _TELLING:
        said.append(peer.state)
    if peer.failures:
        said.append(f"{count_text(peer.failures, 'round')} failed")
    if peer.standing not in (*_GOOD, "ignored"):
        ago = peer.last_success_seconds_ago
        said.append("never compared" if ago is None else f"last good round {span_text(ago)} ago")
    return "; ".join(said)


def _missing(
    where: str, blobs: int | None, size: int | None, rate: float, left: float | None
) -> list[str]:
    said = "?"
    if blobs is not None:
        said = f"{count_text(blobs, 'blob')}, " + ("? bytes" if size is None else size_text(size))
    if rate > 0:
        said += f", {size_text(rate)}/s, {'?' if left is None else span_text(left)} left"
    return folded(f"{_INDENT}missing {where}  {said}", _INDENT * 2)


def _error(peer: PeerStatus) -> str:
    """The last error, and whether it is over."""
    text = printable(peer.last_error or "")
    ago = peer.last_error_seconds_ago
    if peer.standing in _GOOD:
        return f"earlier{'' if ago is None else f', {span_text(ago)} ago'}: {text}"
    return f"error{'' if ago is None else f' for {span_text(ago)}'}: {text}"


def _inbound(node: InboundStatus) -> list[str]:
    sync = "in sync" if node.in_sync else "not in sync"
    lacks = "?" if node.missing is None else str(node.missing)
    seen = span_text(node.last_seen_seconds_ago)
    said = f"{sync}, {count_text(node.blobs, 'blob')}, lacks at least {lacks}, seen {seen} ago"
    if node.key is not None:
        said += f", with the key {printable(node.key)}"
    return [
        *folded(f"{printable(node.name)}  {node.node_id}", _INDENT),
        *folded(_INDENT + said, _INDENT * 2),
    ]


def _wanted(node: Status) -> list[str]:
    """The blobs that were found damaged and have not come back."""
    shown: list[str] = []
    for wanted in node.wanted:
        shown += [f"wanted since {wanted.since_at or '?'}:", _INDENT + wanted.digest]
        shown += folded(_INDENT + printable(wanted.reason), _INDENT * 2)
    if node.wanted_blobs > len(node.wanted):
        shown.append(f"wanted: {node.wanted_blobs - len(node.wanted)} more")
    return shown


# --- for a monitor -----------------------------------------------------------------------------

LEVEL, NOT_LEVEL, UNREACHABLE = 0, 1, 3
"""Exit codes of `--check`; 2 is a wrong use of the command."""


def check(node: Status) -> tuple[int, str]:
    """The exit code, and one line that says why."""
    code, said = _with_peers(node)
    if node.store.state == "ok":
        return code, said
    store = f"the store is {node.store.state}: {printable(node.store.reason)}"
    # What a store holds that is failing is not known: its directory may be gone.
    if node.store.state == "failing" and code == LEVEL:
        return NOT_LEVEL, store
    return code, f"{said}; {store}"


def _with_peers(node: Status) -> tuple[int, str]:
    peers = [peer for peer in node.peers if peer.standing != "ignored"]
    if not peers:
        return NOT_LEVEL, "not level: there is no peer, so nothing is anywhere else"
    wrong = [peer for peer in peers if peer.standing not in _GOOD]
    if not wrong:
        return LEVEL, f"level with {count_text(len(peers), 'peer')}"
    away = any(peer.standing == "unreachable" for peer in wrong)
    word = "a peer is unreachable" if away else "not level"
    each = "; ".join(f"{printable(peer.name)}: {_briefly(peer)}" for peer in wrong)
    return UNREACHABLE if away else NOT_LEVEL, f"{word}: {each}"


def _briefly(peer: PeerStatus) -> str:
    lasting = "" if peer.standing_seconds is None else f" for {span_text(peer.standing_seconds)}"
    if peer.standing in _BAD:
        return f"{peer.standing}{lasting} ({printable(peer.last_error or '?')})"
    here = "? blobs" if peer.missing_here is None else count_text(peer.missing_here, "blob")
    there = "?" if peer.missing_there is None else str(peer.missing_there)
    return f"{peer.standing}{lasting}, {here} missing here, {there} there"
