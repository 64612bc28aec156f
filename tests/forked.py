"""Nodes as forks that only a kill ends, for campaigns: they are killed at any moment of a start."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from tests.forks import SEGMENT_BYTES, Fork, environment
from tests.processes import READY, until


class ForkedNode:
    """`mesh run`; ends by `kill` only, which has to be said."""

    def __init__(self, data: Path, *args: str, segment_bytes: int | None = None) -> None:
        """`segment_bytes`: how large its segments are; None for as large as they always are."""
        self._stack = ExitStack()
        self._log: str | None = None
        self._streams = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
        for stream in self._streams:
            self._stack.callback(os.close, stream)
        words = ["run", "--data", str(data), "--listen", "127.0.0.1:0", *args]
        words += ["--log-format", "text"]
        extra = {SEGMENT_BYTES: str(segment_bytes)} if segment_bytes is not None else {}
        self._fork = Fork(words, self._streams, environment(extra))
        self.process = self._fork.pid

    def address(self) -> tuple[str, int]:
        """Where it listens; returns once it does."""
        match = until(lambda: READY.search(self._said(1)))
        host, _, port = match[1].removeprefix("http://").rpartition(":")
        return host, int(port)

    def kill(self) -> str:
        """kill -9; returns once it is gone, with what it logged. Again: the same."""
        if self._log is None:
            self._fork.kill()
            with self._stack:
                self._fork.wait(60)
                self._log = self._said(2)
        return self._log

    def _said(self, number: int) -> str:
        stream = self._streams[number]
        return os.pread(stream, os.fstat(stream).st_size, 0).decode()
