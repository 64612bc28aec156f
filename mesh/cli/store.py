"""`mesh store check`, `rebuild` and `stats`: what can be done with a data directory of no node."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from mesh.cli.words import size_text
from mesh.errors import ConfigError
from mesh.store.care import verify
from mesh.store.care.rebuild import rebuild as rebuild_index
from mesh.store.directory import DataDirectory
from mesh.store.files import DiskFiles


def check(data: Path, *, read_data: bool) -> bool:
    """A line for each problem on stdout, notes and progress on stderr; whether all is well."""
    problems = 0
    last = verify.Progress(0, 0)
    with _claimed(data) as path:
        found = verify.check(DiskFiles(path), path / "index.sqlite", read_data=read_data)
        for each in found:
            if isinstance(each, verify.Progress):
                last = each
                _show(f"{each.blobs} blobs, {size_text(each.bytes)} checked")
                continue
            _clear()
            problems += each.problem
            print(each.text, file=sys.stdout if each.problem else sys.stderr)
    _clear()
    how = "read and checked" if read_data else "checked, without reading them (--read-data)"
    print(f"{last.blobs} blobs, {size_text(last.bytes)} {how}; {problems} problems")
    return not problems


def rebuild(data: Path) -> None:
    """The index from the log."""
    with _claimed(data) as path:
        note = rebuild_index(
            DiskFiles(path),
            path / "index.sqlite",
            lambda done, total: _show(f"{size_text(done)} of {size_text(total)} of the log read"),
        )
    _clear()
    print(note)


def stats(data: Path, *, as_json: bool) -> None:
    """What is there."""
    with _claimed(data) as path:
        counted = verify.stats(DiskFiles(path), path / "index.sqlite")
    if as_json:
        print(msgspec.json.encode(counted._asdict()).decode())
        return
    print(f"blobs     {counted.blobs}, {size_text(counted.bytes)}")
    print(f"large     {counted.large} of them, {size_text(counted.large_bytes)}")
    dead = f"{size_text(counted.dead)} of them of no blob any more"
    print(f"segments  {counted.segments}, {size_text(counted.segment_bytes)}, {dead}")
    print(f"index     {size_text(counted.index_bytes)}")
    aside = f"{size_text(counted.aside_bytes)} of at most {size_text(counted.aside_most)}"
    print(f"damaged   {counted.aside} set aside, {aside}")
    print(f"wanted    {counted.wanted}")


@contextmanager
def _claimed(data: Path) -> Iterator[Path]:
    """The directory, which has to be one already, and of no running node."""
    if not (data / "node.json").exists():
        raise ConfigError(f"{data} is not the data directory of a node; name one with --data")
    directory = DataDirectory.claim(data)
    try:
        yield directory.path
    finally:
        directory.release()


def _show(text: str) -> None:
    """How far it is, on one line of a terminal; nothing in a file or a pipe."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
