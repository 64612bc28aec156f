"""`mesh://` for fsspec: blobs and the files of trees, for pandas and whatever else knows fsspec.

- `mesh://DIGEST` is a blob.
- `mesh://TREE/a/file.csv` is a file of a tree, where TREE is the digest of a manifest or of a
  snapshot. Both may be cut to a prefix that no other blob of the node has.

Nothing can be written. What a digest names never changes, so what was read once may be kept.
"""

from __future__ import annotations

import io
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from mesh.api.blocking import Client
from mesh.core.digest import parse_name
from mesh.core.manifest import MAX_BYTES, Directory, Entry, File, Link, decode
from mesh.core.snapshot import BEGINNING, recognised
from mesh.core.snapshot import MAX_BYTES as MAX_SNAPSHOT
from mesh.errors import InputError, NotFound

_NODE = "http://127.0.0.1:7280"

# Trees whose manifests are kept decoded. One of a million files takes some 500 MB.
_TREES = 4

# How a manifest and a snapshot begin, in canonical JSON.
_HEADS = (b'{"entries":[', BEGINNING)
_HEAD = max(len(head) for head in _HEADS)

_DIGITS = 64


class _Tree(NamedTuple):
    """The entries of a tree by their paths, and the names in each directory."""

    entries: Mapping[str, Entry]
    below: Mapping[str, list[str]]


class MeshFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """See the module. Many threads may use one."""

    protocol = "mesh"
    root_marker = ""

    def __init__(
        self, node: str = _NODE, key: str | None = None, key_file: str | None = None, **options: Any
    ) -> None:
        """The storage options: `node`, a URL, and `key_file`, or the key itself.

        A key that is given itself is part of what fsspec writes when it pickles a file system.
        """
        super().__init__(node=node, key=key, key_file=key_file, **options)
        self._made = Client(node, key=key, key_file=key_file)
        self._again = partial(Client, node, key=key, key_file=key_file)
        self._process: int | None = None
        self._beginning = threading.Lock()
        self._tree = lru_cache(_TREES)(self._load)
        self._digest = lru_cache(1024)(self._named)

    @property
    def _client(self) -> Client:
        """The client, whose thread begins with the first question and ends with the process.

        A process that was forked has a client of its own: workers are often made that way.
        """
        with self._beginning:
            if self._process != os.getpid():
                if self._process is not None:
                    self._made = self._again()
                self._made.__enter__()
                weakref.finalize(self, self._made.__exit__, None, None, None)
                self._process = os.getpid()
        return self._made

    # --- what fsspec asks ----------------------------------------------------------------------

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """`name`, `size` in bytes, `type`, `digest`; FileNotFoundError when there is no such thing.

        A blob that is a tree is a directory. It can be opened all the same.
        """
        path = self._strip_protocol(path)
        if not path:
            return _directory("", None)
        with _Missing(path):
            digest, inside = self._split(path)
            if inside:
                return _told(path, self._entry(digest, inside))
            size = self._client.size(digest)
            if self._is_tree(digest, size):
                return _directory(path, digest)
            return _file(path, size, digest)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What is in a directory of a tree; at the root, all blobs of the node."""
        path = self._strip_protocol(path)
        with _Missing(path):
            found = list(self._listed(path))
        return found if detail else [each["name"] for each in found]

    def _listed(self, path: str) -> Iterator[dict[str, Any]]:
        if not path:
            for blob in self._client.list():
                yield _file(blob.digest, blob.size, blob.digest)
            return
        itself = self.info(path)
        if itself["type"] != "directory":
            yield itself
            return
        digest, inside = self._split(path)
        tree = self._tree(digest)
        for name in tree.below.get(inside, []):
            yield _told(f"{path}/{name}", tree.entries[f"{inside}/{name}".strip("/")])

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """The bytes of a file. A whole one is checked against its digest."""
        digest, size = self._blob(path)
        if start is None and end is None:
            return self._client.get(digest)
        first, last, _step = slice(start, end).indices(size)
        return self._client.get(digest, range=(first, max(first, last)))

    def created(self, path: str) -> None:
        """Not known: a digest does not tell."""
        raise NotImplementedError

    modified = created

    def ukey(self, path: str) -> str:
        """What is under a name now: the digest."""
        return self._blob(path)[0]

    def _open(self, path: str, mode: str = "rb", **options: Any) -> io.IOBase:
        if mode != "rb":
            raise InputError(f"mesh:// is read only, and {path} was to be opened with {mode!a}")
        digest, size = self._blob(path)
        options.pop("autocommit", None)
        return _Opened(self, self._strip_protocol(path), digest, size, options)

    # --- names -------------------------------------------------------------------------------

    def _blob(self, path: str) -> tuple[str, int]:
        """The digest and the size of the file at a path."""
        path = self._strip_protocol(path)
        with _Missing(path):
            digest, inside = self._split(path)
            if not inside:
                return digest, self._client.size(digest)
            match self._entry(digest, inside):
                case File(size=size, digest=name):
                    return name.hex(), size
                case Link(target=target):
                    raise FileNotFoundError(
                        f"{path} is a symbolic link to {os.fsdecode(target)!a}; open that instead"
                    )
        raise IsADirectoryError(path)

    def _split(self, path: str) -> tuple[str, str]:
        """The digest at the beginning of a path, and the rest of it."""
        name, _, inside = path.strip("/").partition("/")
        return self._digest(parse_name(name)), inside

    def _named(self, name: str) -> str:
        """The digest that begins with `name`."""
        if len(name) == _DIGITS:
            return name
        blobs = self._client.list(name)
        first, second = next(blobs, None), next(blobs, None)
        if first is None:
            raise NotFound(f"no blob of the node begins with {name}")
        if second is not None:
            raise InputError(f"{name} begins several blobs of the node; give more digits")
        return first.digest

    # --- trees -------------------------------------------------------------------------------

    def _is_tree(self, digest: str, size: int) -> bool:
        """Whether a blob is a manifest or a snapshot; other JSON may only begin as one does."""
        if not _HEAD <= size <= MAX_BYTES:
            return False
        head = self._client.get(digest, range=(0, _HEAD))
        if not head.startswith(_HEADS) or (head.startswith(BEGINNING) and size > MAX_SNAPSHOT):
            return False
        try:
            self._tree(digest)
        except InputError:
            return False
        return True

    def _entry(self, digest: str, inside: str) -> Entry:
        entry = self._tree(digest).entries.get(inside)
        if entry is None:
            raise NotFound(f"{inside} is not in tree {digest}")
        return entry

    def _load(self, digest: str) -> _Tree:
        """The tree of a manifest, or of the snapshot that names one."""
        data = self._client.get(digest)
        snapshot = recognised(data)
        if snapshot is not None:
            data = self._client.get(snapshot.manifest.hex())
        entries: dict[str, Entry] = {}
        below: dict[str, list[str]] = {}
        for entry in decode(data).entries:
            path = os.fsdecode(entry.path)
            entries[path] = entry
            parent, _, name = path.rpartition("/")
            below.setdefault(parent, []).append(name)
        return _Tree(entries, below)


class _Opened(AbstractBufferedFile):  # type: ignore[misc]
    """An open file; fsspec decides what is read ahead and kept."""

    def __init__(
        self, files: MeshFileSystem, path: str, digest: str, size: int, options: dict[str, Any]
    ) -> None:
        self._named = digest
        super().__init__(files, path, "rb", size=size, **options)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return bytes(self.fs.cat_file(self._named, start, end))


class _Missing:
    """A block in which what is not there is a FileNotFoundError, as callers of fsspec expect."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, NotFound):
            raise FileNotFoundError(f"mesh://{self._path}: {error}") from error


def _told(name: str, entry: Entry) -> dict[str, Any]:
    match entry:
        case File(size=size, digest=digest):
            return {**_file(name, size, digest.hex()), "mode": entry.mode}
        case Directory():
            return {**_directory(name, None), "mode": entry.mode}
        case Link(target=target):
            return {"name": name, "size": 0, "type": "link", "destination": os.fsdecode(target)}


def _file(name: str, size: int, digest: str) -> dict[str, Any]:
    return {"name": name, "size": size, "type": "file", "digest": digest}


def _directory(name: str, digest: str | None) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory", "digest": digest}
