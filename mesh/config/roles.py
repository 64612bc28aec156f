"""What a line of a key file says: a key, its name, and the roles that say what it opens.

A line is a key alone, or `NAME ROLES KEY`. A key alone is what every key was before there were
roles: it may read, write and be a peer. No error names a word of a line, since any of them may be a
key that stands in the wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from mesh.config.secret import Secret
from mesh.decoding import utf8
from mesh.errors import ConfigError

ROLES = ("read", "write", "append", "peer", "admin")
"""All there are, in the order in which they are shown.

read: see and get blobs, and how the node stands. write: put blobs, and look after those that are
there; not read. append: put and read blobs, and see how the node stands. peer: what
nodes ask of each other. admin: everything, and orders.
"""

PLAIN = frozenset({"read", "write", "peer"})
"""What a key without roles may do."""

# The name of a key stands in logs and in tables.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)

_LINE = "a line is a key alone, or NAME ROLES KEY"


class Key(msgspec.Struct, frozen=True):
    """A key that a node accepts. `roles`: all that it may do; an admin has every role."""

    name: str
    roles: frozenset[str]
    secret: Secret

    @property
    def said(self) -> str:
        """The roles as a key file has them."""
        if "admin" in self.roles:
            return "admin"
        return ",".join(role for role in ROLES if role in self.roles)


def parse_keys(lines: Iterable[bytes], file: str) -> tuple[Key, ...]:
    """The keys of the lines of a key file; blank lines, and those that begin with #, are none.

    A key without a name is called key-N, N being which key of the file it is. ConfigError when a
    line is malformed, or when two keys have one name, or are one key that says different things.
    """
    found: list[Key] = []
    for line in lines:
        if line.strip() and not line.startswith(b"#"):
            number = len(found) + 1
            try:
                key = _parsed(line, number)
                _check_against(key, found)
            except ConfigError as error:
                raise ConfigError(f"key {number} in {file} {error}") from None
            found.append(key)
    return tuple(found)


def _parsed(line: bytes, number: int) -> Key:
    words = line.split()
    if not all(map(fits, words)):
        raise ConfigError(f"has blanks or characters beyond ASCII; {_LINE}")
    if len(words) == 1:
        return Key(f"key-{number}", PLAIN, Secret(words[0]))
    if len(words) != 3:
        raise ConfigError(f"has blanks; {_LINE}")
    name, roles = utf8(words[0]), utf8(words[1])
    check_name(name)
    return Key(name, parse_roles(roles), Secret(words[2]))


def _check_against(key: Key, others: Iterable[Key]) -> None:
    for other in others:
        if other.name == key.name:
            raise ConfigError(f"is called {key.name}, as another one is; give it a name of its own")
        # The same bare key twice does no harm.
        if other.secret == key.secret and not other.roles == key.roles == PLAIN:
            raise ConfigError(f"is the same as the key {other.name}; which of the two is meant?")


def check_name(name: str) -> None:
    """ConfigError, which does not show it, for what no key can be called."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "has a bad name; it may have letters, digits, '.', '_' and '-', up to 64 of them"
        )


def parse_roles(text: str) -> frozenset[str]:
    """Roles with commas between them; ConfigError, which does not show `text`, for others."""
    roles = frozenset(text.split(","))
    if not roles <= set(ROLES):
        raise ConfigError(f"has roles that there are not; there are {', '.join(ROLES)}")
    return frozenset(ROLES) if "admin" in roles else roles


def fits(key: bytes) -> bool:
    """Whether a header can carry it: printable ASCII without blanks."""
    return all(0x21 <= byte <= 0x7E for byte in key)
