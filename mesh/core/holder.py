"""Who brings a blob: the one place that says what is proven about it.

- `Client`: a client of this node, or a command that works on its data directory.
- `Configured`: whoever answers at the address of a peer that our configuration lists. We opened
  the connection, so what comes over it is proven as far as that address is. Only such a holder can
  be blamed, penalised, shown to have lied, or have claims of its own.
- `Anonymous`: whoever sent us a request. Everybody who has the key of the mesh can send one, and
  can write any node id into its path and its Hello. So all of them are one holder, about whom
  nothing is proven. The node id that came with the request is kept as a `label`.

A label is used for one thing: a new blob is not offered back to the node that sent it. Somebody
who pushes a good blob in the name of B gains that we do not announce this blob to B, which then
finds it in its next round. Two holders that differ in their labels alone are equal, so no table
can be keyed by a label.

A client and somebody anonymous may have shown a key of ours, which has a name. The name is proven,
as far as nobody else has that key. It is kept for the log, and decides nothing, like a label.

Keys that prove an identity belong here, as one more kind of holder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from mesh.core.partial import STRANGERS, Bringer
from mesh.decoding import legible


@dataclass(frozen=True, slots=True)
class Client:
    """A client of this node. `key`: the name of the key that it showed, "" for none."""

    key: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Configured:
    """The peer at one address of our configuration."""

    url: str


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Somebody who sent us a request. `label`: the node id that it claims, which proves nothing.

    `key`: the name of the key that it showed, "" for none.
    """

    label: bytes = field(default=b"", compare=False)
    key: str = field(default="", compare=False)


Holder: TypeAlias = Client | Configured | Anonymous

CLIENT = Client()


class Caller(NamedTuple):
    """Whoever sent a request: where it came from, and the name of the key that it showed.

    Both are None where they are not known; `key` also where no key is wanted.
    """

    address: str | None = None
    key: str | None = None


NOBODY = Caller()


def bringer(holder: Holder) -> Bringer:
    """`holder` as the record of an unfinished blob names it, over restarts."""
    return holder.url.encode() if isinstance(holder, Configured) else STRANGERS


def peer_of(brought: Bringer) -> Configured | None:
    """The peer that the record of an unfinished blob names; None for what nobody can be blamed.

    Records of version 0.1.0 name peers by the node ids that were said: these prove nothing.
    """
    url = legible(brought)
    return Configured(url) if "://" in url else None
