"""Which key opens which route: over HTTP, on nodes of both backends."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Iterator
from random import Random
from typing import Any

import anyio
import pytest
from werkzeug.routing import Map, Rule

from mesh.config import Config
from mesh.core.digest import digest_of
from mesh.node import Identity, Node
from mesh.offload import Inline
from mesh.server.app import routed
from mesh.server.control import Control
from mesh.server.roles import NEEDS, ORDER, asked, needs, unlisted
from mesh.store.memory import MemoryStore
from tests.blobstash.test_exchanges import ask
from tests.processes import NodeProcess, nodes, until

BLOB = b"a blob behind a key"
NAME = digest_of(BLOB).hex()

# What a key may do, by its roles; kept apart from the table of the server, which it judges.
KEYS = {
    "plain": None, "reader": "read", "writer": "write", "backup": "append", "node": "peer",
    "boss": "admin", "both": "read,write",
}  # fmt: skip
READERS = {"plain", "reader", "backup", "boss", "both"}
PUTTERS = {"plain", "writer", "backup", "boss", "both"}
WRITERS = PUTTERS - {"backup"}
NODES = {"plain", "node", "boss"}
EVERYBODY = set(KEYS)

# A request that does no harm, and whose key may make it. Malformed ones come that far, too.
TABLE = [
    ("GET", "/v1/status", EVERYBODY),
    ("OPTIONS", "/v1/status", EVERYBODY),
    ("GET", "/nothing", EVERYBODY),
    ("DELETE", f"/v1/blobs/{NAME}", EVERYBODY),
    ("GET", f"/v1/blobs/{NAME}", READERS),
    ("HEAD", f"/v1/blobs/{NAME}", READERS),
    ("GET", "/v1/blobs", READERS),
    ("POST", "/v1/batch/get", READERS),
    ("GET", f"/v1/blobs/{NAME}/place", READERS),
    ("POST", "/v1/holders", READERS),
    ("GET", "/v1/snapshots", READERS),
    ("GET", "/v1/errors", READERS),
    ("GET", "/v1/peers", READERS),
    ("GET", "/v1/peers/x/diff", READERS),
    ("GET", "/v1/scrub", READERS),
    ("POST", "/v1/lacking", READERS | PUTTERS),
    ("PUT", f"/v1/blobs/{NAME}", PUTTERS),
    ("POST", "/v1/blobs", PUTTERS),
    ("POST", "/v1/batch", PUTTERS),
    ("POST", "/v1/wait", PUTTERS),
    ("POST", "/v1/peers/x/sync", PUTTERS),
    ("POST", "/v1/errors/retry", WRITERS),
    ("POST", "/v1/scrub/resume", WRITERS),
    ("POST", "/v1/control/challenge", EVERYBODY),
    *(("POST", f"/mesh/v1/{verb}", NODES) for verb in
      ("root", "cells", "find", "tree", "offer", "standing", "batch", "blob/x", "push/x")),
    ("GET", "/api/ping", EVERYBODY),
    ("GET", "/api/sync/state", READERS | NODES),
    ("GET", "/api/sync/state/leaf/27", READERS | NODES),
    ("POST", "/api/sync/_trigger", PUTTERS),
    ("GET", "/api/sync/_trigger", PUTTERS),
    ("GET", f"/api/blobstore/blob/{NAME}", READERS | NODES),
    ("HEAD", f"/api/blobstore/blob/{NAME}", READERS | NODES),
    ("POST", f"/api/blobstore/blob/{NAME}", PUTTERS | NODES),
    ("GET", "/api/blobstore/blobs", READERS | NODES),
    ("POST", "/api/blobstore/upload", PUTTERS | NODES),
]  # fmt: skip
ORDERS = [rule.partition(" ")[2] for rule in NEEDS if rule.startswith("POST /v1/control/")]


def nobody(*_: Any) -> Any:
    raise AssertionError("it has no peers")


@pytest.fixture(scope="module")
def rules() -> Map:
    """Every route that a node can have."""

    async def made() -> Map:
        identity = Identity(b"n" * 16, b"i" * 8, "node")
        node = Node(Config(), identity, MemoryStore(), nobody, Inline(), Random(0))
        control = Control(None, "data", tuple, nobody, nobody)
        return routed(node, "asyncio", nobody, anyio.Event(), control).url_map

    return anyio.run(made)


def test_every_route_has_its_role(rules: Map) -> None:
    assert unlisted(rules) == []
    every = {f"{method} {rule.rule}" for rule, method in asked(rules)}
    assert {
        each.replace("GET", "HEAD", 1) if each not in every else each for each in NEEDS
    } <= every
    assert "POST /mesh/v1/<any(root):verb>" in every


def test_a_route_that_has_no_role_is_found(rules: Map) -> None:
    forgotten = Map([Rule("/v1/forgotten", methods=["GET", "POST"], endpoint="forgotten")])
    assert unlisted(forgotten) == ["GET /v1/forgotten", "HEAD /v1/forgotten", "POST /v1/forgotten"]
    (rule,) = forgotten.iter_rules()
    assert needs(forgotten)(rule, "GET") == {"admin"}


def test_every_route_is_in_the_table_of_this_test(rules: Map) -> None:
    adapter = rules.bind("node")
    seen = {
        adapter.match(path.partition("?")[0], method, return_rule=True)[0].rule
        for method, path, _ in TABLE
        if path != "/nothing" and method not in ("OPTIONS", "DELETE")
    }
    seen |= set(ORDERS)
    missing = {rule.rule for rule, _ in asked(rules)} - seen
    # These are one rule twice, with and without what stands behind the verb.
    missing = {rule for rule in missing if not rule.startswith("/mesh/v1/")}
    assert missing == {"/v1/events"}  # it has no end, so it is asked apart


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    base = tmp_path_factory.mktemp("roles")
    file = base / "keys"
    lines = [
        f"{name} {roles} {name}-KEY" if roles else f"{name}-KEY" for name, roles in KEYS.items()
    ]
    file.write_text("\n".join(["# keys", *lines]) + "\n")
    file.chmod(0o600)
    with nodes() as start:
        started = start(base / "data", "--key-file", str(file), backend=request.param)
        until(
            lambda: (
                ask(started, "PUT", f"/v1/blobs/{NAME}", BLOB, shown("boss", "/v1"))[0]
                in (200, 201)
            )
        )
        yield started
        assert started.stop() == 0
        assert "Traceback" not in started.log
        assert "KEY" not in started.log


def shown(name: str, path: str) -> dict[str, str]:
    """The header with a key, as the path takes it."""
    if path.startswith("/api/"):
        text = base64.b64encode(f":{name}-KEY".encode()).decode()
        return {"Authorization": f"Basic {text}"}
    return {"Authorization": f"Bearer {name}-KEY"}


@pytest.mark.parametrize(
    ("method", "path", "may"), TABLE, ids=[f"{each[0]} {each[1][:40]}" for each in TABLE]
)
def test_a_key_opens_what_its_roles_say(
    node: NodeProcess, method: str, path: str, may: set[str]
) -> None:
    body = b"no body of a kind that is taken" if method in ("POST", "PUT") else b""
    for name in KEYS:
        status, _, answer = ask(node, method, path, body, shown(name, path))
        assert (status != 403 or b"not a configured peer" in answer) == (name in may), (
            name,
            answer,
        )
        assert status != 401
        if status == 403 and method != "HEAD" and name not in may:
            called = "key-1" if name == "plain" else name
            said = json.loads(answer)["error"]
            assert re.search(rf"the key {called} may not do this: it needs the role \w+", said)
            assert "KEY" not in said


def test_events_are_for_readers(node: NodeProcess) -> None:
    for name in KEYS:
        with socket.create_connection(node.address, timeout=20) as link:
            head = "GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            link.sendall(f"{head}Authorization: Bearer {name}-KEY\r\n\r\n".encode())
            assert (b" 403 " not in link.recv(64).split(b"\r\n")[0]) == (name in READERS)


def test_the_refusal_names_what_would_do(node: NodeProcess) -> None:
    said = {
        "/v1/blobs": "read or append or admin", "/mesh/v1/root": "peer or admin",
        "/v1/scrub/pause": "write or admin",
    }  # fmt: skip
    for path, words in said.items():
        method = "GET" if path == "/v1/blobs" else "POST"
        name = "writer" if path == "/v1/blobs" else "reader"
        answer = ask(node, method, path, b"", shown(name, path))[2]
        assert json.loads(answer)["error"].endswith(f"it needs the role {words}")


@pytest.mark.parametrize("path", [path for path in ORDERS if not path.endswith("challenge")])
def test_orders_are_for_admins_and_for_the_control_key(node: NodeProcess, path: str) -> None:
    assert NEEDS[f"POST {path}"] is ORDER
    for name in KEYS:
        status, _, answer = ask(node, "POST", path, b"[]", shown(name, path))
        if name == "boss":
            assert status != 403, answer
        else:
            assert status == 403
            assert "role admin" in json.loads(answer)["error"]


def test_no_key_and_a_wrong_key_are_told_apart(node: NodeProcess) -> None:
    def said(header: str | None) -> str:
        status, _, answer = ask(node, "GET", "/v1/status", b"", {"Authorization": header})
        assert status == 401
        return str(json.loads(answer)["error"])

    assert "none was sent" in said(None)
    assert "Authorization: Bearer KEY" in said(None)
    assert "does not accept the key" in said("Bearer wrong-KEY2")
    assert "came otherwise" in said("boss-KEY")
    assert all("KEY2" not in said(header) for header in ("Bearer wrong-KEY2", "wrong-KEY2"))
