"""Every command that a page shows can be typed: it is run here, on a mesh of two nodes.

A page writes FILE, DIGEST and the like where readers put in what is theirs; here stands what is put
in. Sessions with their output are in test_sessions.py.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.docs.sessions import ROOT, typed
from tests.processes import fill, free_places, mesh, nodes

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

# A line of an indented or a fenced block that is a command of ours.
COMMAND = re.compile(r"(?:(?:\S*/)?mesh|(?:\S*/)?python -m mesh|curl) ")
FENCED = re.compile(r"```(\w*)")

# Commands whose words are only looked at here, and why.
ONLY_PARSED = (
    ("mesh bench ", "a benchmark takes minutes; tests/bench runs small ones"),
    ("mesh run ", "a node does not end; the sessions and most other tests run nodes"),
    ("mesh blobstash ", "a BlobStash server is needed; tests/blobstash has a stand-in"),
)
NOT_RUN = (("curl -u ", "a BlobStash server is needed; tests/blobstash has a stand-in"),)


class Shown(NamedTuple):
    """A command on a page."""

    page: str
    line: int
    command: str


def shown(page: Path) -> Iterator[Shown]:
    """The commands of a page that stand in no session."""
    fence: str | None = None
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if match := FENCED.match(line):
            fence = match[1] if fence is None else None
            continue
        code = line.startswith("    ") if fence is None else fence != "console"
        if code and COMMAND.match(line.strip()):
            yield Shown(str(page.relative_to(ROOT)), number, line.strip())


SHOWN = [each for page in PAGES for each in shown(page)]


class Mesh(NamedTuple):
    """Two nodes, a and b, that list each other, and what a page's words stand for."""

    values: dict[str, str]
    environment: dict[str, str]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    base = tmp_path_factory.mktemp("pages")
    places = free_places(2)
    with nodes() as start:
        for name, place, other in zip("ab", places, reversed(places), strict=True):
            peer = "b" if name == "a" else "a"
            node = start(base / name, "--name", name, "--peers", f"{peer}={other}", listen=place)
            node.ready()
        env = {"MESH_NODE": places[0], "XDG_CACHE_HOME": str(base / "cache")}
        tree = base / "home" / "ann" / "photos"
        (tree / "2026").mkdir(parents=True)
        (tree / "2026" / "holiday.jpg").write_bytes(b"a picture")
        put = mesh("put", "--tree", tree, "--host", "atlas", env=env)
        assert put.returncode == 0, put.stderr
        digest, manifest, snapshot = (line[:64] for line in put.stdout.decode().splitlines())
        empty = mesh("put", "-", env=env)
        assert empty.returncode == 0
        values = {
            "DIGEST": digest, "TREE": manifest, "SNAPSHOT": snapshot, "7f3a9c": snapshot[:9],
            "PEER": "b", "atlas/home/ann/photos": f"atlas{tree}", "/home/ann/photos": str(tree),
            "127.0.0.1:7280": places[0], "127.0.0.1:7281": places[1], "127.0.0.1:7282": places[1],
            # No request of a test may leave this machine.
            "10.0.0.4:7280": "127.0.0.1:1", "10.0.0.9:7280": "127.0.0.1:2",
        }  # fmt: skip
        fill(base / "stopped", [b"a blob"])
        values["--data DIR"] = f"--data {base / 'stopped'}"
        yield Mesh(values, env)


def _id(each: Shown) -> str:
    return f"{each.page}:{each.line}"


@pytest.mark.parametrize("command", SHOWN, ids=_id)
def test_a_command_of_a_page_does_what_it_should(
    command: Shown, running: Mesh, tmp_path: Path
) -> None:
    words = re.sub(r"\[[^]]*\]", "", command.command.split("  #")[0])
    if any(words.startswith(start) for start, _ in NOT_RUN):
        return
    plain = re.sub(r"^(\S*/)?(python -m )?mesh ", "mesh ", words)
    if any(plain.startswith(start) for start, _ in ONLY_PARSED):
        done = mesh(*shlex.split(plain.split(">")[0])[1:], "--help")
        assert done.returncode == 0, done.stderr.decode()
        return
    _lay_out(tmp_path)
    for word, value in running.values.items():
        plain = re.sub(rf"(?<![\w.]){re.escape(word)}\b", value, plain)
    env = {**running.environment, "HOME": str(tmp_path)}
    if re.match(r"mesh peers \S+ d\b", plain):
        # What the page has done with it in the lines before.
        mesh("peers", "remove" if "peers add" in plain else "add", "d=127.0.0.1:1", env=env)
    if plain.startswith("mesh key remove laptop"):
        mesh("key", "new", "laptop", "--key-file", tmp_path / "mesh.key", env=env)
    ran = typed(plain, tmp_path, env)
    assert ran.returncode == 0, f"{plain}\n{ran.stderr.decode()}"


def _lay_out(here: Path) -> None:
    """The files that pages name, as the reader would have them."""
    for name in ("FILE", "BIG", "mesh.key"):
        (here / name).write_text("twenty-characters-at-least\n")
    for name in ("DIR", "DIR1", "DIR2", "Documents"):
        (here / name).mkdir()
        (here / name / "file").write_bytes(name.encode())
