"""How far a command is: the numbers, and who is told of them, by a clock of the test."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import pty
import re
import sys
import termios
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.cli.bar import Bar
from mesh.cli.forms import Form
from mesh.cli.missing import Levelling
from mesh.cli.progress import WINDOW, Meter, Progress, View, time_text
from mesh.cli.putting.display import Display
from mesh.cli.streams import Outlet
from mesh.cli.teller import Teller
from mesh.errors import Corrupt, InputError
from mesh.status import PeerStatus

MIB = 1024 * 1024


def bytes_of(done: int, total: int | None = None) -> Progress:
    return Progress("fetching", bytes=done, total_bytes=total)


# --- the meter -----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.01, 30), st.integers(0, 2**40)), min_size=1, max_size=30))
def test_a_rate_is_what_came_since_the_last_look_before_the_window(
    steps: list[tuple[float, int]],
) -> None:
    meter = Meter(0.0)
    now, done = 0.0, 0
    looks = [(now, done)]
    meter.add(now, bytes_of(done))
    for pause, more in steps:
        now, done = now + pause, done + more
        looks.append((now, done))
        view = meter.add(now, bytes_of(done, 2**50))
        older = [look for look in looks if look[0] <= now - WINDOW]
        then, had = older[-1] if older else looks[0]
        rate = (done - had) / (now - then)
        assert view.rate == pytest.approx(rate)
        if rate:
            assert view.left == pytest.approx((2**50 - done) / rate)
        else:
            assert view.left is None


def test_a_line_that_stands_still_has_no_time_left_to_tell() -> None:
    meter = Meter(0.0)
    for second in range(30):
        view = meter.add(float(second), bytes_of(min(second, 5) * MIB, 100 * MIB))
    assert (view.rate, view.left) == (0.0, None)


def test_without_bytes_the_count_tells_the_time_left() -> None:
    meter = Meter(0.0)
    meter.add(0.0, Progress("checking", 0, 100))
    view = meter.add(2.0, Progress("checking", 20, 100))
    assert (view.rate, view.left) == (None, 8.0)
    assert view.numbers("blobs") == "20 of 100 blobs  0:08 left"


def test_small_blobs_do_not_tell_how_long_a_large_one_takes() -> None:
    meter = Meter(0.0)
    meter.add(0.0, Progress("levelling", 0, 101, 0, None))
    assert meter.add(2.0, Progress("levelling", 100, 101, MIB, None)).left is None


def test_what_is_not_known_is_not_said() -> None:
    meter = Meter(10.0)
    view = meter.add(10.0, bytes_of(0))
    assert (view.seconds, view.rate, view.left) == (0.0, None, None)
    assert view.numbers("files") == "0 B"
    view = meter.add(12.0, Progress("fetching", 3, None, 4 * MIB, None))
    assert view.numbers("files") == "4.0 MiB  3 files  2.0 MiB/s"
    view = meter.add(14.0, Progress("fetching", 3, 5, 4 * MIB, 8 * MIB))
    assert view.numbers("files") == "4.0 MiB of 8.0 MiB  3 of 5 files  1.0 MiB/s  0:04 left"


def test_the_speed_of_one_thing_says_nothing_of_the_next() -> None:
    meter = Meter(0.0)
    meter.add(0.0, bytes_of(0))
    meter.add(5.0, bytes_of(500 * MIB))
    assert meter.add(6.0, Progress("comparing", 0, 10, 0, None)).rate is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (67, "1:07"), (3599.6, "1:00:00"), (90_061, "25:01:01")]
)
def test_time_for_people(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


# --- levelling -----------------------------------------------------------------------------------


def peer(
    fetched: int,
    sent: int,
    here: int | None,
    there: int | None,
    *,
    here_bytes: int | None = None,
    rate: float = 0.0,
) -> PeerStatus:
    """A peer's status; each blob has a KiB unless `here_bytes` says how much is missing."""
    if here is not None and here_bytes is None:
        here_bytes = here * 1024
    return PeerStatus(
        name="b", url="http://b", state="syncing", in_sync=False, node_id=None, root=None,
        blobs=None, missing_here=here, missing_there=there,
        missing_here_bytes=here_bytes, fetch_bytes_per_second=rate,
        missing_there_bytes=None if there is None else there * 1024,
        last_success_seconds_ago=None, last_error=None, failures=0, rounds=1, over_limit=0,
        fetched_blobs=fetched, fetched_bytes=fetched * 1024, sent_blobs=sent,
        sent_bytes=sent * 1024,
    )  # fmt: skip


def test_levelling_counts_what_moved_since_it_began_and_what_is_missing() -> None:
    levelling = Levelling()
    first = levelling.seen([peer(1000, 0, 30, 20), peer(0, 500, 0, 0)])
    assert first == Progress("levelling", 0, 50, 0, 50 * 1024, 0.0)
    later = levelling.seen([peer(1010, 5, 20, 15, rate=7.0), peer(0, 500, 0, 0, rate=2.0)])
    assert later == Progress("levelling", 15, 50, 15 * 1024, 50 * 1024, 9.0)
    unknown = levelling.seen([peer(1010, 5, 20, 15), peer(0, 500, None, 0)])
    assert unknown == Progress("levelling", 15, None, 15 * 1024, None, 0.0)
    restarted = Levelling()
    restarted.seen([peer(9, 9, 3, 4)])
    assert restarted.seen([peer(0, 0, 3, 4)]) == Progress("levelling", 0, 7, 0, 7 * 1024, 0.0)


def test_levelling_counts_the_part_of_a_large_blob_that_has_come() -> None:
    levelling = Levelling()
    levelling.seen([peer(10, 0, 1, 0, here_bytes=100 * MIB)])
    part = levelling.seen([peer(10, 0, 1, 0, here_bytes=60 * MIB, rate=1.0)])
    assert part == Progress("levelling", 0, 1, 40 * MIB, 100 * MIB, 1.0)
    # Another one of 20 MiB has come to the peer meanwhile.
    more = levelling.seen([peer(10, 0, 2, 0, here_bytes=90 * MIB)])
    assert (more.bytes, more.total_bytes) == (10 * MIB, 100 * MIB)
    more = levelling.seen([peer(10, 0, 2, 0, here_bytes=120 * MIB)])
    assert (more.bytes, more.total_bytes) == (0, 120 * MIB)


def test_a_step_ahead_does_not_tell_how_long_the_work_takes() -> None:
    meter = Meter(0.0)
    meter.add(0.0, Progress("hashing", 0, 2, 0, 100 * MIB, ahead=True))
    view = meter.add(1.0, Progress("hashing", 0, 2, 50 * MIB, 100 * MIB, ahead=True))
    assert (view.rate, view.left) == (50.0 * MIB, None)


def test_a_rate_that_the_node_measured_is_the_rate() -> None:
    meter = Meter(0.0)
    meter.add(0.0, Progress("levelling", 0, 1, 0, 100 * MIB, 5.0 * MIB))
    view = meter.add(9.0, Progress("levelling", 0, 1, 50 * MIB, 100 * MIB, 5.0 * MIB))
    assert (view.rate, view.left) == (5.0 * MIB, 10.0)


# --- putting -------------------------------------------------------------------------------------


def test_a_put_shows_what_is_durable_and_the_part_of_what_is_on_its_way() -> None:
    display = Display()
    display.done(3, 30 * MIB)
    assert display.progress() == Progress("putting", 3, None, 30 * MIB, None)
    # Small files are read while others are sent.
    display.hashed(8 * MIB)
    display.sent(2 * MIB)
    assert display.progress() == Progress("putting", 3, None, 32 * MIB, None)
    display.done(8, 8 * MIB)
    assert display.progress() == Progress("putting", 11, None, 38 * MIB, None)
    # A large one is hashed first, and sent then.
    for _ in range(100):
        display.hashed(MIB)
    assert display.progress() == Progress("hashing", 11, None, 138 * MIB, None, ahead=True)
    display.sent(10 * MIB)
    assert display.progress() == Progress("putting", 11, None, 48 * MIB, None)
    display.sent(90 * MIB)
    display.done(1, 100 * MIB)
    display.failed(1)
    assert display.progress() == Progress("putting", 12, None, 138 * MIB, None)
    assert display.counts() == {
        "files": 12, "bytes": 138 * MIB, "failed_files": 1,
        "hashed_bytes": 108 * MIB, "sent_bytes": 102 * MIB,
    }  # fmt: skip


# --- which form ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", [Form(json=True, lines=True), Form(quiet=True, progress=True), Form(True, lines=True)]
)
def test_contradictions_are_refused(form: Form) -> None:
    with pytest.raises(InputError, match=r"which one|contradict"):
        form.judged()


# --- the teller ----------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def told(form: Form, seconds: int, change: Callable[[int], Progress] = bytes_of) -> None:
    """A command that works for some seconds and does a byte a tenth of a second."""
    clock = Clock()
    with Teller(form, "get", "files", clock) as teller:
        for tenth in range(seconds * 10 + 1):
            clock.now = 1000.0 + tenth / 10
            teller.update(change(tenth))
        teller.ended(ok=True, files=7)


Output = pytest.CaptureFixture[str]


def test_in_a_pipe_a_line_comes_each_ten_seconds_if_it_was_asked_for(capsys: Output) -> None:
    told(Form(progress=True), 35)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "mesh: fetching: 100 B, 10 B/s",
        "mesh: fetching: 200 B, 10 B/s",
        "mesh: fetching: 300 B, 10 B/s",
    ]


@pytest.mark.parametrize("form", [Form(), Form(quiet=True)])
def test_in_a_pipe_nothing_is_said_otherwise(capsys: Output, form: Form) -> None:
    told(form, 35)
    assert capsys.readouterr() == ("", "")


def test_json_is_one_object_at_the_end(capsys: Output) -> None:
    told(Form(json=True), 12)
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "event": "summary", "command": "get", "seconds": 12.0, "ok": True, "files": 7,
        "errors": [], "failed": 0,
    }  # fmt: skip


def test_json_lines_are_an_event_a_second_and_the_same_object(capsys: Output) -> None:
    told(Form(lines=True), 3, lambda tenth: bytes_of(tenth, 60))
    *events, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert [(each["event"], each["seconds"]) for each in events] == [
        ("progress", 1.0), ("progress", 2.0), ("progress", 3.0),
    ]  # fmt: skip
    assert (events[1]["bytes"], events[1]["total_bytes"], events[1]["unit"]) == (20, 60, "files")
    assert math.isclose(events[1]["seconds_left"], 4.0, rel_tol=0.1)
    assert (last["event"], last["ok"], last["files"]) == ("summary", True, 7)


def test_a_command_that_is_over_in_a_second_shows_no_event(capsys: Output) -> None:
    clock = Clock()
    with Teller(Form(lines=True), "get", "files", clock) as teller:
        for tenth in range(10):
            clock.now = 1000.0 + tenth / 10
            teller.update(bytes_of(tenth))
        teller.ended(ok=True)
    (only,) = capsys.readouterr().out.splitlines()
    assert json.loads(only)["event"] == "summary"


def test_what_failed_is_said_and_counted_whatever_the_form(capsys: Output) -> None:
    for form in (Form(quiet=True), Form(json=True), Form(lines=True), Form()):
        with Teller(form, "get", "files") as teller:
            teller.note("a note")
            for number in range(200):
                teller.error(f"file {number} is odd")
            teller.ended(ok=False)
        out, err = capsys.readouterr()
        said = err.splitlines()
        assert said[-200:] == [f"mesh: file {number} is odd" for number in range(200)]
        assert (said[0] == "a note") == (not form.quiet)
        if form.machine:
            last = json.loads(out.splitlines()[-1])
            assert (last["ok"], last["failed"], len(last["errors"])) == (False, 200, 100)
        else:
            assert out == ""


def test_an_error_that_ends_the_command_is_in_the_object(capsys: Output) -> None:
    for error in (Corrupt("it is another"), ExceptionGroup("", [Corrupt("it is another")])):
        with pytest.raises(type(error)), Teller(Form(json=True), "get", "files"):
            raise error
        last = json.loads(capsys.readouterr().out)
        assert (last["ok"], last["errors"]) == (False, ["it is another"])


def test_a_signal_tells_no_outcome(capsys: Output) -> None:
    with pytest.raises(KeyboardInterrupt), Teller(Form(json=True), "get", "files"):
        raise KeyboardInterrupt
    assert capsys.readouterr().out == ""


def test_what_is_said_in_words_is_not_said_to_a_program(capsys: Output) -> None:
    with Teller(Form(lines=True), "put", "files") as teller:
        teller.write(b"DIGEST  PATH\n")
        teller.line("a line")
        teller.said("a summary")
        teller.event("file", path="PATH")
    first, _ = capsys.readouterr().out.splitlines()
    assert json.loads(first)["event"] == "file"
    with Teller(Form(quiet=True), "put", "files") as teller:
        teller.write(b"DIGEST  PATH\n")
        teller.line("a line")
        teller.said("a summary")
    assert capsys.readouterr().out == "DIGEST  PATH\na line\n"


def everything(main: int) -> str:
    """All that was written to a terminal whose other end is closed."""
    written = b""
    with suppress(OSError):  # the end
        while data := os.read(main, 65536):
            written += data
    os.close(main)
    return written.decode()


def test_nothing_tears_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines, errors, events and log lines begin where the bar was, and the bar comes back."""
    main, end = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    streams = [io.TextIOWrapper(io.BufferedWriter(Outlet(end)), line_buffering=True) for _ in "12"]
    with streams[0], streams[1]:
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        handler = logging.StreamHandler(sys.stderr)
        log = logging.getLogger("tests.progress")
        log.addHandler(handler)
        clock = Clock()
        with Teller(Form(), "put", "files", clock) as teller:
            writers: list[Callable[[], object]] = [
                lambda: teller.write(b"DIGEST  PATH\n"),
                lambda: teller.line("a line"),
                lambda: teller.note("a note"),
                lambda: teller.error("an error"),
                lambda: log.warning("a log line"),
                lambda: print("a line of somebody else"),
            ]
            for write in writers:
                clock.now += 2
                teller.update(bytes_of(5, 10))
                write()
            teller.update(bytes_of(6, 10))
            clock.now += 2
            teller.tick()
        log.removeHandler(handler)
    os.close(end)
    written = everything(main)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written)
    pieces = [piece for piece in plain.split("\r\x1b[K") if piece]
    bars = [piece for piece in pieces if piece.startswith("fetching")]
    assert len(bars) == 7
    assert "6/10 B" in bars[-1]
    assert [piece for piece in pieces if piece not in bars] == [
        "DIGEST  PATH\r\n", "a line\r\n", "a note\r\n", "mesh: an error\r\n", "a log line\r\n",
        "a line of somebody else\r\n",
    ]  # fmt: skip
    assert written.endswith("\r\x1b[K")


FULL = View(Progress("putting", 100, 20_000, 512 * MIB, 70 * 1024 * MIB), 3.0, 95.4 * MIB, 754.0)
FRAMES = {
    200: "putting ━.* 512.0 MiB/70.0 GiB  100/20000 files  95.4 MiB/s  12:34 left",
    80: "putting ━.* 512.0 MiB/70.0 GiB  100/20000 files  95.4 MiB/s  12:34 left",
    70: "putting ━.* 512.0 MiB/70.0 GiB  95.4 MiB/s  12:34 left",
    50: "putting ━.* 512.0 MiB/70.0 GiB  12:34 left",
    40: "putting ━.* 512.0 MiB/70.0 GiB",
    20: "pu.*…",
}


@pytest.mark.parametrize("columns", [*range(2, 101), 200])
def test_a_bar_is_one_line_and_says_what_fits(columns: int) -> None:
    main, end = pty.openpty()
    termios.tcsetwinsize(end, (24, columns))
    with open(end, "w") as screen:
        Bar(screen, "files", []).show(FULL)
    frame = re.sub(r"\x1b\[[0-9;]*m", "", everything(main)).removeprefix("\r\x1b[K")
    assert len(frame) < columns
    assert "\n" not in frame
    if columns in FRAMES:
        assert re.fullmatch(FRAMES[columns], frame), frame


def test_a_view_is_a_value() -> None:
    view = View(bytes_of(1), 1.0, None, None)
    with pytest.raises(AttributeError):
        view.rate = 2.0  # type: ignore[misc]
