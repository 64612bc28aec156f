"""`mesh store check`, `rebuild` and `stats`: what can be done with a data directory of no node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from mesh.cli.progress import Progress
from mesh.cli.teller import Teller
from mesh.cli.words import count_text, size_text
from mesh.errors import ConfigError
from mesh.store.care import verify
from mesh.store.care.rebuild import rebuild as rebuild_index
from mesh.store.directory import DataDirectory
from mesh.store.files import DiskFiles

# Problems that the object of --json has in full; each is a line of --json-lines, too.
_PROBLEMS = 100


def check(data: Path, teller: Teller, *, read_data: bool) -> bool:
    """A line for each problem on stdout, notes on stderr; whether all is well."""
    watch = _Watch(teller)
    problems: list[str] = []
    count = 0
    with _claimed(data) as path:
        files = DiskFiles(path)
        for found in verify.check(files, path / "index.sqlite", watch.looked, read_data=read_data):
            if not found.problem:
                teller.note(found.text)
                continue
            count += 1
            if count <= _PROBLEMS:
                problems.append(found.text)
            teller.line(found.text)
            teller.event("problem", text=found.text)
    how = "read and checked" if read_data else "checked, without reading them (--read-data)"
    looked = f"{count_text(watch.blobs, 'blob')}, {size_text(watch.bytes)} {how}"
    teller.said(f"{looked}; {count_text(count, 'problem')}")
    teller.ended(
        ok=not count,
        blobs=watch.blobs,
        bytes=watch.bytes,
        read=read_data,
        problems=count,
        texts=problems,
    )
    return not count


class _Watch:
    """Tells how far a check is, and keeps how many blobs it has looked at."""

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self.blobs = 0
        self.bytes = 0

    def looked(self, looked: verify.Looked) -> None:
        """See verify.check."""
        step, blobs, total, size, total_bytes = looked
        if step in (verify.Step.RECORDS, verify.Step.READ):
            self.blobs, self.bytes = blobs or 0, size or 0
        if step is verify.Step.RECORDS:
            size = total_bytes = None  # nobody reads them
        self._teller.update(Progress(step.value, blobs, total, size, total_bytes))


def rebuild(data: Path, teller: Teller) -> None:
    """The index from the log."""

    def read(done: int, total: int) -> None:
        teller.update(Progress("reading the log", bytes=done, total_bytes=total))

    def compared(done: int, total: int) -> None:
        teller.update(Progress("comparing with the old index", done, total))

    with _claimed(data) as path:
        note = rebuild_index(DiskFiles(path), path / "index.sqlite", read, compared)
    teller.said(note)
    teller.ended(ok=True, note=note)


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
