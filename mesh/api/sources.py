"""The bytes of a blob that is put, wherever they come from: in chunks, with their size if known."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from anyio import to_thread

from mesh.api.blobs import Source
from mesh.core.digest import Digest, new_hasher
from mesh.errors import InputError, printable

# Bytes that are read from a file at a time, by a thread.
_PIECE = 512 * 1024


class Bytes(NamedTuple):
    """All bytes at once."""

    data: bytes


class Chunks:
    """Bytes that come one after another, hashed on the way. `size` is None when not known."""

    def __init__(self, chunks: AsyncIterator[bytes], size: int | None) -> None:
        self.size = size
        self._chunks = chunks
        self._hasher = new_hasher()

    def __aiter__(self) -> Chunks:
        """Itself."""
        return self

    async def __anext__(self) -> bytes:
        """The next chunk."""
        chunk = await anext(self._chunks)
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise InputError(f"a source of bytes made a {type(chunk).__name__}; expected bytes")
        self._hasher.update(chunk)
        return chunk

    async def aclose(self) -> None:
        """End a generator that makes the bytes: nobody else may know of it."""
        if isinstance(self._chunks, AsyncGenerator):
            await self._chunks.aclose()

    @property
    def digest(self) -> Digest:
        """Of what has come so far."""
        return Digest(self._hasher.digest())


@asynccontextmanager
async def opened(source: Source) -> AsyncIterator[Bytes | Chunks]:
    """The bytes of `source`. InputError for a file that cannot be read, or what is no source."""
    match source:
        case bytes():
            yield Bytes(source)
        case bytearray() | memoryview():
            yield Bytes(bytes(source))
        case os.PathLike():
            with _File(Path(source)) as file:
                async with aclosing(Chunks(file.pieces(), file.size)) as chunks:
                    yield chunks
        case _ if hasattr(source, "__aiter__"):
            async with aclosing(Chunks(aiter(source), None)) as chunks:
                yield chunks
        case _:
            raise InputError(
                f"cannot put a {type(source).__name__}; expected bytes, a pathlib.Path or an "
                "asynchronous iterator of bytes"
            )


class _File:
    """A file while it is read, and whether it stays the same."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _File:
        try:
            # Without O_NONBLOCK a pipe that nobody writes to would hold up the whole loop.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            self._descriptor = os.open(self._path, flags)
        except OSError as error:
            raise self._unreadable(error) from error
        self._before = os.fstat(self._descriptor)
        if stat.S_ISFIFO(self._before.st_mode):
            os.close(self._descriptor)
            raise InputError(
                f"{printable(str(self._path))} is a pipe; read it, and put what you have read"
            )
        os.set_blocking(self._descriptor, True)
        # Files of the kernel, as in /proc, say that they have no bytes: they are read to the end.
        self.size = self._before.st_size or None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes that the file had when it was opened; InputError when it has others by now."""
        left = self.size
        while left is None or left > 0:
            piece = await to_thread.run_sync(self._read, _PIECE if left is None else left)
            if not piece:
                break
            left = None if left is None else left - len(piece)
            if left == 0:
                self._unchanged(0)
            yield piece
        self._unchanged(left or 0)

    def _read(self, most: int) -> bytes:
        try:
            return os.read(self._descriptor, min(most, _PIECE))
        except OSError as error:
            raise self._unreadable(error) from error

    def _unchanged(self, left: int) -> None:
        before, now = self._before, os.fstat(self._descriptor)
        same = (before.st_size, before.st_mtime_ns) == (now.st_size, now.st_mtime_ns)
        if self.size is not None and (left or not same):
            raise InputError(
                f"{printable(str(self._path))} changed while it was read; put it again when nobody "
                "writes to it"
            )

    def _unreadable(self, error: OSError) -> InputError:
        return InputError(f"cannot read {printable(str(self._path))}: {error.strerror or error}")
