"""Who a peer is, as far as it has said: its node id, the run of its process, its name.

An address is only a hint. Who answers there may be this node itself, a peer that is listed under
another address, a copy of a data directory, or another node than yesterday.
"""

from __future__ import annotations

from mesh.actors.roster import Role
from mesh.config import Address
from mesh.core.standing import Event
from mesh.errors import Refused, printable
from mesh.transport.base import Meeting
from mesh.wire.messages import Hello

IGNORED = {
    Event.SELF: "this node itself",
    Event.DUPLICATE: "another address of a peer already listed",
}
"""What the greeting can show of a peer that is not to be compared with."""

_COPIED = {Event.CLONE: "this node's", Event.TWIN: "another peer's"}
_STRANGE = {
    Role.SELF: Event.SELF,
    Role.CLONE: Event.CLONE,
    Role.TWIN: Event.TWIN,
    Role.DUPLICATE: Event.DUPLICATE,
}


class Copied(Refused):
    """The peer has the id of another node: one data directory is a copy of the other."""

    def __init__(self, place: str, event: Event, node: bytes) -> None:
        super().__init__(
            f"{place} has {_COPIED[event]} id {node.hex()}: one data directory is a copy of the "
            "other; delete node.json in one of them and restart that node"
        )
        self.event = event


class Acquaintance:
    """What the peer at one address has said of itself; the peer actor owns it."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._name: str | None = None
        self.hello: Hello | None = None
        """What it said last; None before it was met."""

    @property
    def name(self) -> str:
        """What it is called: as configured, else by its own name once met, else its address."""
        return self._address.name or self._name or self._address.place

    @property
    def node(self) -> bytes | None:
        """Its node id, once met."""
        return self.hello.node if self.hello is not None else None

    def changed(self, hello: Hello) -> bool:
        """Whether another node speaks than the one that we knew, or another run of its process."""
        known = self.hello
        return known is not None and (known.node, known.instance) != (hello.node, hello.instance)

    def spoke(self, hello: Hello) -> bool:
        """Take in who speaks; whether that has changed."""
        changed, self.hello = self.changed(hello), hello
        return changed

    def introduced(self, hello: Hello) -> bool:
        """The same in an answer to our greeting, which may tell a name."""
        known = self.hello
        changed = self.spoke(hello)
        if hello.name is not None:  # it is told once
            self._name = printable(hello.name) or None
        elif known is not None and known.node != hello.node:
            self._name = None  # another node has taken the place
        return changed

    def shown(self, role: Role, meeting: Meeting) -> Event:
        """What a greeting has shown. Copied when two nodes have one id."""
        if role is not Role.PEER:
            event = _STRANGE[role]
            if event in _COPIED:
                raise Copied(self._address.place, event, self.node or b"")
            return event
        if not meeting.ready:
            return Event.STARTING
        return Event.EQUAL if meeting.equal else Event.DIFFERS
