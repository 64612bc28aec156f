"""`mesh key`: make keys, list those of a file by their names, and take one out.

The text of a key file stays as it is but for the line that is added or removed: people keep notes
in it. No key is shown but the one that was just made, to whoever asked for it.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import msgspec

from mesh.config import exposed, named_keys, parse_keys, parse_roles
from mesh.config.roles import check_name
from mesh.decoding import utf8
from mesh.errors import ConfigError, InputError, MeshError, printable

# 256 bits, as hex: no guessing, and no character that a shell or a URL would change.
_KEY_BYTES = 32

# A file of keys is for its owner alone.
_MODE = 0o600


def new(file: Path, name: str, roles: str, output: Path | None) -> None:
    """Add a key to a file, which is made where there is none; print it, or write it to `output`.

    InputError for a bad name or bad roles, ConfigError when the file is malformed or has a key of
    that name. `output` is a file that is not there yet.
    """
    try:
        check_name(name)
        parse_roles(roles)
    except ConfigError as error:
        raise InputError(f"the key {printable(name)} {error}") from error
    key = secrets.token_hex(_KEY_BYTES)
    before = _text(file)
    if before and not before.endswith(b"\n"):
        before += b"\n"
    after = before + f"{name} {roles} {key}\n".encode()
    parse_keys(after.splitlines(), str(file))
    if output is None:
        _replace(file, after)
        print(key)
        return
    _create(output, f"{key}\n".encode())
    try:
        _replace(file, after)
    except MeshError:
        output.unlink()  # it would open nothing
        raise


def show(file: Path, *, as_json: bool) -> None:
    """Print the names and roles of the keys; a warning goes to standard error."""
    keys = named_keys(str(file))
    if wrong := exposed(str(file)):
        print(f"mesh: {printable(wrong)}", file=sys.stderr)
    if as_json:
        listed = [{"name": key.name, "roles": key.said.split(",")} for key in keys]
        print(utf8(msgspec.json.encode({"keys": listed})))
        return
    width = max(len("NAME"), *(len(key.name) for key in keys))
    print(f"{'NAME':<{width}}  ROLES")
    for key in keys:
        print(f"{key.name:<{width}}  {key.said}")


def remove(file: Path, name: str) -> None:
    """Take a key out of a file; InputError when none has the name, or no other one is there."""
    keys = named_keys(str(file))
    names = [key.name for key in keys]
    if name not in names:
        known = ", ".join(names)
        raise InputError(f"no key in {file} is called {name[:80]!a}; there are: {known}")
    if len(keys) == 1:
        raise InputError(f"{name} is the only key in {file}, and a node needs one; add another")
    after = _without(_text(file), names.index(name))
    parse_keys(after.splitlines(), str(file))  # keys without names are counted anew
    _replace(file, after)
    print(f"{name} is removed from {printable(str(file))}; `mesh reload` has a node forget it")


def _without(text: bytes, which: int) -> bytes:
    """The text without the line of one of its keys."""
    lines = text.splitlines(keepends=True)
    of_keys = [number for number, line in enumerate(lines) if _is_key(line)]
    del lines[of_keys[which]]
    return b"".join(lines)


def _is_key(line: bytes) -> bool:
    return bool(line.strip()) and not line.startswith(b"#")


def _text(file: Path) -> bytes:
    """What is in the file; nothing when it is not there."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ConfigError(f"cannot read key file {file}: {error.strerror}") from error


def _create(file: Path, data: bytes) -> None:
    """A new file that nobody else can read; InputError when something is there already."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        with open(descriptor, "wb") as out:
            out.write(data)
    except FileExistsError:
        raise InputError(f"{file} is there already; name a new file with -o") from None
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from error


def _replace(file: Path, data: bytes) -> None:
    """A key file that takes its name when it is whole and on disk; its mode and owner stay.

    What a link leads to is replaced, and the link stays.
    """
    final = Path(os.path.realpath(file))
    temporary = final.with_name(f".{final.name[:200]}.{secrets.token_hex(8)}")
    try:
        _create_as(temporary, final)
        try:
            with temporary.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(final)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise MeshError(f"cannot write key file {file}: {error.strerror}") from error


def _create_as(temporary: Path, final: Path) -> None:
    """An empty file with the mode and the owner of `final`, if that is there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, _MODE)
    try:
        if final.exists():
            known = final.stat()
            if (known.st_uid, known.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, known.st_uid, known.st_gid)
            os.fchmod(descriptor, known.st_mode & 0o777)
    except OSError:
        temporary.unlink()
        raise
    finally:
        os.close(descriptor)
