"""/v1/peers, and /v1/control/: orders that change where a node's data goes, and to read it again.

The key of a mesh lets its holders read and write blobs. To add a peer is more: it has the node call
somebody, show a key, and hand everything over. So these routes want a key with the role admin, or a
proof of the node's control key (wire/control.py) beside what every route wants. Also on loopback
without any key: other users of the machine can reach the port, and so can pages in a browser, which
cannot send such a header.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio
import msgspec
from quart import Quart, Response, request

from mesh.actors.membership import Add, Move, Order, Pause, Remove
from mesh.config import Key, PeerEntry, Secret, Shown
from mesh.core.spelling import spelled
from mesh.decoding import json_of
from mesh.errors import ConfigError, InputError, Undecodable
from mesh.node import Node
from mesh.server.answers import json, problem
from mesh.server.callers import caller, order
from mesh.server.whole import whole_body
from mesh.status import PeersAnswer, Reloaded
from mesh.wire.control import CHALLENGE_PATH, CONTROL_FILE, HEADER, Challenge, proof

T = TypeVar("T")

# A command asks for a nonce and uses it at once.
_GOOD_FOR = 60.0

# Whoever may ask a node at all can ask for nonces; the oldest go first. A storm of them can only
# delay an order, which is then given again.
_MOST_NONCES = 1024

# A peer's URL, its name and the path of a key file have some hundred bytes.
_MOST_BYTES = 16 * 1024


_ORDERS = "/v1/control/"


class _Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class _Moved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    url: str


@dataclass(frozen=True)
class Control:
    """What control requests need of the node that is not the Node's.

    `key` is None where none could be made. `data`: the data directory. `keys`: those that requests
    of any kind may show now. `reload` reads the configuration again, `shown` tells what is in
    force.
    """

    key: Secret | None
    data: str
    keys: Callable[[], tuple[Key, ...]]
    reload: Callable[[], Awaitable[Reloaded]]
    shown: Callable[[], dict[str, Shown]]


class Nonces:
    """Those that were given out and not used; told the time."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()

    def give(self, now: float) -> str:
        """A new one."""
        nonce = secrets.token_hex(16)
        self._until[nonce] = now + _GOOD_FOR
        while len(self._until) > _MOST_NONCES:
            self._until.popitem(last=False)
        return nonce

    def take(self, nonce: str, now: float) -> bool:
        """Whether it was given out and is still good; it is not any more afterwards."""
        return self._until.pop(nonce, float("-inf")) > now


def add_routes(app: Quart, node: Node, control: Control) -> None:
    """All of them."""
    routes = _Control(node, control)
    app.add_url_rule("/v1/peers", "peers", routes.listing, methods=["GET"])
    app.add_url_rule(CHALLENGE_PATH, "challenge", routes.challenge, methods=["POST"])
    rules: dict[str, Callable[[], Awaitable[Response]]] = {
        "peers/add": partial(routes.order, PeerEntry, Add),
        "peers/remove": partial(routes.order, _Named, lambda named: Remove(named.name)),
        "peers/pause": partial(routes.order, _Named, lambda it: Pause(it.name, paused=True)),
        "peers/resume": partial(routes.order, _Named, lambda it: Pause(it.name, paused=False)),
        "peers/set-url": partial(routes.order, _Moved, lambda moved: Move(moved.name, moved.url)),
        "reload": routes.reload,
        "config": routes.config,
    }
    for path, handler in rules.items():
        app.add_url_rule(f"{_ORDERS}{path}", f"control {path}", handler, methods=["POST"])


class _Control:
    def __init__(self, node: Node, control: Control) -> None:
        self._membership = node.membership
        self._control = control
        self._nonces = Nonces()

    async def listing(self) -> Response:
        return json(200, PeersAnswer(peers=self._membership.listing()))

    async def challenge(self) -> Response:
        nonce = self._nonces.give(anyio.current_time())
        data, in_hex = spelled(os.fsencode(self._control.data))
        return json(200, Challenge(nonce=nonce, data=data, data_hex=in_hex))

    async def order(self, kind: type[T], order_of: Callable[[T], Order]) -> Response:
        body = await whole_body(_MOST_BYTES, "an order")
        if refusal := self._unproven(body):
            return refusal
        try:
            wanted = json_of(kind).read(body)
        except Undecodable as error:
            raise InputError(f"not an order: {error}") from error
        try:
            said = await self._membership.order(order_of(wanted))
        except ConfigError as error:  # a peer that is malformed, a key file that is not there
            raise InputError(str(error)) from error
        _tell()
        return json(200, PeersAnswer(peers=self._membership.listing(), said=said))

    async def reload(self) -> Response:
        if refusal := self._unproven(await whole_body(_MOST_BYTES, "an order")):
            return refusal
        try:
            answer = await self._control.reload()
        except ConfigError as error:
            raise InputError(f"nothing was changed: {error}") from error
        _tell()
        return json(200, answer)

    async def config(self) -> Response:
        if refusal := self._unproven(await whole_body(_MOST_BYTES, "an order")):
            return refusal
        return json(200, self._control.shown())

    def _unproven(self, body: bytes) -> Response | None:
        """The refusal of a request from nobody who may give orders.

        An admin's key will do. With any other one the request proves to have the control key.
        """
        if _by_admin():
            return None
        key = self._control.key
        if key is None:
            return problem(
                403, f"this node has no control key: {CONTROL_FILE} could not be made at its start"
            )
        nonce, _, shown = request.headers.get(HEADER, "").partition(" ")
        if not self._nonces.take(nonce, anyio.current_time()):
            return problem(
                403,
                f"this needs the control key of the node ({CONTROL_FILE} in its data directory), "
                "or a key with the role admin",
            )
        right = proof(key.reveal(), nonce, request.method, request.path, body)
        if not hmac.compare_digest(right.encode(), shown.encode("utf-8", "replace")):
            return problem(403, "that is not the control key of this node")
        return None


def _by_admin() -> bool:
    key = caller()
    return key is not None and "admin" in key.roles


def _tell() -> None:
    """Have the log tell of an order that was carried out."""
    order(request.path.removeprefix(_ORDERS), control=not _by_admin())
