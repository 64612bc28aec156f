"""A data directory: whose it is, and that only one process uses it."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from pathlib import Path

import msgspec

from mesh.decoding import from_hex, json_of
from mesh.errors import ConfigError, StoreError, Undecodable

_FORMAT = 1


class _Identity(msgspec.Struct, frozen=True):
    node_id: str
    format: int = _FORMAT


class DataDirectory:
    """A directory that this process holds, with the identity that was made for it once."""

    def __init__(self, path: Path, node_id: bytes, lock: int) -> None:
        """See `claim`."""
        self.path = path
        self.node_id = node_id
        self._lock = lock

    @classmethod
    def claim(cls, path: Path, pinned: str | None = None) -> DataDirectory:
        """Make the directory if need be, lock it and read its identity.

        The lock is the kernel's and dies with the process, also by kill -9. With `pinned`, a
        directory that is not that node's is refused instead of becoming a new node: it is
        likely a mount that is missing. Raises ConfigError.
        """
        try:
            if pinned is None:
                path.mkdir(parents=True, exist_ok=True)
            elif path.is_dir():
                _identity(path, pinned)  # before anything is made where a disk may be missing
            lock = _lock_file(path)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(f"data directory {path} is not a directory; choose another") from None
        except OSError as error:
            raise ConfigError(f"cannot use data directory {path}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(path, _identity(path, pinned), lock)
        except BlockingIOError:
            os.close(lock)
            raise ConfigError(
                f"data directory {path} belongs to a running node; stop it or choose another"
            ) from None
        except OSError as error:
            os.close(lock)
            raise ConfigError(f"cannot use data directory {path}: {error.strerror}") from error
        except ConfigError:
            os.close(lock)
            raise

    def read(self, name: str) -> bytes | None:
        """What `replace` put under a name; None when nothing did. ConfigError when unreadable."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"cannot read {self.path / name}: {error.strerror}") from error

    def replace(self, name: str, data: bytes) -> None:
        """Put a small file there, whole and durable, or leave what is there; StoreError."""
        try:
            _replace(self.path / name, data)
        except OSError as error:
            raise StoreError(f"cannot write {self.path / name}: {error.strerror}") from error

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._lock)


def _lock_file(path: Path) -> int:
    """What is locked: `lock`, or the directory itself where nothing can be written."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path / "lock", os.O_RDWR | os.O_CREAT | flags, 0o600)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.ENOSPC):
            raise
    try:
        return os.open(path / "lock", os.O_RDONLY | flags)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _identity(path: Path, pinned: str | None) -> bytes:
    """The node id of a directory, made on first use."""
    file = path / "node.json"
    try:
        identity = json_of(_Identity).read(file.read_bytes())
        node_id = from_hex(identity.node_id)
    except FileNotFoundError:
        if pinned is not None:
            raise ConfigError(
                f"data directory {path} is not that of node {pinned}: it has no node.json; "
                "is its disk mounted?"
            ) from None
        return _make_identity(file)
    except Undecodable as error:
        raise ConfigError(f"{file} is damaged ({error}); restore it from a backup") from error
    if len(node_id) != 16:
        raise ConfigError(f"{file} is damaged (its node_id is no 16 bytes); restore it")
    if identity.format != _FORMAT:
        raise ConfigError(f"{file} is of format {identity.format}; this program knows {_FORMAT}")
    if pinned is not None and identity.node_id != pinned:
        raise ConfigError(f"data directory {path} is node {identity.node_id}, not {pinned}")
    return node_id


def _make_identity(file: Path) -> bytes:
    node_id = secrets.token_bytes(16)
    _replace(file, msgspec.json.encode(_Identity(node_id.hex())))
    return node_id


def _replace(file: Path, data: bytes) -> None:
    """A file, readable by its owner alone, that takes its name when it is whole and durable."""
    temporary = file.with_suffix(".new")
    # What is left of an earlier try goes; a link goes itself, and not what it points to.
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
