"""Node processes for a measurement: started on free loopback ports, watched, and ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio

from mesh.config import Address, parse_peer
from mesh.errors import Unreachable
from mesh.status import Status
from mesh.transport.client import NodeClient

_LISTENING = re.compile(r"listening on (\S+),")
_POLL = 0.01  # seconds between looks at a node that is not ready: what a start is measured to
_STOP = 30.0


class NodeProcess:
    """`python -m mesh run`, as users run it."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        """See `node`."""
        self._process = process
        self.url = url

    @property
    def address(self) -> Address:
        """For a client."""
        return parse_peer(self.url)

    @property
    def place(self) -> str:
        """host:port, for a peer list."""
        return self.url.partition("://")[2]

    def peak_bytes(self) -> int:
        """The most resident memory so far."""
        return self._kilobytes("VmHWM") * 1024

    def resident_bytes(self) -> int:
        """Resident memory now."""
        return self._kilobytes("VmRSS") * 1024

    def cpu_seconds(self) -> float:
        """User and system time so far, to 10 ms."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _kilobytes(self, field: str) -> int:
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        match = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
        return int(match[1]) if match else 0


@contextmanager
def node(data: Path, backend: str, peers: Sequence[str] = ()) -> Iterator[NodeProcess]:
    """A node on `data`, until the block is left. Its interval is an hour: rounds are asked for."""
    command = [sys.executable, "-m", "mesh", "run", "--listen", "127.0.0.1:0", "--interval", "3600"]
    command += ["--data", str(data), "--backend", backend, "--log-level", "error"]
    command += ["--name", data.name]
    if peers:
        command += ["--peers", ",".join(peers)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=kept)  # noqa: S603
    try:
        line = process.stdout.readline() if process.stdout is not None else ""
        match = _LISTENING.search(line)
        if match is None:
            raise Unreachable(f"the node on {data} did not start")
        yield NodeProcess(process, match[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP)
        if process.stdout is not None:
            process.stdout.close()


async def ready(client: NodeClient) -> Status:
    """How a node stands once its tree is built."""
    while True:
        status = await client.status(Status)
        if status.state == "ready":
            return status
        await anyio.sleep(_POLL)
