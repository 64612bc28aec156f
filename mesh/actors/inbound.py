"""Who pulls from us without being listed as a peer: told to people, and to nobody else.

Everything here is what the others say of themselves, and nothing of it is proven but the key that
they showed. So no decision may depend on it: a lie changes only a table that people read.
"""

from __future__ import annotations

from collections import OrderedDict

import anyio

from mesh.core.digest import Digest
from mesh.dates import Dates
from mesh.errors import printable
from mesh.status import InboundStatus
from mesh.wire.messages import Hello

# The nodes that asked last are kept: more than fit on a screen, some 20 kB. Whoever invents node
# ids pushes the others out of the table, and gains nothing else; they are back with their next
# round, which is 30 s later.
MOST = 64


class _Seen:
    __slots__ = ("at", "count", "key", "name", "root")

    def __init__(
        self, name: str | None, root: bytes | None, count: int, at: float, key: str | None
    ) -> None:
        self.name = name
        self.key = key
        self.root = root
        self.count = count
        self.at = at


class Inbound:
    """The nodes that asked for our root, by the node id that they said, the last one last."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()

    def note(self, hello: Hello, key: str | None = None) -> None:
        """A node that is not a configured peer asked how we stand; `key`: what it showed."""
        before = self._seen.pop(hello.node, None)
        # A node tells its name until it has been told ours, so one that tells none told it before.
        name = hello.name if hello.name is not None else before.name if before else None
        self._seen[hello.node] = _Seen(name, hello.root, hello.count, anyio.current_time(), key)
        while len(self._seen) > MOST:
            self._seen.popitem(last=False)

    def forget(self, node: bytes) -> None:
        """It turned out to be a configured peer."""
        self._seen.pop(node, None)

    def status(self, root: Digest | None, count: int, dates: Dates) -> list[InboundStatus]:
        """How they stood when they asked last, beside our `root` and `count`; the latest first."""
        return [
            InboundStatus(
                name=printable(seen.name or node.hex()[:8]),
                node_id=node.hex(),
                root=seen.root.hex() if seen.root is not None else None,
                in_sync=root is not None and seen.root == root,
                blobs=seen.count,
                missing=_missing(seen, root, count),
                key=seen.key,
                last_seen_at=dates.at(seen.at),
                last_seen_seconds_ago=dates.now - seen.at,
            )
            for node, seen in reversed(self._seen.items())
        ]


def _missing(seen: _Seen, root: Digest | None, count: int) -> int | None:
    """How many of our blobs it lacks at least; None when the counts do not tell."""
    if root is None or seen.root is None:
        return None
    if seen.root == root:
        return 0
    return count - seen.count if count > seen.count else None
