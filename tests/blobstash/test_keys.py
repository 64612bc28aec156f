"""Keys: where they come from, who must show one, and that they are shown nowhere."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from mesh.config import flag_peers, load, parse_peer
from mesh.errors import ConfigError
from tests.blobstash.fake_server import FakeServer, name_of
from tests.blobstash.test_exchanges import ask
from tests.processes import READY, NodeProcess, mesh, nodes, until

FIRST, SECOND = "first-key", "sEcond+/=key"
KEYS = f"# two keys, and a comment\n\n{FIRST}\r\n  {SECOND}  \n#not-a-key\n"
BLOB = b"a blob behind a key"
NAME = name_of(BLOB)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def basic(key: str, user: str = "") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()}


def one_line(result: subprocess.CompletedProcess[bytes], code: int) -> str:
    """The one line that a command failed with."""
    assert result.returncode == code, result
    assert result.stdout == b""
    assert result.stderr.count(b"\n") == 1
    assert result.stderr.startswith(b"mesh: ")
    return result.stderr.decode()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def key_file(base: Path) -> str:
    file = base / "keys"
    file.write_text(KEYS)
    return str(file)


@pytest.fixture(scope="module")
def guarded(base: Path, key_file: str) -> Iterator[NodeProcess]:
    """A node that wants a key."""
    with nodes() as start:
        node = start(base / "guarded", "--key-file", key_file)
        put = ("PUT", f"/v1/blobs/{NAME}", BLOB, bearer(FIRST))
        until(lambda: ask(node, *put)[0] in (200, 201))
        yield node
        assert node.stop() == 0
        assert not any("Traceback" in line for line in node.errors)
        for line in node.errors:
            assert FIRST not in line
            assert SECOND not in line


# --- where keys come from -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "holds no key"),
        (b"\n  \n# only a comment\n", "holds no key"),
        ("schlüssel\n".encode(), "beyond ASCII"),
        (b"two words\n", "blanks"),
        (b"\x00\n", "key 1"),
        ("directory", "directory"),
    ],
)
def test_a_key_file_that_is_none_is_refused(tmp_path: Path, content: object, words: str) -> None:
    file = tmp_path / "the keys"
    if content == "directory":
        file.mkdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    data = str(tmp_path / "data")
    said = one_line(mesh("run", "--data", data, "--key-file", str(file)), 2)
    assert str(file) in said
    assert words in said
    assert "schl" not in said
    assert not Path(data).exists()


def test_a_key_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(FIRST)
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read everything")
    assert "Permission denied" in one_line(mesh("run", "--key-file", str(file)), 2)


def test_the_environment_names_a_key_file_too(tmp_path: Path) -> None:
    environment = {"MESH_KEY_FILE": str(tmp_path / "absent")}
    assert "absent" in one_line(mesh("run", env=environment), 2)
    assert "absent" in one_line(mesh("ls", env=environment), 2)


def test_a_peer_key_file_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch()
    arguments = ("--data", str(tmp_path / "data"), "--peer-key-file", str(file))
    assert "empty" in one_line(mesh("run", *arguments), 2)


# --- who must show one ----------------------------------------------------------------------------


def test_beyond_loopback_a_key_is_wanted(tmp_path: Path, key_file: str) -> None:
    everywhere = ("run", "--data", str(tmp_path / "data"), "--listen", "0.0.0.0:0")
    assert "--key-file" in one_line(mesh(*everywhere), 2)
    assert not (tmp_path / "data").exists()
    with nodes() as start:
        node = start(tmp_path / "insecure", "--insecure", listen="0.0.0.0:0")
        assert node.request("GET", "/v1/status")[0] == 200
        node = start(tmp_path / "guarded", "--key-file", key_file, listen="0.0.0.0:0")
        assert node.request("GET", "/v1/status")[0] == 401
        assert node.request("GET", "/v1/status", None, **bearer(FIRST))[0] == 200


def test_on_loopback_without_a_key_credentials_are_ignored(tmp_path: Path) -> None:
    with nodes() as start:
        node = start(tmp_path / "open")
        until(lambda: node.status()["state"] == "ready")
        for headers in ({"Authorization": None}, bearer("x"), basic("x"), basic("x", "user")):
            assert ask(node, "GET", "/v1/status", b"", headers)[0] == 200
            assert ask(node, "GET", "/api/sync/state", b"", headers)[0] == 200


@pytest.mark.parametrize("key", [FIRST, SECOND])
def test_each_key_of_the_file_opens(guarded: NodeProcess, key: str) -> None:
    assert ask(guarded, "GET", f"/v1/blobs/{NAME}", b"", bearer(key))[2] == BLOB
    assert ask(guarded, "GET", f"/api/blobstore/blob/{NAME}", b"", basic(key))[2] == BLOB


NATIVE = [
    ("GET", "/v1/status"),
    ("GET", f"/v1/blobs/{NAME}"),
    ("GET", "/v1/blobs"),
    ("PUT", f"/v1/blobs/{name_of(b'new')}"),
    ("POST", "/v1/batch"),
    ("POST", "/v1/wait"),
    ("POST", "/mesh/v1/root"),
    ("POST", "/mesh/v1/push"),
    ("GET", "/nothing"),
]
BLOBSTASH = [
    ("GET", "/api/ping"),
    ("GET", "/api/sync/state"),
    ("GET", "/api/sync/state/leaf/27"),
    ("POST", "/api/sync/_trigger?url=http://127.0.0.1:1"),
    ("GET", "/api/sync/_trigger?url=http://127.0.0.1:1&api_key=" + FIRST),
    ("GET", f"/api/blobstore/blob/{NAME}"),
    ("HEAD", f"/api/blobstore/blob/{NAME}"),
    ("POST", f"/api/blobstore/blob/{name_of(b'new')}"),
    ("GET", "/api/blobstore/blobs"),
    ("POST", "/api/blobstore/upload"),
    ("GET", "/api/nothing"),
]
WRONG = [
    {"Authorization": None},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": "Basic"},
    {"Authorization": FIRST},
    bearer(""),
    bearer("wrong"),
    bearer("schlüssel"),
    bearer("#not-a-key"),
    bearer(FIRST[:-1]),
    bearer(FIRST + "x"),
    basic(""),
    basic("wrong"),
    basic("schlüssel"),
    basic("#not-a-key"),
    basic(FIRST, "user"),
    {"Authorization": "Basic " + FIRST},
    {"Authorization": "Basic \xe4\xf6\xfc"},
    {"Authorization": "Basic " + base64.b64encode(FIRST.encode()).decode()},
    {"Authorization": "Basic !!!" + base64.b64encode(f":{FIRST}".encode()).decode()},
]


@pytest.mark.parametrize(("method", "path"), NATIVE + BLOBSTASH)
def test_without_the_right_key_there_is_nothing_but_401(
    guarded: NodeProcess, method: str, path: str
) -> None:
    blobstash = path.startswith("/api/")
    others = [basic(FIRST)] if not blobstash else [bearer(FIRST)]
    body = b"new" if method in ("PUT", "POST") else b""
    for wrong in WRONG + others:
        status, headers, answer = ask(guarded, method, path, body, wrong)
        assert status == 401, wrong
        assert headers["content-type"] == "application/json"
        scheme = 'Basic realm="BlobStash"' if blobstash else 'Bearer realm="mesh"'
        assert headers["www-authenticate"] == scheme
        if method != "HEAD":
            assert json.loads(answer)["error"]
    assert ask(guarded, "HEAD", f"/v1/blobs/{name_of(b'new')}", b"", bearer(FIRST))[0] == 404


def test_client_commands_take_a_key_file(guarded: NodeProcess, key_file: str, base: Path) -> None:
    (base / "file").write_bytes(BLOB)
    node = ("--node", guarded.url)
    wrong = base / "wrong"
    wrong.write_text("wrong\n")
    for command in (("put", str(base / "file")), ("get", NAME), ("ls",)):
        result = mesh(*command, *node, "--key-file", key_file)
        assert result.returncode == 0, result.stderr
        assert NAME.encode() in result.stdout or result.stdout == BLOB
    assert mesh("status", *node, env={"MESH_KEY_FILE": key_file}).returncode == 0
    for arguments in ((), ("--key-file", str(wrong))):
        assert "key" in one_line(mesh("ls", *node, *arguments), 1)


# --- peers ----------------------------------------------------------------------------------------


def test_nodes_with_keys_are_each_others_peers(
    guarded: NodeProcess, key_file: str, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    second.write_text(SECOND)
    table = tmp_path / "table.toml"
    table.write_text(f'[[peers]]\nurl = "{guarded.url}"\nkey_file = "{second}"\n')
    with nodes() as start:
        good = start(tmp_path / "good", "--peers", guarded.url, "--peer-key-file", str(second))
        tabled = start(tmp_path / "tabled", "--config", str(table))
        without = start(tmp_path / "without", "--peers", guarded.url)
        name = guarded.place
        for node in (good, tabled):
            until(lambda node=node: node.status()["state"] == "ready")
            result = mesh("sync", "--node", node.url)
            assert result.returncode == 0, result.stdout
            assert node.request("GET", f"/v1/blobs/{NAME}")[2] == BLOB
        until(lambda: without.status()["state"] == "ready")
        result = mesh("sync", "--node", without.url)
        assert result.returncode == 1
        assert f"{name} declined: this node wants a key" in result.stdout.decode()
        (peer,) = without.status()["peers"]
        assert peer["state"] == "failing"
        assert "wants a key" in peer["last_error"]
        assert without.status()["blobs"] == 0


# --- and they are shown nowhere -------------------------------------------------------------------

# As they are, and as they may stand in a URL.
SECRETS = {
    "pla1nSECRET": "pla1nSECRET",
    "bas/e64+SECRET==": "bas/e64+SECRET==",
    "p@rc:ntSECRET%": quote("p@rc:ntSECRET%", safe=""),
    "at@signSECRET": "at@signSECRET",
    "colon:SECRET": "colon:SECRET",
    "quest?ion#SECRET": quote("quest?ion#SECRET", safe=""),
}


def leaks(text: str) -> list[str]:
    """What is shown of any secret: each has a part before and one with SECRET in it."""
    parts = ("pla1n", "bas/", "e64+", "p@rc", "p%40rc", "at@", "colon:", "quest", "SECRET")
    return [part for part in parts if part in text]


@pytest.mark.parametrize("where", ["flags", "file"])
def test_a_key_in_a_url_is_shown_nowhere(tmp_path: Path, where: str) -> None:
    with ExitStack() as stack:
        servers = {
            key: stack.enter_context(FakeServer([b"of " + key.encode()], key=key))
            for key in SECRETS
        }
        urls = [f"blobstash+http://:{SECRETS[key]}@{servers[key].place}" for key in SECRETS]
        options = ["--data", str(tmp_path / "data"), "--log-level", "debug"]
        if where == "flags":
            options += ["--interval", "0.2", "--peers", ",".join(urls[:3])]
            options += [f"--peers={url}" for url in urls[3:]]
        else:
            tables = "".join(f"[[peers]]\nurl = {json.dumps(url)}\n" for url in urls)
            (tmp_path / "mesh.toml").write_text(f"interval_seconds = 0.2\n{tables}")
            options += ["--config", str(tmp_path / "mesh.toml"), "--backend", "trio"]
        shown = _shown_by_a_node(tmp_path, options, list(servers.values()))
    assert "Unauthorized" in shown
    assert "Traceback" not in shown
    assert leaks(shown) == [], shown


def _shown_by_a_node(base: Path, options: list[str], servers: list[FakeServer]) -> str:
    """All that a node shows while its peers are well, and then are not."""
    command = [sys.executable, "-m", "mesh", "run", "--listen", "127.0.0.1:0", *options]
    with (base / "out").open("wb") as out, (base / "err").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
    try:
        url = until(lambda: READY.search((base / "out").read_text()), 20)[1]
        shown = [Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()]

        def status() -> dict[str, Any]:
            with urllib.request.urlopen(url + "/v1/status") as answer:
                shown.append(answer.read().decode())
            return json.loads(shown[-1])

        until(lambda: status()["blobs"] == len(servers), 20)
        assert all(server.unauthorized == 0 for server in servers)
        # Trouble of two kinds, which is said in words.
        for number, server in enumerate(servers):
            if number % 2:
                server.key = "changed"
            else:
                server.faults.close.add("state")
        until(lambda: all(peer["last_error"] for peer in status()["peers"]), 30)
        for words in ("status", "sync"):
            result = mesh(words, "--node", url)
            shown.append((result.stdout + result.stderr).decode())
    finally:
        process.terminate()
        process.wait(30)
    return "".join([*shown, (base / "out").read_text(), (base / "err").read_text()])


@pytest.mark.parametrize(
    "text",
    [
        "blobstash+http://:pla1nSECRET@host:8050/path",
        "blobstash+http://:pla1nSECRET@host:8050?x=y",
        "blobstash+http://:pla1nSECRET@host:port",
        "blobstash+http://:pla1nSECRET@host:0",
        "blobstash+http://:pla1nSECRET@",
        "blobstash+http://:pla1nSECRET@ho st",
        "blobstash+http://:pla1nSECRET@[::1",
        "blobstash+http://:bas/e64+SECRET==@host:port",
        "blobstash+http://:at@signSECRET@host:port",
        "blobstash+http://:colon:SECRET@host:port",
        "blobstash+http://:schlüsselSECRET@host",
        "blobstash+http://:blank%20SECRET@host",
        "blobstash+http://user:pla1nSECRET@host",
        "blobstash+http://pla1nSECRET@host",
        "blobstash+http:/:pla1nSECRET@host:8050",
        "blobstash+http//:pla1nSECRET@host:8050",
        "blobstash+ftp://:pla1nSECRET@host",
        "blobstash:http://:pla1nSECRET@host",
        "http://:pla1nSECRET@host",
        "http://user:pla1nSECRET@host",
        ":pla1nSECRET@host:8050",
        "no name=blobstash+http://:pla1nSECRET@host",
        "blobstash+http://:pla1nSECRET@host:8050,,",
        "blobstash+http://:pla1n,SECRET@host:8050",
    ],
)
def test_a_malformed_peer_is_refused_without_its_key(text: str) -> None:
    for environ, flag in (({"MESH_PEERS": text}, None), ({}, [text])):
        with pytest.raises(ConfigError) as caught:
            load(None, environ, {"peers": flag_peers(flag)})
        assert leaks(str(caught.value)) == []
        assert "schl" not in str(caught.value)
        assert "blank" not in str(caught.value).replace("blanks", "")
        assert "\n" not in str(caught.value)


def test_a_malformed_peer_is_one_line_without_its_key(tmp_path: Path) -> None:
    bad = "blobstash+http://:pla1nSECRET@host:port"
    file = tmp_path / "mesh.toml"
    file.write_text(f"[[peers]]\nurl = {json.dumps(bad)}\n")
    for arguments in (("--peers", bad), ("--config", str(file))):
        said = one_line(mesh("run", "--data", str(tmp_path / "data"), *arguments), 2)
        assert leaks(said) == []
        assert "not a peer" in said


@pytest.mark.parametrize("key", SECRETS)
def test_an_address_has_its_key_and_does_not_show_it(key: str) -> None:
    address = parse_peer(f"stash=blobstash+http://:{SECRETS[key]}@host:8051")
    assert address.key is not None
    assert address.key.reveal() == key.encode()
    assert (address.url, address.name, address.place) == ("http://host:8051", "stash", "host:8051")
    assert leaks(f"{address!r} {address}") == []


# --- off ------------------------------------------------------------------------------------------


def test_blobstash_can_be_turned_off(tmp_path: Path, key_file: str) -> None:
    with nodes() as start:
        node = start(tmp_path / "off", "--no-blobstash", "--key-file", key_file)
        until(lambda: ask(node, "GET", "/v1/status", b"", bearer(FIRST))[0] == 200)
        for method, path in BLOBSTASH:
            assert ask(node, method, path, b"", basic(FIRST))[0] == 404, path
    settings = load(None, {"MESH_BLOBSTASH": "0"}, {})
    assert not settings.blobstash
