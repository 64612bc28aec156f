"""`mesh status` fits 80 columns, whatever there is to say, and says every number."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.cli.columns import WIDTH, columns, fitting, folded
from mesh.cli.standings import LEVEL, NOT_LEVEL, UNREACHABLE, check, in_colour, lines
from mesh.cli.words import size_text, span_text
from mesh.status import InboundStatus, PeerStatus, Status, StoreStatus, WantedStatus
from tests.oracles import quick

COLOUR = re.compile(r"\x1b\[\d+m")

# Letters, wide ones, such that combine, spaces, and what moves a cursor.
names = st.text(st.sampled_from("abz0-. \x1b\n東é\u0301🐟"), min_size=1, max_size=64)
hosts = st.one_of(
    st.sampled_from(["[2001:db8:85a3:8d3:1319:8a2e:370:7348]:65535", "10.0.0.2:7280"]),
    st.text("abc.-", min_size=1, max_size=253).map(lambda host: f"{host}:7280"),
)
counts = st.none() | st.integers(0, 2**63)
ages = st.floats(0, 10**10)
rates = st.floats(0, 10**13)
verdicts = st.sampled_from(
    ["in sync", "level", "not level", "unreachable", "failing", "unknown", "paused", "ignored"]
)
states = st.sampled_from(
    ["new", "building", "syncing", "idle", "unsure", "over limit", "failing", "self", "duplicate"]
)
hex_digits = st.text("0123456789abcdef", min_size=64, max_size=64)
peers = st.builds(
    PeerStatus,
    name=names,
    url=hosts.map(lambda host: f"https://{host}"),
    direction=st.sampled_from(["both", "pull", "push"]),
    state=states,
    in_sync=st.booleans(),
    standing=verdicts,
    standing_seconds=st.none() | ages,
    node_id=st.none(),
    root=st.none(),
    blobs=counts,
    missing_here=counts,
    missing_there=counts,
    missing_here_bytes=counts,
    missing_there_bytes=counts,
    fetch_bytes_per_second=rates,
    send_bytes_per_second=rates,
    fetch_seconds_left=st.none() | ages,
    send_seconds_left=st.none() | ages,
    last_success_seconds_ago=st.none() | ages,
    last_error=st.none() | st.text(max_size=400),
    last_error_seconds_ago=st.none() | ages,
    failures=st.integers(0, 2**31),
    rounds=st.just(0),
    fetched_blobs=st.just(0),
    fetched_bytes=st.just(0),
    sent_blobs=st.just(0),
    sent_bytes=st.just(0),
    over_limit=st.just(0),
    calls_from=st.none() | hosts,
    key=st.none() | names,
)
strangers = st.builds(
    InboundStatus,
    name=names,
    node_id=st.just("ab" * 16),
    in_sync=st.booleans(),
    blobs=st.integers(0, 2**63),
    missing=counts,
    key=st.none() | names,
    last_seen_seconds_ago=ages,
)
statuses = st.builds(
    Status,
    node_id=st.just("01" * 16),
    name=names,
    version=st.just("10.20.30"),
    state=st.sampled_from(["opening", "building", "ready"]),
    root=st.none() | hex_digits,
    blobs=st.integers(0, 2**63),
    bytes=st.integers(0, 2**63),
    uptime_seconds=ages,
    wanted_blobs=st.integers(0, 2**31),
    wanted=st.lists(
        st.builds(WantedStatus, hex_digits, st.text(max_size=200), ages, st.none()), max_size=2
    ),
    store=st.builds(
        StoreStatus,
        state=st.sampled_from(["ok", "full"]),
        reason=st.text(max_size=200),
        free_bytes=st.none(),
        reserve_bytes=st.none(),
        partial_blobs=st.just(0),
        partial_bytes=st.just(0),
    ),
    peers=st.lists(peers, max_size=3),
    inbound=st.lists(strangers, max_size=2),
)


def joined(shown: list[str]) -> str:
    """The text without the breaks of its lines."""
    return re.sub(r"\s+", "", "".join(shown))


def tight(text: str) -> str:
    return text.replace(" ", "")


@quick
@given(statuses)
def test_no_line_is_longer_than_80_columns_and_every_number_is_there(node: Status) -> None:
    shown = lines(node)
    assert all(columns(line) <= WIDTH for line in shown), shown
    assert all(line.isprintable() for line in shown)
    text = joined(shown)
    assert tight(f"{node.blobs} blob") in text
    assert tight(size_text(node.bytes)) in text
    assert f"root {node.root or 'is being built'}" in shown
    for peer in node.peers:
        assert peer.url in text
        if peer.failures:
            assert tight(f"{peer.failures} round") in text
        if peer.standing in ("in sync", "ignored"):
            continue
        for count, size, rate in (
            (peer.missing_here, peer.missing_here_bytes, peer.fetch_bytes_per_second),
            (peer.missing_there, peer.missing_there_bytes, peer.send_bytes_per_second),
        ):
            blobs = "?" if count is None else str(count)
            bytes_ = "?bytes" if size is None else tight(size_text(size))
            assert re.search(rf"missing(here|there){re.escape(blobs)}", text)
            assert count is None or re.search(rf"{count}blobs?,{re.escape(bytes_)}", text)
            assert not rate or tight(f"{size_text(rate)}/s") in text
    for stranger in node.inbound:
        assert tight(f"{stranger.blobs} blob") in text
        assert stranger.node_id in text


@quick
@given(statuses)
def test_colours_change_nothing_but_the_colour(node: Status) -> None:
    plain = lines(node)
    assert [COLOUR.sub("", line) for line in lines(node, in_colour)] == plain
    assert not any(COLOUR.search(line) for line in plain)


@quick
@given(st.text(max_size=300), st.sampled_from(["", "  ", "    "]), st.integers(10, 90))
def test_folding_loses_nothing(text: str, indent: str, width: int) -> None:
    text = "".join(c for c in text if c.isprintable())
    shown = folded(text, indent, width)
    assert all(columns(line) <= width for line in shown)
    assert "".join(shown).replace(" ", "") == text.replace(" ", "")
    assert all(line.startswith(indent) for line in shown[1:] if line)


@quick
@given(
    st.lists(st.text("ab ", max_size=WIDTH), max_size=30), st.integers(1, 30), st.integers(1, 200)
)
def test_what_is_drawn_fits_the_terminal(lines: list[str], rows: int, width: int) -> None:
    shown = fitting(lines, rows, width)
    taken = [max(1, len(folded(line.replace(" ", "x"), "", width))) for line in lines]
    assert shown == lines[: len(shown)]
    assert sum(taken[: len(shown)]) <= rows
    assert len(shown) == len(lines) or sum(taken[: len(shown) + 1]) > rows


@pytest.mark.parametrize(
    ("text", "wide"), [("abc", 3), ("東京", 4), ("e\u0301", 1), ("🐟", 2), ("é", 1), ("", 0)]
)
def test_wide_characters_take_two_columns(text: str, wide: int) -> None:
    assert columns(text) == wide


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3599, "59 min 59 s"),
        (3600, "1 h"), (7290, "2 h 1 min"), (86_399, "23 h 59 min"), (86_400, "1 d"),
        (90_000, "1 d 1 h"), (10**8, "1157 d 9 h"),
    ],
)  # fmt: skip
def test_a_span_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert span_text(seconds) == text


# --- for people ----------------------------------------------------------------------------------


def a_peer(**facts: Any) -> PeerStatus:
    standard: dict[str, Any] = {
        "name": "b", "url": "http://b:7280", "state": "idle", "in_sync": False, "node_id": None,
        "root": None, "blobs": None, "missing_here": None, "missing_there": None,
        "last_success_seconds_ago": None, "last_error": None, "failures": 0, "rounds": 0,
        "fetched_blobs": 0, "fetched_bytes": 0, "sent_blobs": 0, "sent_bytes": 0, "over_limit": 0,
    }  # fmt: skip
    return PeerStatus(**{**standard, **facts})


def a_node(*peers: PeerStatus) -> Status:
    return Status(
        node_id="01" * 16, name="a", version="1", state="ready", root="f" * 64, blobs=1, bytes=1,
        uptime_seconds=7290.0, peers=list(peers),
        store=StoreStatus(
            state="ok", reason="", free_bytes=None, reserve_bytes=None,
            partial_blobs=0, partial_bytes=0,
        ),
    )  # fmt: skip


IN_SYNC = a_peer(standing="in sync", in_sync=True, standing_seconds=7290.0)
APART = a_peer(
    name="c", url="http://c:7280", standing="not level", standing_seconds=65.0, state="syncing",
    missing_here=3, missing_here_bytes=3 * 2**20, missing_there=0, missing_there_bytes=0,
    fetch_bytes_per_second=2**20, fetch_seconds_left=3.0, last_success_seconds_ago=120.0,
)  # fmt: skip
AWAY = a_peer(
    name="d", url="http://d:7280", standing="unreachable", standing_seconds=300.0, state="failing",
    last_error="cannot reach d:7280: Connection refused", last_error_seconds_ago=300.0, failures=4,
)  # fmt: skip
REFUSED = a_peer(standing="failing", state="failing", last_error="d:7280 wants a key", failures=1)


def test_what_people_see() -> None:
    assert lines(a_node(IN_SYNC, APART, AWAY))[3:] == [
        "",
        "3 peers: 1 in sync, 1 not level, 1 unreachable",
        "",
        "b  http://b:7280",
        "  in sync for 2 h 1 min",
        "",
        "c  http://c:7280",
        "  not level for 1 min 5 s; syncing; last good round 2 min ago",
        "  missing here   3 blobs, 3.0 MiB, 1.0 MiB/s, 3 s left",
        "  missing there  0 blobs, 0 B",
        "",
        "d  http://d:7280",
        "  unreachable for 5 min; 4 rounds failed; never compared",
        "  missing here   ?",
        "  missing there  ?",
        "  error for 5 min: cannot reach d:7280: Connection refused",
    ]


def test_an_error_that_is_over_is_not_shown_as_if_it_lasted() -> None:
    lied = a_peer(standing="in sync", last_error="it lied", last_error_seconds_ago=120.0)
    assert lines(a_node(lied))[-1] == "  earlier, 2 min ago: it lied"


@pytest.mark.parametrize(
    ("peers", "code", "says"),
    [
        ([], NOT_LEVEL, "no peer"),
        ([a_peer(standing="ignored")], NOT_LEVEL, "no peer"),
        ([IN_SYNC], LEVEL, "level with 1 peer"),
        ([IN_SYNC, a_peer(standing="level"), a_peer(standing="ignored")], LEVEL, "2 peers"),
        ([IN_SYNC, APART], NOT_LEVEL, "3 blobs missing here, 0 there"),
        ([a_peer(standing="unknown")], NOT_LEVEL, "b: unknown, ? blobs missing here, ? there"),
        ([REFUSED], NOT_LEVEL, "wants a key"),
        ([IN_SYNC, APART, AWAY], UNREACHABLE, "d: unreachable for 5 min (cannot reach"),
    ],
)
def test_a_monitor_gets_a_code_and_a_line(peers: list[PeerStatus], code: int, says: str) -> None:
    found, line = check(a_node(*peers))
    assert (found, "\n" in line) == (code, False)
    assert says in line
