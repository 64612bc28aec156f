"""Peers, keys and settings of real nodes are changed while they run."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from mesh.actors.membership import Membership, kept_nowhere
from mesh.actors.peer import Peer
from mesh.actors.scheduler import Scheduler
from mesh.api.reloading import Reloader
from mesh.cli.peers import local_key
from mesh.config import Changes, Listed, Sources, load, parse_peer
from mesh.errors import ConfigError, Misbehaved
from mesh.offload import Inline
from mesh.transport.base import Replica
from mesh.wire.control import HEADER, Challenge, proof
from tests.processes import NodeProcess, environment, free_places, mesh, nodes, until


def ordered(node: NodeProcess, *args: str | Path, code: int = 0, env: Any = None) -> str:
    """What a command says; on stderr when it fails."""
    done = mesh(*args, "--node", node.url, env=env)
    assert done.returncode == code, (done.stdout, done.stderr)
    return (done.stdout if code == 0 else done.stderr).decode()


def listing(node: NodeProcess) -> dict[str, dict[str, Any]]:
    """The peers by their places, as the command says with --json."""
    answer = json.loads(ordered(node, "peers", "list", "--json"))
    return {each["url"].removeprefix("http://"): each for each in answer["peers"]}


def count(node: NodeProcess) -> int:
    return int(node.status()["blobs"])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_peers_come_and_go_and_stay_so_over_kill_9(tmp_path: Path, backend: str) -> None:
    with nodes() as start:
        b = start(tmp_path / "b", backend=backend)
        c = start(tmp_path / "c", backend=backend)
        fast = ("--interval", "0.2")
        a = start(tmp_path / "a", *fast, "--peers", f"b={b.place}", backend=backend)
        b.request("POST", "/v1/blobs", b"of b")
        c.request("POST", "/v1/blobs", b"of c")
        until(lambda: count(a) == 1)

        assert ordered(a, "peers", "add", f"c={c.place}", "--direction", "pull") == "c is added\n"
        until(lambda: count(a) == 2)
        until(lambda: listing(a)[c.place]["state"] == "idle")
        assert listing(a)[c.place]["origin"] == "added"
        said = ordered(a, "peers", "remove", "b")
        assert f"until `mesh peers add http://{b.place}`" in said
        assert ordered(a, "peers", "pause", "c") == "c is paused, also over restarts\n"
        a.kill()  # right after the answer
        a = start(tmp_path / "a", *fast, "--peers", f"b={b.place}", backend=backend)
        shown = listing(a)
        assert (shown[c.place]["state"], shown[c.place]["direction"]) == ("paused", "pull")
        assert shown[b.place]["state"] == "removed"
        table = ordered(a, "peers", "list")
        assert max(map(len, table.splitlines()[:3])) <= 80
        assert f"b: the configuration lists it; `mesh peers add http://{b.place}`" in table
        b.request("POST", "/v1/blobs", b"not for a")
        c.request("POST", "/v1/blobs", b"for later")
        assert [peer["state"] for peer in a.status()["peers"]] == ["paused"]
        done = mesh("wait", "--timeout", "5", "--node", a.url)
        assert done.returncode == 1
        assert b"it is paused here" in done.stderr
        done = mesh("sync", "--node", a.url)
        assert done.returncode == 1
        assert b"c: not compared (paused)" in done.stdout
        assert count(a) == 2
        assert ordered(a, "peers", "resume", "c") == "c is resumed\n"
        until(lambda: count(a) == 3)

        assert ordered(a, "peers", "add", f"http://{b.place}") == (
            f"{b.place} is added again, as it is configured\n"
        )
        until(lambda: count(a) == 4)
        assert listing(a)[b.place]["name"] == "b"
        assert ordered(a, "peers", "remove", "c") == "c is removed\n"
        assert listing(a).keys() == {b.place}
        kept = json.loads((tmp_path / "a" / "peers.json").read_text())
        assert kept == {"peers": [], "format": 1}
        assert a.stop() == 0
        assert "Traceback" not in a.log


def test_a_peer_that_moved_is_shown_and_found_again_by_set_url(tmp_path: Path) -> None:
    place, first = free_places(2)
    with nodes() as start:
        b = start(tmp_path / "b", "--peers", place, "--interval", "0.2", listen=first)
        a = start(
            tmp_path / "a", "--interval", "0.2", "--peers", first, "--name", "a", listen=place
        )
        until(lambda: a.status()["peers"][0]["in_sync"])
        name = a.status()["peers"][0]["name"]
        assert name.startswith("node-")
        b.stop()
        b = start(tmp_path / "b", "--peers", place, "--interval", "0.2")
        until(lambda: a.status()["peers"][0]["calls_from"] == "127.0.0.1")
        hint = f"mesh peers set-url {name} 127.0.0.1:PORT"
        assert hint in ordered(a, "peers", "list")
        assert a.status()["peers"][0]["url"] == f"http://{first}"
        a.request("POST", "/v1/blobs", b"after the move")
        said = ordered(a, "peers", "set-url", name, b.place)
        assert said == f"{name} is at http://{b.place} now\n"
        until(lambda: a.status()["peers"][0]["in_sync"])
        assert a.status()["peers"][0]["name"] == name
        assert f"was at http://{first} before" in ordered(a, "peers", "list")


# --- who may give orders -------------------------------------------------------------------------


ADD = "/v1/control/peers/add"
EVIL = b'{"url": "evil.example"}'


def test_orders_want_the_control_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("shared\n")
    with nodes() as start:
        plain = start(tmp_path / "open", "--peers", "peer=192.0.2.1")
        closed = start(tmp_path / "closed", "--key-file", str(keys))
        for node, data in ((plain, tmp_path / "open"), (closed, tmp_path / "closed")):
            file = data / "control.key"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            key = file.read_text().strip()
            assert len(key) == 64
            bearer = {"Authorization": "Bearer shared"}

            def challenge(node: NodeProcess = node, bearer: Any = bearer) -> str:
                code, _, answer = node.request("POST", "/v1/control/challenge", b"", **bearer)
                assert code == 200
                return str(json.loads(answer)["nonce"])

            def tried(header: str, node: NodeProcess = node, bearer: Any = bearer) -> int:
                extra = {**bearer, HEADER: header} if header else bearer
                return node.request("POST", ADD, EVIL, **extra)[0]

            def good(nonce: str, key: str = key, sent: bytes = EVIL) -> str:
                return f"{nonce} {proof(key.encode(), nonce, 'POST', ADD, sent)}"

            nonce = challenge()
            assert [
                tried(""),
                tried(key),
                tried(f"{nonce} {key}"),
                tried(good(nonce)),  # it was used up by the wrong one
                tried(good(challenge(), "shared")),
                tried(good(challenge(), key, b'{"url": "other.example"}')),
                tried(good("0" * 32)),
            ] == [403] * 7
            code, _, _ = node.request("POST", "/v1/control/reload", b"", **bearer)
            assert code == 403
            once = good(challenge())
            assert (tried(once), tried(once)) == (200, 403)
        # The key of a mesh is wanted as before.
        assert closed.request("POST", "/v1/control/challenge", b"")[0] == 401
        assert closed.request("GET", "/v1/peers")[0] == 401
        # A page in a browser, also one whose name leads here.
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            for path in ("/v1/control/challenge", ADD):
                assert plain.request("POST", path, b"{}", **headers)[0] == 403
        # What the command does where it finds the key, and where it does not.
        ordered(plain, "peers", "remove", "evil.example:7280")
        env = {"MESH_CONTROL_KEY_FILE": str(tmp_path / "open" / "control.key")}
        ordered(plain, "peers", "pause", "peer", env=env)
        ordered(plain, "peers", "resume", "peer", "--data", tmp_path / "open")
        keyed = ("--key-file", keys)
        ordered(closed, "peers", "remove", "evil.example:7280", *keyed)
        for wrong in ("keys", "closed/control.key"):
            said = ordered(
                plain, "peers", "pause", "peer", "--control-key-file", tmp_path / wrong, code=1
            )
            assert "not the control key of this node" in said
        assert plain.status()["peers"][0]["state"] != "paused"
        said = ordered(plain, "peers", "pause", "nobody", code=2)
        assert said == "mesh: no peer is called 'nobody'; there are: peer\n"
        said = ordered(plain, "peers", "add", "a/b", code=2)
        assert "not a peer: 'a/b'" in said
        (tmp_path / "open" / "control.key").chmod(0o000)
        if os.geteuid():
            said = ordered(plain, "peers", "pause", "peer", code=2)
            assert "run this as the user of the node" in said
        # The same key after a restart; a damaged file is told, not replaced.
        (tmp_path / "open" / "control.key").chmod(0o644)
        plain.stop()
        plain = start(tmp_path / "open")
        until(lambda: "others can read" in plain.log)
        plain.stop()
        for file, text, what in (
            ("peers.json", "{", "is damaged"),
            ("control.key", "\n", "to have a new one made"),
        ):
            before = (tmp_path / "open" / file).read_text()
            (tmp_path / "open" / file).write_text(text)
            with pytest.raises(RuntimeError, match=what):
                start(tmp_path / "open")
            (tmp_path / "open" / file).write_text(before)


def test_a_key_is_not_read_for_a_node_elsewhere(tmp_path: Path) -> None:
    """Whoever runs that node could name any directory of this machine."""
    (tmp_path / "control.key").write_text("secret")
    challenge = Challenge("0" * 32, data=str(tmp_path))
    for place in ("127.0.0.1", "localhost", "[::1]"):
        assert local_key(parse_peer(place), challenge).reveal() == b"secret"
    for place in ("192.0.2.1", "node.example", "[2001:db8::1]", "localhost.example"):
        with pytest.raises(ConfigError, match="give --control-key-file"):
            local_key(parse_peer(place), challenge)


def test_a_listener_on_this_machine_cannot_have_any_file_taken_for_a_key(tmp_path: Path) -> None:
    """It names the directory, and may own it: what it learns is an HMAC with the key."""
    node = parse_peer("127.0.0.1")
    (tmp_path / "secret").write_text("1234")
    for name in ("link", "fifo"):
        (tmp_path / name).mkdir()
    (tmp_path / "link" / "control.key").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "fifo" / "control.key")
    for name, why in (("link", "is a link"), ("fifo", "no regular file"), ("a\0b", "no path")):
        with pytest.raises(ConfigError, match=why):
            local_key(node, Challenge("0" * 32, data=str(tmp_path / name)))
    for nowhere in (Challenge("0" * 32), Challenge("0" * 32, data_hex="xy")):
        with pytest.raises(Misbehaved, match="not a mesh node"):
            local_key(node, nowhere)


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    odd = os.fsdecode(b"odd\xff")
    key = tmp_path / "fifo"
    os.mkfifo(key)
    with nodes() as start:
        node = start(tmp_path / odd)
        assert ordered(node, "peers", "add", "b=127.0.0.1:1") == "b is added\n"
        shown = json.loads(ordered(node, "config", "running", "--json"))
        assert shown["data"]["value"] == f"{tmp_path}/odd\\udcff"
        assert r"odd\\udcff" in mesh("config", "show", "--data", odd).stdout.decode()
        said = ordered(node, "peers", "pause", odd, code=2)
        assert said == "mesh: 'odd\\udcff' is not UTF-8; write it in UTF-8\n"
        # The node must not wait for who writes to a FIFO.
        said = ordered(node, "peers", "add", "127.0.0.1:2", "--peer-key-file", key, code=2)
        assert "is no regular file" in said
        assert [peer["name"] for peer in listing(node).values()] == ["b"]
        assert "Traceback" not in node.log


# --- reading the configuration again -------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_node_reads_its_configuration_again(tmp_path: Path, backend: str) -> None:
    file, keys = tmp_path / "mesh.toml", tmp_path / "keys"
    keys.write_text("one\n")
    with nodes() as start:
        b = start(tmp_path / "b")
        b.request("POST", "/v1/blobs", b"of b")
        before = 'peers = ["gone=192.0.2.1"]\n'
        file.write_text(before)
        a = start(tmp_path / "a", "--config", str(file), "--name", "a", backend=backend)
        assert ordered(a, "reload") == "nothing has changed\n"

        file.write_text(
            f'peers = ["b={b.place}"]\nkey_file = "{keys}"\nname = "other"\n'
            'interval_seconds = 3\nmax_replica_bytes = "8MiB"\nmax_blob_bytes = "1MiB"\n'
        )
        said = ordered(a, "reload").splitlines()
        assert said == [
            "b is added; gone is removed",
            "the keys that are accepted are changed, there are 1 now: key-1 is new",
            "takes effect when the node is restarted: interval_seconds",
            "takes effect when the node is restarted: max_blob_bytes",
            "takes effect when the node is restarted: max_replica_bytes",
            "takes effect when the node is restarted: "
            "the key of the sketches (until then some rounds take longer)",
        ], "the name is that of the flag, which wins"
        assert a.request("GET", "/v1/status")[0] == 401
        one = {"Authorization": "Bearer one"}
        assert a.request("GET", "/v1/status", **one)[0] == 200
        until(lambda: json.loads(a.request("GET", "/v1/status", **one)[2])["blobs"] == 1)

        told = ordered(a, "config", "running", "--json", "--key-file", keys)
        shown = {key: (each["value"], each["origin"]) for key, each in json.loads(told).items()}
        assert shown["peers"] == ([f"b={b.place}"], str(file))
        assert shown["interval_seconds"] == (30.0, "default"), "it waits for a restart"
        assert shown["name"] == ("a", "--name")

        keys.write_text("two\n")
        a.process.send_signal(signal.SIGHUP)
        two = {"Authorization": "Bearer two"}
        until(lambda: a.request("GET", "/v1/status", **two)[0] == 200)
        assert a.request("GET", "/v1/status", **one)[0] == 401

        for text, why in (
            ("peers = [", "is not TOML"),
            ('peers = ["x/y"]', "not a peer"),
            ('key_file = "/nowhere"', "cannot read key file"),
            ("intervall = 3", "did you mean 'interval_seconds'"),
        ):
            file.write_text(text)
            said = ordered(a, "reload", "--key-file", keys, code=2)
            assert "nothing was changed: " in said
            assert why in said
            assert a.request("GET", "/v1/status", **two)[0] == 200
        a.process.send_signal(signal.SIGHUP)
        until(lambda: "nothing is reloaded: " in a.log)
        names = [
            peer["name"] for peer in json.loads(a.request("GET", "/v1/peers", **two)[2])["peers"]
        ]
        assert names == ["b"]
        assert a.process.poll() is None
        assert a.stop() == 0
        assert "Traceback" not in a.log


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_reload_never_opens_a_node_to_the_network(tmp_path: Path, backend: str) -> None:
    """Where it listens stays as it was, although the new configuration by itself is good."""
    file, keys = tmp_path / "mesh.toml", tmp_path / "keys"
    keys.write_text("one\n")
    file.write_text(f'listen = "0.0.0.0:0"\nkey_file = "{keys}"\n')
    sources = Sources(file, {}, {})
    peers = Membership(
        load(*sources), Changes(), kept_nowhere, nobody, Scheduler(30.0, Random(0)), Random(0)
    )
    reloader = Reloader(load(*sources), sources, peers, Inline())

    async def refused() -> None:
        for text in ('listen = "127.0.0.1:0"', 'listen = "0.0.0.0:0"\ninsecure = true'):
            file.write_text(text)
            assert load(*sources).accepted_keys() == ()
            with pytest.raises(ConfigError, match="would be open to everybody"):
                with anyio.fail_after(10.0):
                    await reloader.reload()
            assert [key.secret.reveal() for key in reloader.accepted()] == [b"one"]

    anyio.run(refused, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_node_stops_while_its_configuration_hangs(tmp_path: Path, backend: str) -> None:
    file, keys = tmp_path / "mesh.toml", tmp_path / "keys"
    file.write_text("")
    os.mkfifo(keys)
    with nodes() as start:
        node = start(tmp_path / "a", "--config", str(file), backend=backend)
        file.write_text(f'peer_key_file = "{keys}"\n')
        node.process.send_signal(signal.SIGHUP)
        # It waits for what is written here, which is nothing.
        writing = until(partial(opened, keys))
        assert node.stop() == 0
        os.close(writing)


def opened(fifo: Path) -> int | None:
    """The end of a FIFO to write to; None while nobody reads it."""
    with suppress(OSError):
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    return None


def nobody(listed: Listed) -> tuple[Peer, Replica]:
    raise AssertionError("there is no peer")


def command(tmp_path: Path, name: str) -> list[str]:
    data = str(tmp_path / name)
    return [sys.executable, "-m", "mesh", "run", "--data", data, "--listen", "127.0.0.1:0"]


def test_under_nohup_a_hangup_is_ignored(tmp_path: Path) -> None:
    def ignored() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    node = subprocess.Popen(
        command(tmp_path, "a"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=environment(),
        preexec_fn=ignored,
        text=True,
    )
    assert node.stdout is not None
    assert "listening" in node.stdout.readline()
    node.send_signal(signal.SIGHUP)
    assert node.stderr is not None
    while "ready" not in node.stderr.readline():  # now it listens to signals
        pass
    node.send_signal(signal.SIGTERM)
    _, log = node.communicate(timeout=30)
    assert node.returncode == 0
    assert "reload" not in log


def test_a_node_whose_terminal_goes_stops(tmp_path: Path) -> None:
    process, terminal = pty.fork()
    if not process:
        os.environ.update(environment())
        os.execv(sys.executable, command(tmp_path, "a"))
    status = None
    try:
        said = b""
        while b"listening" not in said:
            said += os.read(terminal, 1000)
        os.close(terminal)
        _, status = os.waitpid(process, 0)
    finally:
        if status is None:  # it did not stop, or did not start
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 1)
    (tmp_path / "a" / "node.json").stat()
