"""Keys with roles, as people use them: made, handed out, changed while a node runs."""

from __future__ import annotations

import http.client
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

from mesh.core.digest import digest_of
from tests.processes import NodeProcess, mesh, nodes, until


def bearer(file: Path) -> dict[str, str]:
    return {"Authorization": f"Bearer {file.read_text().strip()}"}


def test_keys_are_handed_out_used_and_taken_back(tmp_path: Path) -> None:
    """On trio; tests/server/test_roles.py asks nodes of both backends."""
    accepted = tmp_path / "mesh.key"

    def made(name: str, roles: str) -> Path:
        own = tmp_path / f"{name}.key"
        done = mesh("key", "new", name, "--roles", roles, "--key-file", accepted, "-o", own)
        assert done.returncode == 0, done.stderr
        return own

    laptop, monitor = made("laptop", "append"), made("monitor", "read")
    other, ann = made("other", "peer"), made("ann", "admin")
    (tmp_path / "file").write_bytes(b"to be kept")
    with nodes() as start:
        one = start(tmp_path / "one", "--key-file", str(accepted), backend="trio")
        until(lambda: one.request("GET", "/v1/status", **bearer(ann))[0] == 200)

        def run(key: Path, *words: str | Path) -> tuple[int, str]:
            done = mesh(*words, "--node", one.url, "--key-file", key)
            return done.returncode, (done.stdout + done.stderr).decode()

        # A backup client does its work, and no more.
        assert run(laptop, "put", tmp_path / "file")[0] == 0
        assert run(laptop, "ls")[0] == 0
        code, said = run(laptop, "scrub", "pause")
        assert code == 1
        assert "the key laptop may not do this: it needs the role write or admin" in said
        assert run(ann, "scrub", "pause")[0] == 0
        for _ in range(20):
            assert one.request("GET", "/v1/status", Authorization="Bearer wrong")[0] == 401
        # A monitor sees how the node stands.
        assert run(monitor, "status")[0] == 0
        (tmp_path / "new").write_bytes(b"not to be kept")
        code, said = run(monitor, "put", tmp_path / "new")
        assert code == 1
        assert "it needs the role write or append" in said
        _orders(one, tmp_path, ann, run)
        # A peer with a key for peers fetches; with another one it is told why it does not.
        two = start(tmp_path / "two", "--peers", one.url, "--peer-key-file", str(other))
        two.ready()
        assert mesh("sync", "--node", two.url).returncode == 0
        assert two.status()["blobs"] == 1
        assert run(monitor, "status")[1].endswith(", with the key other\n")  # it is not listed
        assert run(ann, "peers", "add", f"two={two.place}")[0] == 0
        _told_of_peers(one, two, monitor, run)
        three = start(tmp_path / "three", "--peers", one.url, "--peer-key-file", str(laptop))
        three.ready()
        done = mesh("sync", "--node", three.url)
        assert done.returncode == 1
        assert b"the key laptop may not do this: it needs the role peer" in done.stdout
        _rotation(one, accepted, laptop, made, run)
        texts = [key.read_text().strip() for key in (laptop, monitor, other, ann)]
        for node in (one, two, three):
            assert node.stop() == 0
            assert not any(text in node.log for text in texts)
            assert "Traceback" not in node.log
        _told_in_the_log(one)


def _told_of_peers(
    one: NodeProcess, two: NodeProcess, monitor: Path, run: Callable[..., tuple[int, str]]
) -> None:
    """The status says which key a peer shows, and the log who pushed."""
    assert run(monitor.parent / "laptop.key", "sync")[0] == 0
    assert mesh("sync", "--node", two.url).returncode == 0
    (peer,) = json.loads(run(monitor, "status", "--json")[1])["peers"]
    assert (peer["name"], peer["key"]) == ("two", "other")
    assert "calls with the key other" in run(monitor, "status")[1]
    two.request("POST", "/v1/blobs", b"pushed, since it is announced")
    held = f"/v1/blobs/{digest_of(b'pushed, since it is announced').hex()}/place"
    until(lambda: one.request("GET", held, **bearer(monitor))[0] == 200)


def _told_in_the_log(one: NodeProcess) -> None:
    """Who did what, and who was refused."""
    for words in (
        "put by clients with the key laptop: 1 blob, 10 B",
        "pushed by other nodes with the key other: 1 blob",
        "order peers/add, given with the key ann",
        "order peers/add, given with the control key and the key monitor",
        "order reload, given with the key ann",
        "order scrub/pause, given with the key ann",
        "refused: POST /v1/scrub/pause from 127.0.0.1, with the key laptop",
    ):
        assert words in one.log
    # A storm of refusals is a line in ten seconds.
    refused = [line for line in one.errors if "refused: " in line]
    assert len(refused) <= 8


def _orders(node: NodeProcess, base: Path, ann: Path, run: Callable[..., tuple[int, str]]) -> None:
    """An admin gives orders without the control key; nobody else does."""
    (node.data / "control.key").rename(base / "hidden")
    assert run(ann, "peers", "add", "b=127.0.0.1:1")[0] == 0
    code, said = run(ann, "peers", "list")
    assert code == 0
    assert re.search(r"^b .*127\.0\.0\.1:1", said, re.M)
    assert run(ann, "peers", "remove", "b")[0] == 0
    for name in ("laptop", "monitor"):
        code, said = run(base / f"{name}.key", "peers", "remove", "b")
        assert code == 1
        assert "or a key with the role admin" in said
    # Any key together with the control key does as well.
    for code, words in ((0, ("peers", "add", "c=127.0.0.1:1")), (0, ("peers", "remove", "c"))):
        with_key = (*words, "--control-key-file", base / "hidden")
        assert run(base / "monitor.key", *with_key)[0] == code


def _rotation(
    node: NodeProcess,
    accepted: Path,
    laptop: Path,
    made: Callable[[str, str], Path],
    run: Callable[..., tuple[int, str]],
) -> None:
    """Keys come and go, and roles change, without a restart."""
    newer = made("newer", "append")
    asked = ("GET", "/v1/blobs")
    assert node.request(*asked, **bearer(newer))[0] == 401
    node.process.send_signal(signal.SIGHUP)
    until(lambda: node.request(*asked, **bearer(newer))[0] == 200)
    assert node.request(*asked, **bearer(laptop))[0] == 200
    until(lambda: "there are 5 now: newer is new" in node.log)
    listening = http.client.HTTPConnection(*node.address, timeout=60)
    listening.request("GET", "/v1/events", headers=bearer(laptop))
    events = listening.getresponse()
    assert b"began" in events.readline()
    assert mesh("key", "remove", "laptop", "--key-file", accepted).returncode == 0
    text = accepted.read_text().replace("newer append ", "newer write ")
    accepted.write_text(text)
    code, said = run(accepted.parent / "ann.key", "reload")
    assert code == 0
    assert "there are 4 now: laptop is gone, newer may write now" in said
    assert node.request(*asked, **bearer(laptop))[0] == 401
    # Who listens with a key that is gone hears nothing more.
    boss = bearer(accepted.parent / "ann.key")
    assert node.request("POST", "/v1/blobs", b"after laptop has gone", **boss)[0] == 201
    unheard = digest_of(b"after laptop has gone").hex().encode()
    assert not any(unheard in line for line in iter(events.readline, b""))
    listening.close()
    assert node.request(*asked, **bearer(newer))[0] == 403
    # What is wrong changes nothing, and is said without the line.
    accepted.write_text(text + "bad reader SECRET\n")
    code, said = run(accepted.parent / "ann.key", "reload")
    assert code == 2
    assert "nothing was changed: key 5 in" in said
    assert "SECRET" not in said
    assert node.request(*asked, **bearer(accepted.parent / "ann.key"))[0] == 200
    accepted.write_text(text)
    accepted.chmod(0o644)
    assert run(accepted.parent / "ann.key", "reload")[0] == 0
    until(lambda: "others can read or write key file" in node.log)


# What people do with a key of each role, command by command; and what they cannot.
WORK = {
    "append": (
        ["put --tree DIR --host atlas", "wait", "ls", "has NAME", "show NAME", "get NAME -o OUT",
         "get --tree latest:atlasDIR NEW", "diff two --count", "errors", "status"],
        ["scrub start", "errors --retry", "peers pause two"],
    ),
    "write": (
        ["put --tree DIR", "put -", "sync", "status", "scrub resume", "errors --retry"],
        ["ls", "get NAME -o OUT", "diff two --count", "reload"],
    ),
    "read": (
        ["ls", "has NAME", "get NAME -o OUT", "trees", "scrub status", "peers list"],
        ["put -", "wait", "sync", "errors --retry", "reload"],
    ),
    "admin": (
        ["put -", "ls", "wait", "scrub resume", "reload", "peers pause two", "config running"],
        [],
    ),
}  # fmt: skip


def test_each_role_does_its_work_and_no_other(tmp_path: Path) -> None:
    accepted, tree = tmp_path / "mesh.key", tmp_path / "tree"
    name, cache = digest_of(b"of append").hex(), str(tmp_path / "cache")
    tree.mkdir()
    with nodes() as start:
        for role in (*WORK, "peer"):
            mesh("key", "new", role, "--roles", role, "--key-file", accepted, "-o", tmp_path / role)
        two = start(tmp_path / "two", "--key-file", str(accepted))
        options = ["--peers", f"two={two.place}", "--peer-key-file", str(tmp_path / "peer")]
        one = start(tmp_path / "one", "--key-file", str(accepted), *options)
        (one.data / "control.key").unlink()
        for node in (one, two):
            until(lambda node=node: _state(node, tmp_path / "admin") == "ready")
        for role, (good, bad) in WORK.items():
            file = tree / role
            file.write_bytes(f"of {role}".encode())
            env = {
                "MESH_NODE": one.url,
                "MESH_KEY_FILE": str(tmp_path / role),
                "XDG_CACHE_HOME": cache,
            }
            for words in (*good, *bad):
                line = words.replace("NAME", name).split()
                line = [each.replace("DIR", str(tree)) for each in line]
                done = mesh(*line, cwd=tmp_path, stdin=f"by {role}".encode(), env=env)
                code = 0 if words in good else 3 if line[0] == "diff" else 1
                assert done.returncode == code, (role, words, done)
                if words in bad:
                    said = done.stderr.decode() + done.stdout.decode()
                    assert re.search(f"the key {role} may not|needs the control key", said), words
                    assert "admin" in said


def _state(node: NodeProcess, key: Path) -> str:
    return str(json.loads(node.request("GET", "/v1/status", **bearer(key))[2])["state"])
