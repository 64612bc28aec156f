"""TCP relays: one cuts every connection after so many bytes, one counts requests and bytes."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from contextlib import suppress


class Cutter:
    """A link to `target` that breaks again and again. Its `place` is what the peer lists."""

    def __init__(self, target: str, every: int) -> None:
        """`every`: bytes of answers after which a connection ends."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._every = every
        self._lock = threading.Lock()
        self.moved = 0
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Cut every connection and take no more."""
        for one in list(self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def __enter__(self) -> Cutter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                threading.Thread(target=self._up, args=(near, far), daemon=True).start()
                threading.Thread(target=self._down, args=(near, far), daemon=True).start()

    def _up(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(65536):
                far.sendall(data)
        _end(near, far)

    def _down(self, near: socket.socket, far: socket.socket) -> None:
        left = self._every
        with suppress(OSError):
            while left and (data := far.recv(min(left, 262_144))):
                left -= len(data)
                with self._lock:
                    self.moved += len(data)
                    self.cuts += not left
                near.sendall(data)
        _end(near, far)


_REQUEST = re.compile(rb"(GET|PUT|POST) /(\S+) HTTP/1\.1\r\n")


class Counting(Cutter):
    """A link to `target` that stays, and counts what a client sends: requests and bytes."""

    def __init__(self, target: str) -> None:
        super().__init__(target, 2**60)
        self.requests: Counter[str] = Counter()
        self.sent = 0

    def _up(self, near: socket.socket, far: socket.socket) -> None:
        seen = b""
        with suppress(OSError):
            while data := near.recv(262_144):
                seen += data
                with self._lock:
                    self.sent += len(data)
                    while found := _REQUEST.search(seen):
                        self.requests[found[2].decode()] += 1
                        seen = seen[found.end() :]
                seen = seen[-100:]  # the beginning of a request may be in here
                far.sendall(data)
        _end(near, far)


def _end(*both: socket.socket) -> None:
    for one in both:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
