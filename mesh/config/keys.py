"""Keys: how they are kept from being shown, and how they are read from a file."""

from __future__ import annotations

import hmac
import os
import stat

from mesh.errors import ConfigError


class Secret:
    """A key. Never shown: it has no text but when asked for its bytes."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def reveal(self) -> bytes:
        """The key itself, for a request's header."""
        return self._key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._key, other._key)

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return "Secret(…)"


def read_keys(file: str, *, plain: bool = False, follow: bool = True) -> list[Secret]:
    """The keys of a key file, one a line; blank lines and lines that begin with # are not keys.

    `plain`: only a regular file will do, so that nobody waits for a FIFO. `follow`: it may be a
    link. ConfigError when the file cannot be read or holds none, or one that no header can carry.
    """
    try:
        lines = _contents(file, plain=plain, follow=follow).splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read key file {file}: {error.strerror}") from error
    except ValueError:  # what no path can have: a NUL, half of a surrogate pair
        raise ConfigError(f"cannot read key file {file[:80]!a}: no path can be so") from None
    keys = [line.strip() for line in lines if line.strip() and not line.startswith(b"#")]
    if not keys:
        raise ConfigError(f"key file {file} holds no key; write one on a line of its own")
    for number, key in enumerate(keys, 1):
        if not _fits(key):
            raise ConfigError(f"key {number} in {file} has blanks or characters beyond ASCII")
    return [Secret(key) for key in keys]


def _contents(file: str, *, plain: bool, follow: bool) -> bytes:
    flags = os.O_RDONLY | os.O_CLOEXEC
    flags |= os.O_NONBLOCK if plain else 0
    flags |= 0 if follow else os.O_NOFOLLOW
    if not follow and os.path.islink(file):
        raise ConfigError(f"key file {file} is a link; name the file itself")
    with open(os.open(file, flags), "rb") as opened:
        if plain and not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise ConfigError(f"key file {file} is no regular file; copy the key into one")
        return opened.read()


def key_of(text: str) -> Secret:
    """The key that a program names; ConfigError when it is empty or no header can carry it."""
    key = text.encode("utf-8", "replace")
    if not key or not _fits(key):
        raise ConfigError("the key is empty, or has blanks or characters beyond ASCII")
    return Secret(key)


def _fits(key: bytes) -> bool:
    """Whether a header can carry it: printable ASCII without blanks."""
    return all(0x21 <= byte <= 0x7E for byte in key)
