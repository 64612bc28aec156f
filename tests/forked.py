"""Nodes as forks of a process that has imported everything: started in a tenth of the time."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.processes import (
    READY,
    SEGMENT_BYTES,
    _number,
    _template,
    _template_lock,
    environment,
    until,
)


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
        order = json.dumps([[os.fsencode(word).hex() for word in words], environment(extra)])
        self._link, there = socket.socketpair()
        self._stack.enter_context(self._link)
        with there:
            descriptors = [*self._streams, there.fileno()]
            with _template_lock:
                socket.send_fds(_template(), [struct.pack(">I", len(order))], descriptors)
                _template().sendall(order.encode())
        self._link.settimeout(60.0)
        self.process = _number(self._link)

    def address(self) -> tuple[str, int]:
        """Where it listens; returns once it does."""
        match = until(lambda: READY.search(self._said(1)))
        host, _, port = match[1].removeprefix("http://").rpartition(":")
        return host, int(port)

    def kill(self) -> str:
        """kill -9; returns once it is gone, with what it logged. Again: the same."""
        if self._log is None:
            with suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGKILL)
            with self._stack:
                _number(self._link)
                self._log = self._said(2)
        return self._log

    def _said(self, number: int) -> str:
        stream = self._streams[number]
        return os.pread(stream, os.fstat(stream).st_size, 0).decode()
