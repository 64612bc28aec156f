"""Sessions in the documentation: what a page shows is what happens.

A block that is fenced as `console` is a session. A line `$ COMMAND` is typed, or `one$ COMMAND` on
the machine called one; a command that ends in a backslash goes on in the next line. What follows is
its output. All sessions of a page are one: they share machines, files and nodes.

Each machine is a directory and an address on loopback. Where the page says `0.0.0.0:7280`, the
machine's own address is meant, `two:7280` is that of the machine called two, and `127.0.0.1:7281`
stands for a free port. `/home/ann` is the machine's directory, and `one/home/ann` that of one. `^C`
stops the machine's node. `export NAME=VALUE` holds for the machine until the end of the page. What
cannot be the same twice is not compared: times, durations, rates. A digest or an id of the page
stands for the one that was printed in its place at first.

    python -m tests.docs.sessions PAGE

runs a page and writes into it what the commands printed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.forks import Fork, environment
from tests.processes import READY, free_places, mesh, until

ROOT = Path(__file__).parents[2]

PROMPT = re.compile(r"^(\w*)\$ (.*)$")
FENCE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Digests, ids and roots, in full or their first digits; no plain number is meant.
_HEX = re.compile(r"\b(?=\w*[a-f])[0-9a-f]{12,64}\b")

# Where a reader of the pages is at home.
_HOME = "/home/ann"

# A command of a page lasts a few seconds; one that hangs is named before the test's own limit.
_SECONDS = 60

# What differs from run to run. The order matters: a rate is no duration.
_VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?"), "TIME"),
    (re.compile(r"\d+(\.\d+)? ?([KMG]i?)?B/s"), "RATE"),
    # A snapshot is as long as the path that it names.
    (re.compile(r"\b\d+\.\d [KMG]iB\b"), "SIZE"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|min|h|seconds?|minutes?|hours?)\b"), "DURATION"),
    (re.compile(r"[ \t]+"), " "),
)


class Step(NamedTuple):
    """A command of a page, on a machine ("" when the page names none), and what it printed."""

    machine: str
    command: str
    output: str
    line: int


def steps(text: str) -> list[Step]:
    """The commands of a page, in order."""
    found: list[Step] = []
    for block in FENCE.finditer(text):
        at = text.count("\n", 0, block.start(1)) + 1
        lines = block[1].splitlines()
        while lines:
            began, match = at, PROMPT.match(lines[0])
            assert match, f"line {at}: a session begins with a prompt, and not with {lines[0]!r}"
            command = match[2]
            taken = 1
            while command.endswith("\\"):
                command += "\n" + lines[taken]
                taken += 1
            output: list[str] = []
            while taken < len(lines) and not PROMPT.match(lines[taken]):
                output.append(lines[taken])
                taken += 1
            lines, at = lines[taken:], at + taken
            found.append(Step(match[1], command, "\n".join(output), began))
    return found


class _Node(NamedTuple):
    process: Fork
    url: str


def _at_rest(question: urllib.request.Request) -> bool:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(question) as answer:
        status = json.load(answer)
    unknown = any(peer["standing"] == "unknown" for peer in status["peers"])
    return status["state"] == "ready" and not unknown


class Machines:
    """The machines of a page: a directory each, the nodes that run, and which name means what."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._places: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self._nodes: dict[str, _Node] = {}
        self._exports: dict[str, dict[str, str]] = {}
        self._bin = base / "bin"
        self._bin.mkdir()
        # Copying to another machine is copying into its directory: FILE... MACHINE:
        to = f'to="{base}/${{@: -1}}"; to="${{to%:}}"; mkdir -p "$to"'
        self._script("scp", f'{to}; cp "${{@:1:$#-1}}" "$to"')

    def _script(self, name: str, body: str) -> None:
        path = self._bin / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def run(self, step: Step) -> str:
        """What the command printed, with this run's digests and in the page's words otherwise.

        A node is started and goes on until the end of the page.
        """
        home = self._base / (step.machine or "home")
        home.mkdir(exist_ok=True)
        own = self._place(f"{step.machine}:7280" if step.machine else "127.0.0.1:7280")
        command = self._actual(self._at_home(step.command.replace("0.0.0.0:7280", own), home))
        exports = self._exports.setdefault(step.machine, {})
        if match := re.fullmatch(r"export (\w+)=(\S+)", command):
            exports[match[1]] = match[2].replace("~", str(home))
            return ""
        if command == "^C":
            self._stop(self._nodes.pop(step.machine))
            return ""
        env = environment({"PATH": f"{self._bin}:{os.environ['PATH']}", "HOME": str(home)})
        env |= {"XDG_CACHE_HOME": str(home / ".cache"), "COLUMNS": "80", **exports}
        if command.startswith("mesh run "):
            return self._said(self._node(step.machine, command, home, env))
        self._rest()
        done = typed(command, home, {**env, "MESH_NODE": own})
        return self._said((done.stdout + done.stderr).decode())

    def _node(self, machine: str, command: str, home: Path, env: dict[str, str]) -> str:
        reading, writing = os.pipe()
        with (home / "log").open("ab") as log, open(os.devnull, "rb") as nothing:
            streams = [nothing.fileno(), writing, log.fileno()]
            process = Fork(shlex.split(command)[1:], streams, env, home)
        os.close(writing)
        with open(reading, encoding="utf-8") as out:
            line = out.readline()
        match = READY.search(line)
        assert match, f"{command}: {line}{(home / 'log').read_text()}"
        # Several nodes of one machine are told apart by the order in which they were started.
        self._nodes[machine or str(len(self._nodes))] = _Node(process, match[1])
        return line

    def _stop(self, node: _Node) -> None:
        node.process.send_signal(signal.SIGINT)
        node.process.wait(30)

    def in_page_words(self, shown: str, printed: str) -> str:
        """`printed` with the page's digests, once it is known which stands for which."""
        for in_page, here in zip(_HEX.findall(shown), _HEX.findall(printed), strict=False):
            if len(in_page) == len(here) and here not in self._digests.values():
                self._digests.setdefault(in_page, here)
        for in_page, here in self._digests.items():
            printed = printed.replace(here, in_page)
        return printed

    def with_digests_of_now(self, text: str) -> str:
        """A page with this run's digests in the places of its own."""
        for in_page, here in self._digests.items():
            text = text.replace(in_page, here)
        return text

    def _place(self, name: str) -> str:
        if name not in self._places:
            (self._places[name],) = free_places(1)
        return self._places[name]

    def _actual(self, command: str) -> str:
        """The command with this run's addresses and digests."""
        names = r"\b(127\.0\.0\.1|[a-z]+):72\d\d\b"
        command = re.sub(names, lambda match: self._place(match[0]), command)
        for in_page, here in self._digests.items():
            # A page may name a blob by the first digits of its digest.
            command = re.sub(
                rf"\b{in_page[:6]}[0-9a-f]{{0,58}}\b",
                lambda match, here=here: here[: len(match[0])],
                command,
            )
        return command

    def _at_home(self, command: str, home: Path) -> str:
        elsewhere = re.compile(rf"\b(\w+){_HOME}")
        command = elsewhere.sub(lambda match: f"{match[1]}{self._base / match[1]}", command)
        return command.replace(_HOME, str(home))

    def _rest(self) -> None:
        """Return once each node has looked at each of its peers: readers are slow typists."""
        for machine, node in self._nodes.items():
            key = self._base / machine / "mesh.key"
            show = {"Authorization": f"Bearer {key.read_text().strip()}"} if key.exists() else {}
            until(partial(_at_rest, urllib.request.Request(f"{node.url}/v1/status", headers=show)))

    def _said(self, output: str) -> str:
        """Output in the page's words."""
        for name, place in self._places.items():
            output = output.replace(place, name)
        output = re.sub(rf"{re.escape(str(self._base))}/\w+", _HOME, output)
        return output.rstrip("\n")

    def end(self) -> None:
        """Stop every node."""
        for node in self._nodes.values():
            self._stop(node)


def typed(command: str, here: Path, env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """A command that was run: in a shell, or as a fork where none is needed, which is faster."""
    words = shlex.split(command)
    if words[0] == "mesh" and not re.search(r"[|><;&$*~]", command):
        return mesh(*words[1:], env=env, cwd=here, seconds=_SECONDS)
    return subprocess.run(
        ["/bin/bash", "-c", f'mesh() {{ {sys.executable} -m mesh "$@"; }}; {command}'],
        cwd=here, env=environment(env), stdin=subprocess.DEVNULL, capture_output=True,
        timeout=_SECONDS, check=False,
    )  # fmt: skip


def alike(shown: str, printed: str) -> bool:
    """Whether the page shows what was printed, but for what varies."""
    return _plain(shown) == _plain(printed)


def _plain(text: str) -> str:
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    return text


def played(text: str, base: Path) -> Iterator[tuple[Step, str]]:
    """Each command of a page and what it printed now, in the page's words."""
    machines = Machines(base)
    try:
        for step in steps(text):
            printed = machines.run(step)
            yield step, machines.in_page_words(step.output, printed)
    finally:
        machines.end()


def rewritten(text: str, base: Path) -> str:
    """The page with what its commands print now, and with the digests of now."""
    machines = Machines(base)
    lines = text.splitlines()
    printed: list[tuple[Step, str]] = []
    try:
        printed.extend(
            (step, machines.in_page_words(step.output, machines.run(step))) for step in steps(text)
        )
    finally:
        machines.end()
    for step, output in reversed(printed):
        first = step.line + step.command.count("\n")
        shown = step.output.count("\n") + 1 if step.output else 0
        lines[first : first + shown] = output.splitlines()
    return machines.with_digests_of_now("\n".join(lines) + "\n")


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as directory:
            page.write_text(rewritten(page.read_text("utf-8"), Path(directory)), "utf-8")
