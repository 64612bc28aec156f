"""What a page in a browser cannot make a node do: with keys, without, and beyond loopback."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.core.digest import digest_of
from tests.processes import NodeProcess, nodes

KEY = "a-key-of-some-length"
BEARER = {"Authorization": f"Bearer {KEY}"}
BASIC = {"Authorization": "Basic " + base64.b64encode(f":{KEY}".encode()).decode()}
BODY = b"what a page wanted to store"
PATH = f"/v1/blobs/{digest_of(BODY).hex()}"

KINDS = ("loopback", "insecure", "keyed")


class Asked:
    """A node of one kind, asked under loopback's address whatever it listens on."""

    def __init__(self, node: NodeProcess, kind: str) -> None:
        self.node = node
        self.keyed = kind == "keyed"
        self.node.url = f"http://127.0.0.1:{node.address[1]}"

    def __call__(self, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
        key = {} if not self.keyed else BASIC if path.startswith("/api/") else BEARER
        return self.node.request(method, path, body, **{**key, **headers})[0]


@pytest.fixture(scope="module", params=KINDS)
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    home = tmp_path_factory.mktemp(request.param)
    key, config = home / "key", home / "mesh.toml"
    key.write_text(KEY + "\n")
    key.chmod(0o600)
    config.write_text('host_names = ["Mesh.Example", "node-a"]\n')
    how = {
        "loopback": ((), "127.0.0.1:0"),
        "insecure": (("--insecure",), "0.0.0.0:0"),
        "keyed": (("--key-file", str(key)), "0.0.0.0:0"),
    }
    args, listen = how[request.param]
    backend = "trio" if request.param == "insecure" else "asyncio"
    with nodes() as start:
        started = start(
            home / "data", *args, "--config", str(config), listen=listen, backend=backend
        )
        yield Asked(started, request.param)
        assert started.stop() == 0


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LocalHost:7280", "127.0.0.1", "10.1.2.3:80", "[::1]:7280", "[FE80::1]"),
        *("mesh.example", "MESH.EXAMPLE:7280", "mesh.example.", "Node-A"),
        socket.gethostname().upper(),
    ],
)
def test_a_node_answers_to_its_names_and_to_addresses(asked: Asked, host: str) -> None:
    assert asked("GET", "/v1/status", Host=host) == 200
    own = f"http://{host.lower()}"
    assert asked("POST", "/v1/blobs", b"of its own", Host=host, Origin=own) in (200, 201)


@pytest.mark.parametrize(
    "host", ["evil.example", "EVIL.example:80", "mesh.example.evil", "x.mesh.example", "10"]
)
def test_a_node_without_keys_answers_to_no_other_name(asked: Asked, host: str) -> None:
    """One with keys does: a page that got there has none to show."""
    for method, path in (("GET", "/v1/status"), ("PUT", PATH), ("GET", "/api/sync/state")):
        expected = (200, 201) if asked.keyed else (403,)
        assert asked(method, path, BODY if method == "PUT" else None, Host=host) in expected
    assert asked("HEAD", PATH) == (200 if asked.keyed else 404)


FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": ""},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
]
NEW = b"what only a page would store"
CHANGES = [
    ("PUT", f"/v1/blobs/{digest_of(NEW).hex()}"),
    ("POST", "/v1/blobs"),
    ("POST", "/v1/batch"),
    ("POST", "/mesh/v1/push/" + "ab" * 16),
    ("POST", "/v1/sync"),
    ("POST", f"/api/blobstore/blob/{digest_of(NEW).hex()}"),
    ("POST", "/api/sync/_trigger"),
    ("GET", "/api/sync/_trigger?url=http://127.0.0.1:1"),
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_page_of_another_origin_changes_nothing(asked: Asked, headers: dict[str, str]) -> None:
    for method, path in CHANGES:
        body = None if method == "GET" else NEW
        assert asked(method, path, body, **headers) == 403, path
    assert asked("HEAD", f"/v1/blobs/{digest_of(NEW).hex()}") == 404
    assert asked("GET", "/v1/status", **headers) == 200


def test_a_page_of_the_node_itself_may_change_something(asked: Asked) -> None:
    host = asked.node.place
    for site in ({"Sec_Fetch_Site": "same-origin"}, {"Sec_Fetch_Site": "none"}, {}):
        assert asked("POST", "/v1/blobs", b"own", Origin=f"http://{host}", **site) in (200, 201)


def test_any_name_is_taken_where_that_is_said(tmp_path: Path) -> None:
    config = tmp_path / "mesh.toml"
    config.write_text('host_names = ["*"]\n')
    with nodes() as start:
        node = start(tmp_path / "data", "--config", str(config))
        assert node.request("GET", "/v1/status", Host="any.example")[0] == 200
