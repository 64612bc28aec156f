"""Node processes for a measurement: started on free loopback ports, watched, and ended."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import anyio

from mesh.config import Address, parse_peer
from mesh.errors import MeshError, Unreachable
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


class NodePlan(NamedTuple):
    """A node to start: `port` 0 takes a free one, `interval` None leaves the node its default."""

    data: Path
    peers: Sequence[str] = ()
    port: int = 0
    interval: float | None = None


@contextmanager
def nodes(plans: Sequence[NodePlan], backend: str) -> Iterator[list[NodeProcess]]:
    """Nodes that start together, until the block is left; Unreachable when one does not start."""
    processes: list[subprocess.Popen[str]] = []
    try:
        for plan in plans:
            processes.append(_start(plan, backend))  # noqa: PERF401 - the rest is ended if one fails
        yield [_listening(process, plan) for process, plan in zip(processes, plans, strict=True)]
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(_STOP)
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def node(data: Path, backend: str, peers: Sequence[str] = ()) -> Iterator[NodeProcess]:
    """A node on `data`, until the block is left. Its interval is an hour: rounds are asked for."""
    with nodes([NodePlan(data, peers, interval=3600.0)], backend) as (one,):
        yield one


def meshed(directories: Sequence[Path]) -> list[NodePlan]:
    """Plans of nodes that all have each other as peers, as users connect them."""
    ports = [free_port() for _ in directories]
    return [
        NodePlan(data, [f"127.0.0.1:{other}" for other in ports if other != port], port)
        for data, port in zip(directories, ports, strict=True)
    ]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number: int = one.getsockname()[1]
        return number


def _start(plan: NodePlan, backend: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mesh", "run", "--listen", f"127.0.0.1:{plan.port}"]
    command += ["--data", str(plan.data), "--backend", backend, "--log-level", "error"]
    command += ["--name", plan.data.name]
    if plan.interval is not None:
        command += ["--interval", str(plan.interval)]
    if plan.peers:
        command += ["--peers", ",".join(plan.peers)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=kept)  # noqa: S603


def _listening(process: subprocess.Popen[str], plan: NodePlan) -> NodeProcess:
    line = process.stdout.readline() if process.stdout is not None else ""
    match = _LISTENING.search(line)
    if match is None:
        raise Unreachable(f"the node on {plan.data} did not start")
    return NodeProcess(process, match[1])


class Ran(NamedTuple):
    """What a command took from its start to its exit. `cpu_seconds`: its children included."""

    seconds: float
    cpu_seconds: float


def timed(command: Sequence[str], environ: Mapping[str, str] | None = None) -> Ran:
    """Run a command to its end; MeshError with its last line when it fails.

    `environ`: what it finds in its environment beside ours.
    """
    before = _children_seconds()
    began = time.perf_counter()
    env = {**os.environ, **(environ or {})}
    done = subprocess.run(  # noqa: S603
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, env=env
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise MeshError(f"{Path(command[0]).name} ended with {done.returncode}: {last}")
    return Ran(seconds, _children_seconds() - before)


def timed_mesh(*args: str) -> Ran:
    """The same for a `mesh` command, with a record of what was put that is kept until we end."""
    return timed([sys.executable, "-m", "mesh", *args], {"XDG_CACHE_HOME": _cache_home().name})


@cache
def _cache_home() -> TemporaryDirectory[str]:
    """Where commands keep what is derived; not the user's own, which would keep it for ever."""
    return TemporaryDirectory(prefix="mesh-bench-")


def _children_seconds() -> float:
    """CPU of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def ready(client: NodeClient) -> Status:
    """How a node stands once its tree is built."""
    while True:
        status = await client.status(Status)
        if status.state == "ready":
            return status
        await anyio.sleep(_POLL)
