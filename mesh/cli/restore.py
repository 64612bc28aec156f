"""Write the entries of a manifest below one directory, and nowhere else.

The manifest may be a stranger's, and the directory may hold links that somebody put there. So no
path is ever given to the system as a whole: each one is walked name by name from the open
directory, where no name is ".." and no step follows a link. What is written has a temporary name
until its bytes are proven, and takes its real one in a single step.

A restore that was interrupted is repeated: what is already there and the same is not written again.
Only a killed one leaves something behind, files named ".mesh-restore-*", which may be deleted.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from mesh.core.digest import new_hasher
from mesh.core.manifest import SAFE_MODE, Directory, File, Link, Manifest, components, shown
from mesh.errors import Corrupt, MeshError

_STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# What was a file a moment ago may be a FIFO when it is opened: do not wait for its other end.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

# Bytes that are read and hashed at a time.
_PIECE = 512 * 1024

# A directory has this mode until `finish` gives it its own. Its owner may work in it. The sticky
# bit means nothing where nobody else may write; here it tells a repeated restore that an
# interrupted one has made the directory, and not the user.
_UNFINISHED = stat.S_ISVTX | 0o700


# What the disk says of one entry and would say of all others.
_OF_ALL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS))


class CannotRestore(MeshError):
    """Something is in the way of an entry, or the file system refused it."""


class DiskRefuses(MeshError):
    """The disk takes nothing more: the rest would be fetched for nothing, and each file named."""


class Restorer:
    """Restores `manifest` below `directory`, which is made if need be and may itself be a link.

    The caller asks in this order: `directories()`; for each file `has()` and, where that is
    false, `file()`; at the end `finish()`, also when some files failed.

    Without `force` nothing that exists is changed. With it, files and links are replaced, each in
    one step, and existing directories get the manifest's modes. A directory never replaces
    anything else and is never replaced.

    `has` and `file` may be used from several threads. Errors: CannotRestore; DiskRefuses, after
    which nothing more is to be tried; InputError for a path that no manifest can have.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        *,
        force: bool = False,
        on_bytes: Callable[[int], None] = lambda _size: None,
    ) -> None:
        """`on_bytes` is told of bytes that were read here, or written, and belong to the tree.

        Where what was read turns out to be something else, it is told the same number below zero.
        """
        self._manifest = manifest
        self._on_bytes = on_bytes
        self._force = force
        with _explained(os.fsencode(directory)):
            directory.mkdir(parents=True, exist_ok=True)
            self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory. What is restored stays."""
        os.close(self._root)

    def directories(self) -> None:
        """Make the manifest's directories, with modes that let their owner work until `finish`.

        CannotRestore at the first one that cannot be: there is no place for what is below it.
        """
        for entry in self._manifest.directories():
            with self._parent_of(entry.path) as (parent, name), _explained(entry.path):
                with suppress(FileExistsError):
                    os.mkdir(name, _UNFINISHED, dir_fd=parent)
                with _opened(name, _STEP, parent) as directory:
                    if self._force:
                        _let_owner_work(directory)

    def has(self, entry: File) -> bool:
        """Whether the file is there with the same bytes; with `force` also with the same mode.

        CannotRestore when something else is there that may not be replaced.
        """
        with self._parent_of(entry.path) as (parent, name), _explained(entry.path):
            there = _lstat(name, parent)
            if there is None:
                return False
            if self._looks_like(entry, there):
                digest, read = _digest(name, parent, self._on_bytes)
                if digest == entry.digest:
                    return True
                self._on_bytes(-read)
            self._check_replaceable(there, entry.path)
            return False

    @contextmanager
    def file(self, entry: File) -> Iterator[Output]:
        """A place to write the bytes of `entry`; the file appears when the block ends well.

        Corrupt when the bytes are not those of the entry's digest and size; then, and when the
        block raises, nothing is left behind. An error of the block passes unchanged.
        """
        with self._parent_of(entry.path) as (parent, name):
            with _explained(entry.path):
                there = _lstat(name, parent)
            if there is not None:
                self._check_replaceable(there, entry.path)  # said before the bytes are fetched
            with _temporary(parent) as temporary:
                output = Output(entry, temporary, parent, self._on_bytes)
                try:
                    yield output
                    output.complete()
                except BaseException:
                    self._on_bytes(-output.written)
                    raise
                finally:
                    # Before the file has its name: on NFS, writes may fail as late as here.
                    output.close()
                with _explained(entry.path):
                    self._place(temporary, name, parent)

    def finish(self) -> None:
        """Make the links, then give the directories their modes.

        Does all that can be done, and then raises CannotRestore for the first failure, with the
        number of the others.
        """
        failures: list[CannotRestore] = []
        for link in self._manifest.links():
            try:
                self._link(link)
            except CannotRestore as error:
                failures.append(error)
        # Deepest first: a directory that nobody may enter is closed after what is in it.
        for directory in reversed(list(self._manifest.directories())):
            try:
                self._set_mode(directory)
            except CannotRestore as error:
                failures.append(error)
        if failures:
            others = f" (and {len(failures) - 1} more)" if failures[1:] else ""
            raise CannotRestore(f"{failures[0]}{others}")

    def _link(self, entry: Link) -> None:
        with self._parent_of(entry.path) as (parent, name), _explained(entry.path):
            there = _lstat(name, parent)
            if there is not None:
                is_link = stat.S_ISLNK(there.st_mode)
                if is_link and os.readlink(name, dir_fd=parent) == entry.target:
                    return
                self._check_replaceable(there, entry.path)
            with _temporary(parent) as temporary:
                os.symlink(entry.target, temporary, dir_fd=parent)
                self._place(temporary, name, parent)

    def _set_mode(self, entry: Directory) -> None:
        """Its own mode for a directory that a restore has made, with `force` for any."""
        with (
            self._parent_of(entry.path) as (parent, name),
            _explained(entry.path),
            _opened(name, _STEP, parent) as directory,
        ):
            mode = stat.S_IMODE(os.fstat(directory).st_mode)
            kept = mode & 0o7000  # a set-group-id bit that came from the directory above
            if mode & ~stat.S_ISGID == _UNFINISHED:
                os.fchmod(directory, kept & ~stat.S_ISVTX | entry.mode & SAFE_MODE)
            elif self._force and mode & 0o777 != entry.mode & SAFE_MODE:
                os.fchmod(directory, kept | entry.mode & SAFE_MODE)

    def _looks_like(self, entry: File, there: os.stat_result) -> bool:
        """Whether `there` may be `entry`, as far as one can tell without reading it."""
        if not stat.S_ISREG(there.st_mode) or there.st_size != entry.size:
            return False
        # Another mode means another file, because a mode is never changed in place: the file
        # may have a second name outside the directory.
        return not self._force or stat.S_IMODE(there.st_mode) == entry.mode & SAFE_MODE

    def _check_replaceable(self, there: os.stat_result, path: bytes) -> None:
        """CannotRestore unless what is `there` may be replaced by a file or a link."""
        if stat.S_ISDIR(there.st_mode):
            raise CannotRestore(f"cannot restore {shown(path)}: a directory is there; move it away")
        if not self._force:
            raise CannotRestore(
                f"cannot restore {shown(path)}: something else is there; "
                "move it away or replace it with --force"
            )

    def _place(self, temporary: bytes, name: bytes, parent: int) -> None:
        """Give what is complete its real name, in one step."""
        if self._force:
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        else:
            place_new(temporary, name, parent)

    @contextmanager
    def _parent_of(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """The open directory in which the last name of `path` is or will be, and that name."""
        *parents, name = components(path)
        with _explained(path):
            parent = _descend(self._root, parents)
        try:
            yield parent, name
        finally:
            os.close(parent)


class Output:
    """The bytes of one file on their way to the disk, counted and hashed."""

    def __init__(
        self, entry: File, temporary: bytes, parent: int, on_bytes: Callable[[int], None]
    ) -> None:
        self._entry = entry
        self._on_bytes = on_bytes
        self.written = 0
        self._left = entry.size
        self._hasher = new_hasher()
        with _explained(entry.path):
            self._descriptor = os.open(temporary, _CREATE, 0o600, dir_fd=parent)

    def write(self, chunk: bytes) -> None:
        """Append `chunk`; Corrupt at the first byte too many, so that nobody fills the disk."""
        self._left -= len(chunk)
        if self._left < 0:
            raise self._corrupt("there are more bytes")
        self._hasher.update(chunk)
        rest = memoryview(chunk)
        with _explained(self._entry.path):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        self.written += len(chunk)
        self._on_bytes(len(chunk))

    def complete(self) -> None:
        """All is written: Corrupt unless it is the entry's blob. Sets the mode."""
        if self._left:
            raise self._corrupt(f"{self._left} bytes are missing")
        if self._hasher.digest() != self._entry.digest:
            raise self._corrupt("the digest differs")
        # The file is ours, so a refusal means that this file system has no modes (FAT).
        with _explained(self._entry.path), suppress(PermissionError):
            os.fchmod(self._descriptor, self._entry.mode & SAFE_MODE)

    def close(self) -> None:
        with _explained(self._entry.path):
            os.close(self._descriptor)

    def _corrupt(self, how: str) -> Corrupt:
        entry = self._entry
        return Corrupt(
            f"what came for {shown(entry.path)} is not blob {entry.digest.hex()} "
            f"of {entry.size} bytes: {how}; get it from another node"
        )


# --- the file system, one name at a time -------------------------------------------------------

# How file systems say that they have no hard links (or, EMLINK, no more for this file).
_NO_HARD_LINKS = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))


def place_new(
    temporary: bytes, name: bytes, parent: int, *, link: Callable[..., None] = os.link
) -> None:
    """Give `temporary` the name `name` too, or only; FileExistsError when that is taken.

    rename() replaces and link() does not. Where there are no hard links, as on FAT, an empty file
    takes the name first, and only then a rename replaces what is certainly ours.
    """
    try:
        link(temporary, name, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.close(os.open(name, _CREATE, 0o600, dir_fd=parent))
        try:
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError:
            os.unlink(name, dir_fd=parent)
            raise


@contextmanager
def _temporary(parent: int) -> Iterator[bytes]:
    """A name in `parent` that nobody else has, and nobody has it afterwards."""
    name = b".mesh-restore-" + secrets.token_hex(8).encode()
    try:
        yield name
    finally:
        # Gone already when it was renamed; and an error that brought us here matters more.
        with suppress(OSError):
            os.unlink(name, dir_fd=parent)


@contextmanager
def _opened(name: bytes, flags: int, parent: int) -> Iterator[int]:
    descriptor = os.open(name, flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _descend(root: int, names: Sequence[bytes]) -> int:
    """The directory `names` below `root`, as a new descriptor; two are open at a time."""
    at = os.dup(root)
    for name in names:
        above = at
        try:
            at = os.open(name, _STEP, dir_fd=above)
        finally:
            os.close(above)
    return at


def _let_owner_work(directory: int) -> None:
    mode = stat.S_IMODE(os.fstat(directory).st_mode)
    if mode & 0o700 != 0o700:
        os.fchmod(directory, mode | 0o700)


def _lstat(name: bytes, parent: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _digest(name: bytes, parent: int, on_bytes: Callable[[int], None]) -> tuple[bytes, int]:
    """Of the bytes of a file, and how many they are."""
    hasher, size = new_hasher(), 0
    with _opened(name, _READ, parent) as descriptor:
        while piece := os.read(descriptor, _PIECE):
            hasher.update(piece)
            size += len(piece)
            on_bytes(len(piece))
    return hasher.digest(), size


@contextmanager
def _explained(path: bytes) -> Iterator[None]:
    """An OSError becomes CannotRestore for `path`, or DiskRefuses."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _OF_ALL:
            raise DiskRefuses(
                f"cannot restore {shown(path)}: {reason}; once that is mended, run the same again: "
                "it goes on with what is missing"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            reason = "a file or a link is where a directory should be; links are not followed"
        raise CannotRestore(f"cannot restore {shown(path)}: {reason}") from error
