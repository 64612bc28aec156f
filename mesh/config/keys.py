"""Key files: how the keys in them are read, and whom the file lets read them."""

from __future__ import annotations

import os
import stat

from mesh.config.roles import Key, fits, parse_keys
from mesh.config.secret import Secret
from mesh.errors import ConfigError

__all__ = ["Key", "Secret", "exposed", "key_of", "named_keys", "read_keys"]

# A group may read a key file: root keeps it for the group of the node. It may not write it, which
# is to add keys, and others may do neither.
_TOO_OPEN = stat.S_IWGRP | stat.S_IRWXO


def read_keys(file: str, *, plain: bool = False, follow: bool = True) -> list[Secret]:
    """The keys of a key file without their names, for whoever shows one; see `named_keys`."""
    return [key.secret for key in named_keys(file, plain=plain, follow=follow)]


def named_keys(file: str, *, plain: bool = False, follow: bool = True) -> tuple[Key, ...]:
    """The keys of a key file, one a line (mesh/config/roles.py).

    `plain`: only a regular file will do, so that nobody waits for a FIFO. `follow`: it may be a
    link. ConfigError when the file cannot be read or holds none, or a line that is malformed.
    """
    try:
        lines = _contents(file, plain=plain, follow=follow).splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read key file {file}: {error.strerror}") from error
    except ValueError:  # what no path can have: a NUL, half of a surrogate pair
        raise ConfigError(f"cannot read key file {file[:80]!a}: no path can be so") from None
    keys = parse_keys(lines, file)
    if not keys:
        raise ConfigError(f"key file {file} holds no key; write one on a line of its own")
    return keys


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


def exposed(file: str) -> str | None:
    """What is wrong with the mode of a key file, in one line; None when nothing is.

    Whoever can read it has its keys, and whoever can write it lets himself in. Only a file has a
    mode that says so: what is read from a pipe is not looked at.
    """
    try:
        mode = os.stat(file).st_mode
    except (OSError, ValueError):
        return None  # whoever reads it says why it cannot be read
    if not stat.S_ISREG(mode) or not mode & _TOO_OPEN:
        return None
    return f"others can read or write key file {file}; chmod 600 it, or 640 for a group"


def key_of(text: str) -> Secret:
    """The key that a program names; ConfigError when it is empty or no header can carry it."""
    key = text.encode("utf-8", "replace")
    if not key or not fits(key):
        raise ConfigError("the key is empty, or has blanks or characters beyond ASCII")
    return Secret(key)
