"""A disk in memory that forgets what was not synced, and a wrapper that fails the N-th call.

MemoryFiles keeps, beside what every reader sees, what would be left after a power failure:
contents as of their last sync, and names as of the last sync of their directory. FaultyFiles
stands before it and makes one call fail, or all from one on, or ends the process there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from mesh.store.files import Appender, Listed, Reader, Space

T = TypeVar("T")


class _Content:
    """A file without its names."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.durable = len(data)  # files only grow, so that a length says what is synced
        self.lost = False

    def sync(self) -> None:
        if not self.lost:
            self.durable = len(self.data)

    def fail_sync(self) -> None:
        """As Linux does it: what was not written is forgotten, later syncs report success."""
        self.lost = True

    def cut(self, size: int) -> None:
        del self.data[size:]
        self.durable = len(self.data)

    def survivor(self, random: Random) -> _Content:
        """What a power failure leaves: of the unsynced end a part, maybe with zeros behind it."""
        end = random.randint(self.durable, len(self.data))
        rest = len(self.data) - end
        return _Content(bytes(self.data[:end]) + bytes(rest if random.random() < 0.3 else 0))


class _Folder:
    """The names in a directory, as they are and as they were synced."""

    def __init__(self) -> None:
        self.now: dict[str, _Content] = {}
        self.durable: dict[str, _Content] = {}

    def survivor(self, random: Random, contents: dict[int, _Content]) -> _Folder:
        """Each change since the last sync happened, or it did not."""
        left: dict[str, _Content] = {}
        for name in sorted({*self.now, *self.durable}):
            before, after = self.durable.get(name), self.now.get(name)
            content = after if before is after or random.random() < 0.5 else before
            if content is not None:
                left[name] = contents.setdefault(id(content), content.survivor(random))
        folder = _Folder()
        folder.now, folder.durable = left, dict(left)
        return folder


class MemoryFiles:
    """A `Files` port over dictionaries, with DiskFiles' errors."""

    def __init__(self, total: int = 2**40) -> None:
        """`total`: bytes that fit on it."""
        self._folders: dict[str, _Folder] = {}
        self.total = total
        self.read_only = False

    def crash(self, seed: int) -> MemoryFiles:
        """The disk as the next start finds it after a power failure now."""
        random, contents = Random(seed), dict[int, _Content]()
        after = MemoryFiles(self.total)
        for name, folder in sorted(self._folders.items()):
            after._folders[name] = folder.survivor(random, contents)
        return after

    def content(self, name: str) -> bytearray:
        """The bytes of a file, to look at or to damage."""
        return self._find(name).data

    def fail_sync(self, name: str) -> None:
        """The next sync of this file would have failed: see _Content."""
        self._find(name).fail_sync()

    # --- the port --------------------------------------------------------------------------

    def make_directory(self, name: str) -> None:
        if name not in self._folders:
            self._writing(name)
            self._folders[name] = _Folder()

    def check(self) -> None:
        pass

    def append_to(self, name: str, *, create: bool, bulk: bool = False) -> Appender:
        self._writing(name)
        folder, base = self._split(name)
        if create:
            if base in folder.now:
                raise _error(errno.EEXIST, name)
            folder.now[base] = _Content()
        return _MemoryAppender(self, name, self._find(name))

    def open(self, name: str) -> Reader:
        return _MemoryReader(self._find(name))

    def list(self, name: str) -> list[Listed]:
        start = f"{name}/" if name else ""
        below = (other[len(start) :] for other in self._folders if other.startswith(start))
        folders = [Listed(other, 0, False) for other in below if other and "/" not in other]
        contents = self._folder(name).now.items() if name else ()
        return sorted([*folders, *(Listed(each, len(file.data), True) for each, file in contents)])

    def rename(self, old: str, new: str) -> None:
        self._writing(old)
        content = self._find(old)
        folder, base = self._split(new)
        folder.now[base] = content
        self.remove(old)

    def truncate(self, name: str, size: int) -> None:
        self._writing(name)
        self._find(name).cut(size)

    def remove(self, name: str) -> None:
        self._writing(name)
        self._find(name)
        folder, base = self._split(name)
        del folder.now[base]

    def sync_directory(self, name: str) -> None:
        folder = self._folder(name)
        folder.durable = dict(folder.now)

    def space(self) -> Space:
        folders = self._folders.values()
        used = sum(len(file.data) for folder in folders for file in folder.now.values())
        return Space(max(0, self.total - used), self.total, self.read_only)

    def _writing(self, name: str) -> None:
        if self.read_only:
            raise _error(errno.EROFS, name)

    # --- inside ----------------------------------------------------------------------------

    def _folder(self, name: str) -> _Folder:
        if name not in self._folders:
            raise _error(errno.ENOENT, name)
        return self._folders[name]

    def _split(self, name: str) -> tuple[_Folder, str]:
        parent, _, base = name.rpartition("/")
        return self._folder(parent), base

    def _find(self, name: str) -> _Content:
        folder, base = self._split(name)
        if base not in folder.now:
            raise _error(errno.ENOENT, name)
        return folder.now[base]


class _MemoryAppender:
    def __init__(self, disk: MemoryFiles, name: str, content: _Content) -> None:
        self._disk = disk
        self._name = name
        self._content = content

    @property
    def size(self) -> int:
        return len(self._content.data)

    def append(self, pieces: Sequence[bytes]) -> None:
        if self._disk.read_only:
            raise _error(errno.EROFS, self._name)
        data = b"".join(pieces)
        room = self._disk.space().free
        self._content.data += data[:room]
        if len(data) > room:
            raise _error(errno.ENOSPC, self._name)

    def sync(self) -> None:
        self._content.sync()

    def check(self) -> None:
        self._disk.open(self._name)

    def close(self) -> None:
        pass


class _MemoryReader:
    def __init__(self, content: _Content) -> None:
        self._content = content

    @property
    def size(self) -> int:
        return len(self._content.data)

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(memoryview(self._content.data)[offset : offset + length])


class Killed(BaseException):
    """The process ended here. No handler in the store is meant to see it."""


class FaultyFiles:
    """A `Files` port that does what it is told to fail.

    A call that fails has not had its effect, but for an append, of which a part is written. A
    process that was killed makes no calls any more, so everything after it fails as well.
    """

    def __init__(self, disk: MemoryFiles, seed: int = 0) -> None:
        """`seed` decides how much of a failing append is written."""
        self.disk = disk
        self.calls: list[str] = []
        """Every call so far, as `verb name`; those that failed have a `!` in front."""
        self._random = Random(seed)
        self._countdown = 0
        self._code: int | None = None
        self._lasting = False
        self._only: tuple[str, ...] = ()
        self._failing = False

    def fail(
        self, nth: int, code: int | None, *, lasting: bool = False, only: tuple[str, ...] = ("",)
    ) -> None:
        """Fail the `nth` call from now, 1 is the next, and with `lasting` all behind it.

        `code` is an errno; None ends the process there. `only`: count, and fail, calls that
        begin with one of these (`sync segments/`).
        """
        self._countdown, self._code, self._failing = nth, code, False
        self._lasting = lasting or code is None
        self._only = only

    def heal(self) -> bool:
        """No fault any more; whether there was one."""
        self._countdown = 0
        failing, self._failing = self._failing, False
        return failing

    def make_directory(self, name: str) -> None:
        self.call("make_directory", name, lambda: self.disk.make_directory(name))

    def check(self) -> None:
        self.disk.check()

    def append_to(self, name: str, *, create: bool, bulk: bool = False) -> Appender:
        verb = "create" if create else "append_to"
        opened = self.call(verb, name, lambda: self.disk.append_to(name, create=create))
        return _FaultyAppender(self, name, opened)

    def open(self, name: str) -> Reader:
        return _FaultyReader(self, name, self.call("open", name, lambda: self.disk.open(name)))

    def list(self, name: str) -> list[Listed]:
        return self.call("list", name, lambda: self.disk.list(name))

    def rename(self, old: str, new: str) -> None:
        self.call("rename", f"{old} {new}", lambda: self.disk.rename(old, new))

    def truncate(self, name: str, size: int) -> None:
        self.call("truncate", name, lambda: self.disk.truncate(name, size))

    def remove(self, name: str) -> None:
        self.call("remove", name, lambda: self.disk.remove(name))

    def sync_directory(self, name: str) -> None:
        self.call("sync_directory", name, lambda: self.disk.sync_directory(name))

    def space(self) -> Space:
        return self.disk.space()

    def call(self, verb: str, name: str, act: Callable[[], T]) -> T:
        """`act`, unless it is to fail."""
        if self._fails(f"{verb} {name}"):
            self._raise(name)
        return act()

    def append(self, name: str, file: Appender, pieces: Sequence[bytes]) -> None:
        """An append; one that fails has written some of its bytes."""
        if self._fails(f"append {name}"):
            data = b"".join(pieces)
            file.append([data[: self._random.randint(0, len(data))]])
            self._raise(name)
        file.append(pieces)

    def sync(self, name: str, file: Appender) -> None:
        """A sync; of one that fails nothing is left to be synced again."""
        if self._fails(f"sync {name}"):
            if self._code is not None:
                self.disk.fail_sync(name)
            self._raise(name)
        file.sync()

    def _fails(self, call: str) -> bool:
        """Whether it is this one's turn; every call goes into the list."""
        fails = False
        if call.startswith(self._only):
            self._countdown -= 1
            fails = self._countdown == 0 or (self._failing and self._lasting)
            self._failing |= fails
        self.calls.append(f"!{call}" if fails else call)
        return fails

    def _raise(self, name: str) -> None:
        raise Killed if self._code is None else _error(self._code, name)


class _FaultyAppender:
    def __init__(self, faults: FaultyFiles, name: str, file: Appender) -> None:
        self._faults = faults
        self._name = name
        self._file = file

    @property
    def size(self) -> int:
        return self._file.size

    def append(self, pieces: Sequence[bytes]) -> None:
        self._faults.append(self._name, self._file, pieces)

    def sync(self) -> None:
        self._faults.sync(self._name, self._file)

    def check(self) -> None:
        self._faults.call("check", self._name, self._file.check)

    def close(self) -> None:
        self._faults.call("close", self._name, self._file.close)


class _FaultyReader:
    def __init__(self, faults: FaultyFiles, name: str, file: Reader) -> None:
        self._faults = faults
        self._name = name
        self._file = file

    @property
    def size(self) -> int:
        return self._file.size

    def read_at(self, offset: int, length: int) -> bytes:
        return self._faults.call("read", self._name, lambda: self._file.read_at(offset, length))


def _error(code: int, name: str) -> OSError:
    return OSError(code, os.strerror(code), name)
