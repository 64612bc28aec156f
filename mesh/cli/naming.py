"""From what a person types for a blob to its digest: a prefix that begins one blob is enough."""

from __future__ import annotations

from mesh.core.digest import Digest, parse_digest, parse_name
from mesh.errors import InputError, MeshError
from mesh.transport.client import NodeClient

_WHOLE = 64

# Candidates that an error names: they fit into a few lines of a terminal.
_NAMED = 8

# Digits of a candidate at least, so that it can be copied and is still found next year.
_DIGITS = 12


class NotHere(MeshError):
    """No blob of that name is here."""


async def digest_named(client: NodeClient, text: str) -> Digest:
    """The digest that `text` is, or that begins with it on the node; any case.

    A whole digest asks nothing, a prefix one question. InputError for what is no prefix, or for one
    that several blobs begin with; NotHere when none does.
    """
    name = parse_name(text)
    if len(name) == _WHOLE:
        return parse_digest(name)
    found = await client.beginning(name, _NAMED + 1)
    if not found:
        raise NotHere(f"no blob on {client.place} begins with {name}; `mesh ls` lists them")
    if len(found) > 1:
        raise InputError(f"{name} begins {_several([each.digest for each in found])}")
    return parse_digest(found[0].digest)


def _several(digests: list[str]) -> str:
    """How many there are, and each with as many digits as tell it from the others."""
    more = len(digests) > _NAMED
    shown = digests[:_NAMED]
    digits = _DIGITS
    while len({digest[:digits] for digest in digests}) < len(digests):
        digits += 1
    how_many = f"more than {_NAMED}" if more else str(len(shown))
    names = ", ".join(digest[:digits] for digest in shown)
    return f"{how_many} blobs, give more digits: {names}{', …' if more else ''}"
