"""Imports go down only, and what must stay in one place stays there.

The rules are checked on the text of every file, also inside functions and under TYPE_CHECKING: a
type that one may name is knowledge as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the bottom up. A room may import those below it, and none beside it.
LEVELS = (
    ("errors", "version"),
    ("core",),
    ("config", "offload", "status"),
    ("wire", "store"),
    ("transport",),
    ("blobstash",),
    ("actors",),
    ("node",),
    ("server", "simulation"),
    ("bench",),
    ("cli",),
    ("__init__", "__main__"),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

# Which files may know a package; "mesh/server/" is all of that room. None at all may know asyncio:
# which loop runs is the command line's and Hypercorn's business.
KNOWN_TO = {
    "asyncio": (),
    "httpx": ("mesh/transport/http.py", "mesh/transport/pool.py"),
    "httpcore": ("mesh/transport/duplex.py", "mesh/transport/pool.py"),
    "quart": ("mesh/server/",),
    "quart_trio": ("mesh/server/",),
    "hypercorn": ("mesh/server/",),
    "sqlite3": ("mesh/store/",),
    "numpy": ("mesh/core/sketch.py",),
}

# The core gets time and randomness as arguments, and never awaits.
NOT_IN_CORE = {"time", "datetime", "random", "secrets", "uuid", "anyio", "trio"}

# Where everything is caught: the supervisor, which restarts an actor after a bug, and the lane,
# which carries an error from its thread over to the caller, whole.
BROAD = {"mesh/actors/actor.py": ["Exception"], "mesh/offload.py": ["BaseException"]}


def problems(path: str, source: str) -> list[str]:
    """Which rules the file `path` would break if `source` were its text."""
    tree = ast.parse(source)
    found = [*misplaced(path, tree), *broad(path, tree)]
    if room_of(path) == "core":
        found += impure(tree)
    return found


def room_of(path: str) -> str:
    return path.split("/")[1].removesuffix(".py")


# --- imports ---------------------------------------------------------------------------------


def misplaced(path: str, tree: ast.AST) -> Iterator[str]:
    """Imports of what is above or beside, and of packages that are another room's business."""
    own = room_of(path)
    if own not in LEVEL:
        yield f"room {own} has no level"
        return
    for line, name in imports(path, tree):
        package, *below = name.split(".")
        if package != "mesh":
            known_to = KNOWN_TO.get(package)
            if known_to is not None and not path.startswith(known_to):
                yield f"line {line}: {package} is known to {', '.join(known_to) or 'nobody'}"
            continue
        room = below[0] if below and below[0] in rooms() else "__init__"
        if room not in LEVEL:
            yield f"line {line}: room {room} has no level"
        elif room != own and LEVEL[room] >= LEVEL[own]:
            where = "above" if LEVEL[room] > LEVEL[own] else "beside"
            yield f"line {line}: {room} is {where} {own}"


def rooms() -> set[str]:
    """All that may follow `mesh.`, whether it has a level or not."""
    there = {path.stem for path in (ROOT / "mesh").iterdir() if path.suffix in ("", ".py")}
    return there | set(LEVEL)


def imports(path: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that is imported."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield node.lineno, alias.name
            case ast.ImportFrom(module=module, names=names, level=level):
                base = (path.split("/")[:-level] if level else []) + ([module] if module else [])
                for alias in names:
                    yield node.lineno, ".".join([*base, alias.name])
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if called(node) in (
                "import_module",
                "__import__",
            ):
                yield node.lineno, name


def called(node: ast.Call) -> str:
    """The last part of the name of what is called."""
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


# --- the core is pure ------------------------------------------------------------------------


def impure(tree: ast.AST) -> Iterator[str]:
    for line, name in imports("mesh/core/", tree):
        if name.split(".")[0] in NOT_IN_CORE and name != "random.Random":
            yield f"line {line}: {name} in the core"
    for node in ast.walk(tree):
        match node:
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                yield f"line {node.lineno}: the core awaits"
            case ast.Call() if called(node) == "Random":
                yield f"line {node.lineno}: the core makes its own randomness"


# --- catching everything ---------------------------------------------------------------------


def broad(path: str, tree: ast.AST) -> Iterator[str]:
    """Handlers that stop any error. One that tidies up and raises it again does not."""
    allowed = list(BROAD.get(path, []))
    for node in ast.walk(tree):
        caught: list[str] = []
        match node:
            case ast.ExceptHandler() if not raises_again(node):
                caught = broad_names(node.type)
            case ast.Call() if called(node) == "suppress":
                caught = [name for each in node.args for name in broad_names(each)]
        for name in caught:
            if name in allowed:
                allowed.remove(name)
            else:
                yield f"line {node.lineno}: catches {name}"


def raises_again(handler: ast.ExceptHandler) -> bool:
    match handler.body[-1]:
        case ast.Raise(exc=None):
            inside = list(ast.walk(handler))
            return not any(isinstance(x, ast.Return | ast.Break | ast.Continue) for x in inside)
    return False


def broad_names(caught: ast.expr | None) -> list[str]:
    match caught:
        case None:
            return ["everything"]
        case ast.Name(id=name) | ast.Attribute(attr=name):
            everything = ("Exception", "BaseException", "ExceptionGroup", "BaseExceptionGroup")
            return [name] if name in everything else []
        case ast.Tuple(elts=each):
            return [name for one in each for name in broad_names(one)]
    return []


# --- the package -----------------------------------------------------------------------------

FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "mesh").rglob("*.py"))


@pytest.mark.parametrize("path", FILES)
def test_a_file_keeps_to_its_place(path: str) -> None:
    assert problems(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_the_files_are_those_of_the_package() -> None:
    assert {"mesh/__init__.py", "mesh/core/tree/tree.py", "mesh/transport/client.py"} <= set(FILES)
    assert {room_of(path) for path in FILES} >= set(LEVEL) - {"simulation"}
    assert set(BROAD) <= set(FILES)


def test_the_rooms_of_the_design_are_in_this_order() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = text.partition("## The rooms")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    told = [room.strip() for cell in cells for room in cell.split(",") if room.strip() in LEVEL]
    assert set(told) >= set(LEVEL) - {"simulation", "__init__", "__main__"}
    levels = [LEVEL[room] for room in told]
    assert levels == sorted(levels, reverse=True)


# --- the rules themselves --------------------------------------------------------------------

BROKEN = [
    # up
    ("mesh/errors.py", "import mesh.core.digest", "core is above errors"),
    ("mesh/core/tree/tree.py", "from mesh.store.base import Blob", "store is above core"),
    ("mesh/store/disk.py", "from mesh.transport import base", "transport is above store"),
    ("mesh/wire/frames.py", "import mesh.actors.keeper as k", "actors is above wire"),
    ("mesh/transport/http.py", "from mesh.blobstash.tree import State", "blobstash is above"),
    ("mesh/actors/peer.py", "from mesh.node import Node", "node is above actors"),
    ("mesh/actors/peer.py", "from mesh import node", "node is above actors"),
    ("mesh/node.py", "from mesh.server.app import create_app", "server is above node"),
    ("mesh/server/app.py", "from mesh.cli.run import run_node", "cli is above server"),
    ("mesh/cli/main.py", "from mesh import Config", "__init__ is above cli"),
    ("mesh/cli/main.py", "import mesh", "__init__ is above cli"),
    ("mesh/store/disk.py", "from mesh import *", "__init__ is above store"),
    # beside
    ("mesh/wire/frames.py", "from mesh.store.base import Blob", "store is beside wire"),
    ("mesh/store/disk.py", "from mesh.wire import frames", "wire is beside store"),
    ("mesh/core/claims.py", "from mesh.config import Config", "config is above core"),
    ("mesh/config/loading.py", "from mesh.wire import frames", "wire is above config"),
    ("mesh/simulation/world.py", "import mesh.server", "server is beside simulation"),
    ("mesh/__main__.py", "import mesh", "__init__ is beside __main__"),
    # in disguise
    (
        "mesh/core/tree/tree.py",
        "def f():\n    from mesh.store import base",
        "line 2: store is above",
    ),
    (
        "mesh/core/tree/tree.py",
        "if TYPE_CHECKING:\n    import mesh.store",
        "line 2: store is above",
    ),
    ("mesh/core/tree/tree.py", "try:\n    import mesh.node\nexcept OSError: pass", "node is above"),
    ("mesh/core/tree/tree.py", "from ...store import base", "store is above core"),
    ("mesh/core/tree/tree.py", "from ...store.base import Blob", "store is above core"),
    ("mesh/core/tree/tree.py", "from ... import store", "store is above core"),
    ("mesh/store/__init__.py", "from ..wire import frames", "wire is beside store"),
    ("mesh/core/tree/tree.py", "import os, mesh.store.disk", "store is above core"),
    ("mesh/core/tree/tree.py", "importlib.import_module('mesh.store')", "store is above core"),
    ("mesh/core/tree/tree.py", "__import__('mesh.store')", "store is above core"),
    # a room that nobody gave a level
    ("mesh/attic/old.py", "", "room attic has no level"),
    # packages
    ("mesh/transport/memory.py", "import asyncio", "asyncio is known to nobody"),
    ("mesh/cli/run.py", "from asyncio import run", "asyncio is known to nobody"),
    ("mesh/server/serve.py", "def f():\n    import asyncio.events", "asyncio is known to nobody"),
    ("mesh/transport/client.py", "import httpx", "httpx is known to mesh/transport/http.py"),
    ("mesh/transport/client.py", "from httpx import AsyncClient", "httpx is known to"),
    ("mesh/node.py", "from quart import Quart", "quart is known to mesh/server/"),
    ("mesh/cli/run.py", "import quart_trio", "quart_trio is known to mesh/server/"),
    ("mesh/cli/run.py", "from hypercorn.trio import serve", "hypercorn is known to mesh/server/"),
    ("mesh/actors/keeper.py", "import sqlite3", "sqlite3 is known to mesh/store/"),
    ("mesh/core/cells.py", "import numpy as np", "numpy is known to mesh/core/sketch.py"),
    # the core
    ("mesh/core/schedule.py", "import time", "time in the core"),
    ("mesh/core/schedule.py", "from time import monotonic", "time.monotonic in the core"),
    ("mesh/core/schedule.py", "from datetime import datetime", "datetime.datetime in the core"),
    ("mesh/core/schedule.py", "import random", "random in the core"),
    ("mesh/core/schedule.py", "from random import uniform", "random.uniform in the core"),
    ("mesh/core/schedule.py", "from random import Random, choice", "random.choice in the core"),
    ("mesh/core/schedule.py", "Random(1)", "its own randomness"),
    ("mesh/core/schedule.py", "import anyio.lowlevel", "anyio.lowlevel in the core"),
    ("mesh/core/schedule.py", "async def f(): pass", "the core awaits"),
    # catching everything
    ("mesh/node.py", "try: f()\nexcept Exception: pass", "line 2: catches Exception"),
    ("mesh/node.py", "try: f()\nexcept BaseException as e: g(e)", "catches BaseException"),
    ("mesh/node.py", "try: f()\nexcept: pass", "catches everything"),
    ("mesh/node.py", "try: f()\nexcept (OSError, Exception): pass", "catches Exception"),
    ("mesh/node.py", "try: f()\nexcept builtins.Exception: pass", "catches Exception"),
    ("mesh/node.py", "try: f()\nexcept* Exception: pass", "catches Exception"),
    ("mesh/node.py", "try: f()\nexcept Exception as e: raise OSError from e", "catches Exception"),
    ("mesh/node.py", "while 1:\n try: f()\n except:\n  if g(): break\n  raise", "everything"),
    ("mesh/node.py", "with suppress(OSError, Exception): f()", "catches Exception"),
    ("mesh/actors/actor.py", "try: f()\nexcept BaseException: pass", "catches BaseException"),
    (
        "mesh/actors/actor.py",
        "try: f()\nexcept Exception: pass\ntry: f()\nexcept Exception: pass",
        "line 4: catches Exception",
    ),
]

FINE = [
    ("mesh/errors.py", "import os"),
    (
        "mesh/core/tree/tree.py",
        "from mesh.core.digest import Digest\nfrom mesh.errors import InputError",
    ),
    ("mesh/core/tree/tree.py", "from ..digest import Digest\nfrom ...errors import InputError"),
    ("mesh/core/schedule.py", "from random import Random\ndef f(random: Random): random.random()"),
    ("mesh/config/keys.py", "from mesh.errors import ConfigError"),
    ("mesh/store/disk.py", "import sqlite3\nfrom mesh.core.tree import Tree\nimport mesh.config"),
    ("mesh/transport/http.py", "import httpx\nfrom mesh.wire.messages import encode"),
    ("mesh/blobstash/peer.py", "from mesh.transport.base import Replica"),
    ("mesh/actors/peer.py", "from random import Random\nfrom mesh import config"),
    ("mesh/server/serve.py", "def f():\n    from hypercorn.asyncio import serve"),
    ("mesh/cli/run.py", "import time, mesh.server.app, mesh.store.disk\nfrom mesh.cli import get"),
    ("mesh/__init__.py", "from mesh.node import Node"),
    ("mesh/__main__.py", "from mesh.cli.main import main"),
    ("mesh/node.py", "try: f()\nexcept (OSError, ValueError): pass"),
    ("mesh/node.py", "try: f()\nexcept BaseException:\n    g()\n    raise"),
    ("mesh/node.py", "with suppress(OSError): f()"),
    ("mesh/actors/actor.py", "try: f()\nexcept Exception: pass"),
]


@pytest.mark.parametrize(("path", "source", "problem"), BROKEN)
def test_a_file_that_breaks_a_rule_is_found(path: str, source: str, problem: str) -> None:
    (found,) = problems(path, source)
    assert problem in found


@pytest.mark.parametrize(("path", "source"), FINE)
def test_a_file_that_breaks_none_is_not(path: str, source: str) -> None:
    assert problems(path, source) == []
