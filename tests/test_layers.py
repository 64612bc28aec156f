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
    ("errors", "settings", "version"),
    ("decoding",),
    ("core",),
    ("config", "dates", "events", "offload", "racing", "status"),
    ("wire", "store"),
    ("transport",),
    ("blobstash",),
    ("actors",),
    ("node",),
    ("server", "simulation"),
    ("api", "bench"),
    ("cli", "sync"),
    ("__init__", "__main__"),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

# The same inside the store: what stands on a level may import those below it, and none beside it
# but its own sub-room.
STORE = (
    ("base", "faults", "layout", "direct", "directory"),
    ("files",),
    ("log",),
    ("large",),
    ("reading",),
    ("care",),
    ("writing",),
    ("disk", "memory"),
)
STORE_LEVEL = {room: level for level, rooms in enumerate(STORE) for room in rooms}

# Which files may know a package; "mesh/server/" is all of that room. None at all may know asyncio:
# which loop runs is the command line's and Hypercorn's business.
KNOWN_TO = {
    "asyncio": (),
    "httpx": ("mesh/transport/http.py", "mesh/transport/repairs/"),
    "httpcore": ("mesh/transport/duplex.py", "mesh/transport/repairs/"),
    "quart": ("mesh/server/",),
    "quart_trio": ("mesh/server/",),
    "hypercorn": ("mesh/server/",),
    "sqlite3": ("mesh/store/", "mesh/cli/record.py"),
    "fsspec": ("mesh/api/filesystem.py",),
    "numpy": ("mesh/core/sketch.py",),
    "nacl": ("mesh/core/sodium.py",),
    "tomllib": ("mesh/decoding.py",),
    "json": (),
    "pickle": (),
}

# The core gets time and randomness as arguments, and never awaits.
NOT_IN_CORE = {"time", "datetime", "random", "secrets", "uuid", "anyio", "trio"}

# Where everything is caught: the supervisor, which restarts an actor after a bug, and the lane,
# which carries an error from its thread over to the caller, whole. And where connections are
# served: on trio whatever a stranger's bytes bring about in others' code would end the node.
BROAD = {
    "mesh/actors/actor.py": ["Exception"],
    "mesh/offload.py": ["BaseException"],
    "mesh/server/repairs/connections.py": ["Exception", "Exception"],
}

# Who calls a decoder. What comes from outside is decoded in one place, where every way in which
# that can fail is known.
DECODING = "mesh/decoding.py"
DECODERS = {
    # Prefixes that the tree made itself, a thousand to an answer: nothing from outside.
    "mesh/core/tree/hashes.py": ["fromhex", "fromhex"],
    # /proc is the kernel's.
    "mesh/bench/processes.py": ["read_text", "read_text"],
}


# Who holds the store itself: the keeper and its two parts, which are its door and the watch over
# its disk, and the node, which opens and closes it. Everybody else goes through the door.
STORE_HOLDERS = (
    "mesh/actors/disk.py",
    "mesh/actors/door.py",
    "mesh/actors/keeper.py",
    "mesh/node.py",
)
BEHIND_THE_DOOR = ("actors", "blobstash", "node", "server", "simulation")


def problems(path: str, source: str) -> list[str]:
    """Which rules the file `path` would break if `source` were its text."""
    tree = ast.parse(source)
    found = [*misplaced(path, tree), *misplaced_in_store(path, tree), *broad(path, tree)]
    found += [*decoders(path, tree), *reaching_through(path, tree)]
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


def misplaced_in_store(path: str, tree: ast.AST) -> Iterator[str]:
    """Imports inside the store that do not go down."""
    _, room, *below = path.removesuffix(".py").split("/")
    if room != "store" or below == ["__init__"] or not below:
        return
    own = below[0]
    if own not in STORE_LEVEL:
        yield f"store/{own} has no level"
        return
    for line, name in imports(path, tree):
        package, *parts = name.split(".")
        if package != "mesh" or parts[:1] != ["store"] or len(parts) < 2 or parts[1] == own:
            continue
        other = parts[1]
        if other not in STORE_LEVEL:
            yield f"line {line}: store/{other} has no level"
        elif STORE_LEVEL[other] >= STORE_LEVEL[own]:
            where = "above" if STORE_LEVEL[other] > STORE_LEVEL[own] else "beside"
            yield f"line {line}: store/{other} is {where} store/{own}"


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


# --- one door to the store ---------------------------------------------------------------------


def reaching_through(path: str, tree: ast.AST) -> Iterator[str]:
    """Uses of the store by others than those who hold it, and of a store that others hold."""
    if room_of(path) not in BEHIND_THE_DOOR:
        return
    if path not in STORE_HOLDERS:
        for line, name in imports(path, tree):
            if name == "mesh.store.base.BlobStore" or name in ("mesh.store", "mesh.store.base"):
                yield f"line {line}: the store is known to {', '.join(STORE_HOLDERS)}"
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=owner, attr="store" | "_store"):
                own = isinstance(owner, ast.Name) and owner.id == "self"
                if not own or path not in STORE_HOLDERS:
                    yield f"line {node.lineno}: reaches through to the store"


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


# --- decoding what comes from outside ---------------------------------------------------------

# Functions and classes of the libraries that turn bytes or text into values.
DECODER_NAMES = {
    "Decoder", "JSONDecoder", "b64decode", "decode", "fromhex", "loads", "read_text", "unhexlify",
}  # fmt: skip


def decoders(path: str, tree: ast.AST) -> Iterator[str]:
    """Calls of a decoder, but for those of our own modules and of what was just encoded here."""
    if path == DECODING:
        return
    allowed = list(DECODERS.get(path, []))
    ours = {alias.asname or alias.name for alias in imported_from_mesh(tree)}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name)) if name in ours:
                continue
            case ast.Attribute(value=ast.Call() as inner) if "encode" in called(inner):
                continue
            case ast.Attribute(attr=name) if name in DECODER_NAMES:
                pass
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] != "mesh":
                name = next((alias.name for alias in names if alias.name in DECODER_NAMES), "")
            case ast.Call(func=ast.Name(id="str"), args=[_, _, *_]):
                name = "str"
            case _:
                continue
        if name in allowed:
            allowed.remove(name)
        elif name:
            yield f"line {node.lineno}: calls {name}, which is for {DECODING}"


def imported_from_mesh(tree: ast.AST) -> Iterator[ast.alias]:
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "mesh":
                yield from names


# --- the package -----------------------------------------------------------------------------

FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "mesh").rglob("*.py"))


@pytest.mark.parametrize("path", FILES)
def test_a_file_keeps_to_its_place(path: str) -> None:
    assert problems(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_the_files_are_those_of_the_package() -> None:
    assert {"mesh/__init__.py", "mesh/core/tree/tree.py", "mesh/transport/client.py"} <= set(FILES)
    assert {room_of(path) for path in FILES} >= set(LEVEL) - {"simulation"}
    assert set(BROAD) <= set(FILES)
    inside = {path.split("/")[2].removesuffix(".py") for path in FILES if room_of(path) == "store"}
    assert inside - {"__init__"} == set(STORE_LEVEL)


def test_the_rooms_of_the_design_are_in_this_order() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = text.partition("## The rooms")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    told = [room.strip() for cell in cells for room in cell.split(",") if room.strip() in LEVEL]
    assert set(told) >= set(LEVEL) - {"simulation", "__init__", "__main__", "sync"}
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
    ("mesh/server/app.py", "from mesh.api.node import Node", "api is above server"),
    ("mesh/bench/put.py", "from mesh.api.client import Client", "api is beside bench"),
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
    # inside the store
    ("mesh/store/log/index.py", "from mesh.store.large import staged", "store/large is above"),
    ("mesh/store/files.py", "import mesh.store.large.pieces", "store/large is above store/files"),
    ("mesh/store/large/staged.py", "from ..care import discard", "store/care is above"),
    ("mesh/store/reading.py", "from mesh.store.disk import DiskStore", "store/disk is above"),
    ("mesh/store/base.py", "from mesh.store.faults import translated", "store/faults is beside"),
    ("mesh/store/memory.py", "from mesh.store.disk import DiskStore", "store/disk is beside"),
    ("mesh/store/attic.py", "", "store/attic has no level"),
    ("mesh/store/disk.py", "from mesh.store.attic import old", "store/attic has no level"),
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
    ("mesh/config.py", "import tomllib", "tomllib is known to mesh/decoding.py"),
    ("mesh/node.py", "import json", "json is known to nobody"),
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
    # the store, past its door
    ("mesh/actors/service.py", "x = self._keeper.store.size", "line 1: reaches through"),
    ("mesh/actors/round.py", "async def f(k): await k.door._store.size(b'')", "reaches through"),
    ("mesh/server/blobs.py", "store = node.store", "reaches through to the store"),
    ("mesh/blobstash/sync.py", "node.keeper.store.listing()", "reaches through to the store"),
    ("mesh/actors/keeper.py", "other.store.size", "reaches through to the store"),
    ("mesh/actors/scrubber.py", "self._store.note()", "reaches through to the store"),
    ("mesh/actors/peer.py", "from mesh.store.base import BlobStore", "the store is known to"),
    ("mesh/actors/peer.py", "from mesh.store import base", "the store is known to"),
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
    # decoding
    ("mesh/node.py", "msgspec.json.decode(body, type=State)", "line 1: calls decode"),
    ("mesh/node.py", "from msgspec.json import decode", "line 1: calls decode"),
    ("mesh/node.py", "tomllib.loads(text)", "line 1: calls loads"),
    ("mesh/node.py", "_STATE = msgspec.msgpack.Decoder(State)", "calls Decoder"),
    ("mesh/node.py", "body.decode()", "calls decode"),
    ("mesh/node.py", "body.decode('utf-8', 'replace')", "calls decode"),
    ("mesh/node.py", "str(body, 'utf-8')", "calls str"),
    ("mesh/node.py", "map(bytes.fromhex, words)", "calls fromhex"),
    ("mesh/node.py", "base64.b64decode(words)", "calls b64decode"),
    (
        "mesh/core/tree/hashes.py",
        "bytes.fromhex(a), bytes.fromhex(b), bytes.fromhex(c)",
        "line 1: calls fromhex",
    ),
    # catching everything, once too often
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
    ("mesh/store/log/recovery.py", "from mesh.store.log.index import Index"),
    ("mesh/store/care/discard.py", "from mesh.store.reading import Records"),
    ("mesh/transport/http.py", "import httpx\nfrom mesh.wire.messages import encode"),
    ("mesh/blobstash/peer.py", "from mesh.transport.base import Replica"),
    ("mesh/actors/peer.py", "from random import Random\nfrom mesh import config"),
    ("mesh/server/serve.py", "def f():\n    from hypercorn.asyncio import serve"),
    ("mesh/cli/run.py", "import time, mesh.server.app, mesh.store.disk\nfrom mesh.cli import get"),
    ("mesh/__init__.py", "from mesh.node import Node"),
    ("mesh/__main__.py", "from mesh.cli.main import main"),
    ("mesh/actors/keeper.py", "from mesh.store.base import BlobStore\nself._store.commit()"),
    ("mesh/server/blobs.py", "from mesh.store.base import Item\nself._keeper.door.size()"),
    ("mesh/cli/status.py", "print(status.store.state)"),
    ("mesh/node.py", "try: f()\nexcept (OSError, ValueError): pass"),
    ("mesh/node.py", "try: f()\nexcept BaseException:\n    g()\n    raise"),
    ("mesh/node.py", "with suppress(OSError): f()"),
    ("mesh/decoding.py", "body.decode()"),
    ("mesh/node.py", "msgspec.json.encode(answer).decode()"),
    ("mesh/node.py", "from mesh.blobstash import snappy\nsnappy.decode(block)"),
    ("mesh/node.py", "from mesh.wire.messages import decode\ndecode(Hello, body)"),
    ("mesh/core/tree/hashes.py", "bytes.fromhex(low), bytes.fromhex(above)"),
    ("mesh/actors/actor.py", "try: f()\nexcept Exception: pass"),
]


@pytest.mark.parametrize(("path", "source", "problem"), BROKEN)
def test_a_file_that_breaks_a_rule_is_found(path: str, source: str, problem: str) -> None:
    (found,) = problems(path, source)
    assert problem in found


@pytest.mark.parametrize(("path", "source"), FINE)
def test_a_file_that_breaks_none_is_not(path: str, source: str) -> None:
    assert problems(path, source) == []
