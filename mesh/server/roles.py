"""Which role each route needs: the one table of it.

A route that is not here is for admins alone, so that one which somebody adds and forgets opens
nothing; tests/server/test_roles.py finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from werkzeug.routing import Map, Rule

from mesh.config import ROLES

Need = frozenset[str]
"""The roles of which a key must have one; none: any key will do."""

ANY: Need = frozenset()
READ: Need = frozenset({"read", "append"})
PUT: Need = frozenset({"write", "append"})
EITHER = READ | PUT
# What changes how the node goes about its blobs. A backup client, which may be broken into, has no
# part in it.
LOOK_AFTER: Need = frozenset({"write"})
PEER: Need = frozenset({"peer"})
# BlobStash servers are clients and peers in one: they read and put by the same requests.
READ_OR_PEER, PUT_OR_PEER = READ | PEER, PUT | PEER
# An admin's key, or any key and a proof of the control key, which is not seen before the body is:
# control.py decides. tests/server/test_roles.py looks whether it does.
ORDER: Need = frozenset()
ADMIN: Need = frozenset({"admin"})

NEEDS: dict[str, Need] = {
    # `put` asks for the limit of a blob, and every command whether the node is alive.
    "GET /v1/status": ANY,
    "GET /v1/blobs/<text>": READ,
    "GET /v1/blobs": READ,
    "POST /v1/batch/get": READ,
    "GET /v1/blobs/<text>/place": READ,
    "POST /v1/holders": READ,
    "GET /v1/snapshots": READ,
    "GET /v1/events": READ,
    "GET /v1/errors": READ,
    "GET /v1/peers": READ,
    "GET /v1/peers/<path:name>/diff": READ,
    "GET /v1/scrub": READ,
    "POST /v1/lacking": EITHER,
    "PUT /v1/blobs/<text>": PUT,
    "POST /v1/blobs": PUT,
    "POST /v1/batch": PUT,
    # Whoever has put something may see to it that it is everywhere.
    "POST /v1/wait": PUT,
    "POST /v1/peers/<path:name>/sync": PUT,
    "POST /v1/errors/retry": LOOK_AFTER,
    "POST /v1/scrub/<any(start,pause,resume):verb>": LOOK_AFTER,
    "GET /api/ping": ANY,
    "GET /api/sync/state": READ_OR_PEER,
    "GET /api/sync/state/leaf/<path:prefix>": READ_OR_PEER,
    "GET /api/sync/_trigger": PUT,
    "POST /api/sync/_trigger": PUT,
    "GET /api/blobstore/blob/<path:text>": READ_OR_PEER,
    "GET /api/blobstore/blobs": READ_OR_PEER,
    "POST /api/blobstore/blob/<path:text>": PUT_OR_PEER,
    "POST /api/blobstore/upload": PUT_OR_PEER,
    "POST /v1/control/challenge": ANY,
    "POST /v1/control/peers/add": ORDER,
    "POST /v1/control/peers/remove": ORDER,
    "POST /v1/control/peers/pause": ORDER,
    "POST /v1/control/peers/resume": ORDER,
    "POST /v1/control/peers/set-url": ORDER,
    "POST /v1/control/reload": ORDER,
    "POST /v1/control/config": ORDER,
}

# All that nodes ask of each other, whatever comes to that.
_OF_PEERS = "/mesh/v1/"


def needs(rules: Map) -> Callable[[Rule | None, str], Need]:
    """What a request needs, by the rule that it matches and its method."""
    found = {(rule.rule, method): _need(rule.rule, method) for rule, method in asked(rules)}

    def of(rule: Rule | None, method: str) -> Need:
        if rule is None or method == "OPTIONS":  # 404, 405, or which methods there are
            return ANY
        need = found.get((rule.rule, method))
        return ADMIN if need is None else need

    return of


def _need(rule: str, method: str) -> Need | None:
    if rule.startswith(_OF_PEERS):
        return PEER
    return NEEDS.get(f"{'GET' if method == 'HEAD' else method} {rule}")


def unlisted(rules: Map) -> list[str]:
    """The routes for which the table has no role."""
    return sorted(f"{method} {rule.rule}" for rule, method in asked(rules)
                  if _need(rule.rule, method) is None)  # fmt: skip


def asked(rules: Map) -> Iterator[tuple[Rule, str]]:
    """Every rule of an application with every method that it takes."""
    every: Iterable[Rule] = rules.iter_rules()
    for rule in every:
        for method in sorted(rule.methods or ()):
            if method != "OPTIONS":
                yield rule, method


def said(need: Need) -> str:
    """What a key lacks, for people."""
    return " or ".join(sorted(need | ADMIN, key=ROLES.index))
