"""The commands as a person at a terminal sees them, and a program behind a pipe."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh.core.digest import digest_of
from mesh.core.limits import LARGE_BLOB
from tests.processes import NodeProcess, Valve, environment, mesh, nodes, until

LARGE = bytes(range(251)) * 40_000
NAME = digest_of(LARGE).hex()

# What passes of the large blob before a valve closes.
SOME = 3_000_000


class Screen:
    """A terminal of some width; all that was ever written to it."""

    def __init__(self, columns: int = 80) -> None:
        self._main, self.end = pty.openpty()
        termios.tcsetwinsize(self.end, (24, columns))
        self.written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._main, 65536):
                self.written += data
        except OSError:
            return  # nobody has the other end any more

    def close(self) -> None:
        os.close(self.end)
        self._reader.join(10)
        os.close(self._main)

    @property
    def frames(self) -> list[str]:
        """Each state of its last line, without colours."""
        plain = re.sub(rb"\x1b\[[0-9;]*m", b"", self.written).decode()
        return plain.replace("\r\n", "\n").split("\r\x1b[K")

    @property
    def shown(self) -> str:
        """What is left on it at the end."""
        lines = self.written.decode().replace("\r\n", "\n").split("\n")
        return "\n".join(line.split("\r\x1b[K")[-1] for line in lines)


@contextmanager
def screen(columns: int = 80) -> Iterator[Screen]:
    made = Screen(columns)
    try:
        yield made
    finally:
        made.close()


def begun(*args: str | Path, stderr: int, stdout: int = subprocess.PIPE, **env: str) -> Any:
    """A command that has been started; a terminal is one of its ends."""
    return subprocess.Popen(
        [sys.executable, "-m", "mesh", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env={**environment(), "TERM": "xterm-256color", **env},
    )


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with nodes() as start:
        started = start(tmp_path_factory.mktemp("node") / "data")
        started.ready()
        started.request("POST", "/v1/blobs", LARGE)
        yield started


def test_a_bar_shows_bytes_rate_and_time_left_and_goes_without_a_trace(
    node: NodeProcess, tmp_path: Path
) -> None:
    with screen() as terminal, Valve(node.place, SOME) as valve:
        options = ["--node", valve.place, "--json-lines"]
        command = begun("get", NAME, "-o", tmp_path / "out", *options, stderr=terminal.end)
        until(lambda: "/9.6 MiB" in terminal.frames[-1])
        valve.open()
        out, _ = command.communicate(timeout=30)
        assert command.returncode == 0
        frame = terminal.frames[1]
        assert re.match(r"fetching .*━.* \d\.\d/9\.6 MiB", frame), frame
        assert all(len(each) < 80 for each in terminal.frames)
        assert terminal.shown == ""
    *events, last = map(json.loads, out.splitlines())
    assert events[0]["event"] == "progress"
    assert 0 < events[0]["bytes"] < events[0]["total_bytes"] == len(LARGE)
    assert {"ok": True, "bytes": len(LARGE), "digest": NAME}.items() <= last.items()
    assert (tmp_path / "out").read_bytes() == LARGE


def test_a_terminal_without_colour_gets_none_and_a_dumb_one_no_bar(
    node: NodeProcess, tmp_path: Path
) -> None:
    with screen(50) as grey, screen() as dumb, screen() as quiet, Valve(node.place, SOME) as valve:
        get = ["get", NAME, "--node", valve.place, "-o"]
        commands = [
            begun(*get, tmp_path / "1", stderr=grey.end, NO_COLOR="1"),
            begun(*get, tmp_path / "2", stderr=dumb.end, TERM="dumb"),
            begun(*get, tmp_path / "3", "-q", stderr=quiet.end),
        ]
        until(lambda: b" B" in grey.written or b"MiB" in grey.written)
        for command in commands:
            command.send_signal(signal.SIGINT)
            assert command.wait(30) == 130
            command.stdout.close()
        assert b"\x1b[3" not in grey.written
        assert all(len(each) < 50 for each in grey.frames)
        assert grey.shown == ""
        assert dumb.written == quiet.written == b""


def test_data_on_standard_output_is_only_the_data(node: NodeProcess, tmp_path: Path) -> None:
    out = (tmp_path / "out").open("wb")
    with screen() as terminal, Valve(node.place, SOME) as valve, out:
        get = ["get", NAME, "--node", valve.place]
        command = begun(*get, stdout=out.fileno(), stderr=terminal.end)
        until(lambda: "/9.6 MiB" in terminal.frames[-1])
        valve.open()
        assert command.wait(30) == 0
    assert (tmp_path / "out").read_bytes() == LARGE


def test_json_and_a_blob_do_not_share_standard_output(node: NodeProcess) -> None:
    for option in ("--json", "--json-lines"):
        done = mesh("get", NAME, option, "--node", node.url)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"use -o FILE" in done.stderr


@pytest.mark.parametrize("command", [["get", NAME], ["sync"], ["wait"], ["scrub", "start"]])
def test_contradictions_are_refused(node: NodeProcess, command: list[str]) -> None:
    for options in (["--json", "--json-lines"], ["-q", "--progress"], ["-q", "--json-lines"]):
        done = mesh(*command, *options, "--node", node.url)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)


# --- a tree --------------------------------------------------------------------------------------


def test_a_restored_tree_is_told_as_an_object(node: NodeProcess, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(5):
        (tree / f"small {number}").write_bytes(b"small %d" % number)
    (tree / "large").write_bytes(LARGE)
    (tree / "large too").write_bytes(LARGE)
    put = mesh("put", "--tree", tree, "--node", node.url).stdout.decode()
    manifest = put.splitlines()[-2].split()[0]
    size = 5 * 7 + 2 * len(LARGE)
    restored = tmp_path / "restored"

    def get(*options: str) -> tuple[int, dict[str, Any]]:
        done = mesh("get", "--tree", manifest, restored, "--json", "--node", node.url, *options)
        return done.returncode, json.loads(done.stdout)

    code, whole = get()
    assert code == 0
    counts = {"ok": True, "files": 7, "total_files": 7, "bytes": size, "total_bytes": size}
    assert {**counts, "fetched_files": 7, "digest": manifest}.items() <= whole.items()
    # What is there already is hashed and not fetched; what is another file of the size is not it.
    (restored / "small 3").write_bytes(b"SMALL 3")
    (restored / "large").write_bytes(LARGE[::-1])
    code, rest = get("--force")
    assert code == 0
    assert {**counts, "fetched_files": 2}.items() <= rest.items()
    (restored / "small 3").write_bytes(b"SMALL 3")
    code, failed = get()
    assert code == 1
    assert {"ok": False, "files": 6, "bytes": size - 7, "failed": 1}.items() <= failed.items()
    assert "'small 3': something else is there" in failed["errors"][0]


# --- putting -------------------------------------------------------------------------------------


def test_a_put_shows_how_much_there_is_and_its_lines_are_whole(
    node: NodeProcess, tmp_path: Path
) -> None:
    """On a terminal that has the lines as well; the node takes the large file slowly."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(3):
        (tree / f"a{number}").write_bytes(b"put %d" % number)
    (tree / "large").write_bytes(LARGE[1:])
    size = 3 * 5 + len(LARGE) - 1
    with screen(100) as terminal, Valve(node.place, 0) as valve:
        put = ["put", "--tree", tree, "--node", valve.place]
        command = begun(*put, stdout=terminal.end, stderr=terminal.end)
        until(lambda: "/9.6 MiB" in terminal.frames[-1])
        assert "0/4 files" in terminal.frames[-1]
        assert terminal.frames[-1].startswith("putting")
        valve.open()
        assert command.wait(30) == 0
        lines = terminal.shown.splitlines()
    plain = mesh("put", "--tree", tree, "--node", node.url)
    assert lines[:5] == plain.stdout.decode().splitlines()[:5]

    events = mesh("put", "--tree", tree, "--node", node.url, "--json-lines").stdout
    *files, made, taken, last = map(json.loads, events.splitlines())
    assert [(each["event"], each["path"]) for each in files] == [
        ("file", f"{tree}/{name}") for name in ("a0", "a1", "a2", "large")
    ]
    assert files[0]["digest"] == digest_of(b"put 0").hex()
    assert (files[0]["size"], files[3]["size"]) == (5, len(LARGE) - 1)
    assert made["event"] == "tree"
    assert {"ok": True, "files": 4, "bytes": size, "failed_files": 0}.items() <= last.items()
    assert "put" not in last
    whole = json.loads(mesh("put", "--tree", tree, "--node", node.url, "--json").stdout)
    keys = ("digest", "path", "size")
    assert whole["put"] == [{key: each[key] for key in keys} for each in files]
    (told,) = last["trees"]
    assert (told["digest"], told["path"]) == (made["digest"], f"{tree}/")
    assert (told["snapshot"], told["time"]) == (taken["digest"], taken["time"])
    assert whole["trees"][0]["digest"] == made["digest"]


def test_a_put_that_fails_for_some_says_so_in_its_object(node: NodeProcess, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).write_bytes(b"odd")
    os.mkfifo(tmp_path / "fifo")
    missing = tmp_path / "missing"
    done = mesh("put", tmp_path, missing, "--json", "--node", node.url)
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert {"ok": False, "files": 1, "failed": 1, "failed_files": 1}.items() <= told.items()
    assert told["errors"] == [f"{missing}: No such file or directory"]
    assert bytes.fromhex(told["put"][0]["path_hex"]) == bytes(tmp_path) + b"/caf\xe9"
    assert b"fifo: is a FIFO; left out" in done.stderr
    done = mesh("put", tmp_path, missing, "-q", "--node", node.url)
    assert done.stderr.decode() == f"mesh: {missing}: No such file or directory\n"
    assert done.stdout.count(b"\n") == 1
    done = mesh("put", "-", "--json", "--node", node.url, stdin=b"from a pipe")
    (put,) = json.loads(done.stdout)["put"]
    assert put == {"digest": digest_of(b"from a pipe").hex(), "path": "-", "size": 11}
    done = mesh("put", "--dry-run", tmp_path, "--json", "--node", "nowhere")
    assert [each["size"] for each in json.loads(done.stdout)["put"]] == [3]


# --- levelling -----------------------------------------------------------------------------------


def test_sync_and_wait_show_what_moves_and_end_with_an_object(tmp_path: Path) -> None:
    blobs = [b"%d" % number * 1000 for number in range(100)] + [LARGE]
    assert len(LARGE) > LARGE_BLOB
    with nodes() as start, screen() as terminal:
        full = start(tmp_path / "full")
        full.ready()
        for blob in blobs:
            full.request("POST", "/v1/blobs", blob)
        with Valve(full.place, SOME) as valve:
            empty = start(tmp_path / "empty", "--peers", valve.place, "--interval", "3600")
            options = ["--json-lines", "--node", empty.url]
            wait = begun("wait", *options, stderr=terminal.end)
            sync = begun("sync", *options, stderr=subprocess.PIPE)
            until(lambda: "blobs" in terminal.frames[-1])
            valve.open()
            waited, _ = wait.communicate(timeout=30)
            synced, said = sync.communicate(timeout=30)
            quiet = mesh("wait", "-q", "--node", empty.url)
            assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"", b"")
        assert (wait.returncode, sync.returncode, said, terminal.shown) == (0, 0, b"", "")
        assert "levelling" in terminal.frames[1]
        *events, last = map(json.loads, waited.splitlines())
        assert events[-1]["event"] == "progress"
        assert events[-1]["doing"] == "levelling"
        assert last["ok"]
        assert last["level"]
        assert last["said"].startswith("level with 1 of 1")
        (peer,) = json.loads(synced.splitlines()[-1])["peers"]
        assert (peer["missing_here"], peer["error"]) == (0, None)
        # The valve is gone, and the peer with it.
        for command in (["sync"], ["wait", "--timeout", "0"]):
            failed = mesh(*command, "--json", "--node", empty.url)
            assert failed.returncode == 1
            assert json.loads(failed.stdout)["ok"] is False
            failed = mesh(*command, "-q", "--node", empty.url)
            assert (failed.stdout + failed.stderr).count(b"\n") == 1


def test_a_scrub_is_followed_to_its_end_or_left_to_itself(tmp_path: Path) -> None:
    def rate(bytes_per_second: int) -> Path:
        file = tmp_path / f"{bytes_per_second}.toml"
        file.write_text(f"scrub_bytes_per_second = {bytes_per_second}\n")
        return file

    with nodes() as start, screen() as terminal:
        slow = start(tmp_path / "data", "--config", rate(100_000))
        slow.ready()
        slow.request("POST", "/v1/blobs", LARGE)
        follow = ["scrub", "start", "--follow", "--node"]
        command = begun(*follow, slow.url, stderr=terminal.end)
        until(lambda: "/9.6 MiB" in terminal.frames[-1])
        command.send_signal(signal.SIGINT)
        assert command.wait(30) == 130
        command.stdout.close()
        assert terminal.shown.strip() == "the scrub goes on; `mesh scrub status` shows it"
        assert b"running" in slow.request("GET", "/v1/scrub")[2]
        slow.stop()
        (path,) = (tmp_path / "data" / "large").rglob(NAME)
        with path.open("r+b") as file:
            file.seek(len(LARGE) - 100)  # where the pass, which goes on, has not been
            file.write(b"rot")
        fast = start(tmp_path / "data", "--config", rate(1_000_000_000))
        fast.ready()
        done = mesh(*follow, fast.url, "--json")
        assert done.returncode == 1
        assert {"ok": False, "damaged": 1}.items() <= json.loads(done.stdout).items()
        done = mesh(*follow, fast.url)
        assert done.returncode == 0
        assert done.stdout == b"scrub: 0 blobs (0 B) read, 0 damaged\n"
        assert mesh("scrub", "status", "--follow", "--node", fast.url).returncode == 2
