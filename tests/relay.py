"""A TCP relay that cuts every connection after so many bytes, and counts what it let through."""

from __future__ import annotations

import socket
import threading
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


def _end(*both: socket.socket) -> None:
    for one in both:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
