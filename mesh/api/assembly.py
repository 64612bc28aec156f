"""The composition root: one node put together from its parts, for `mesh run` and for programs.

Nothing here belongs to the process as a whole: no signals, no logging, no limits, no settings of
the interpreter. `mesh run` owns its process and sets those (cli/run.py). A program that has a node
inside owns them itself.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

import anyio
from anyio import create_task_group

from mesh.actors.membership import Keep
from mesh.api.reloading import Reloader, warn_of_exposed
from mesh.blobstash.peer import BlobstashPeer
from mesh.blobstash.remote import Remote
from mesh.config import (
    PEERS_FILE,
    Address,
    Changes,
    Config,
    Secret,
    Sources,
    decode_changes,
    encode_changes,
    read_keys,
)
from mesh.core.tree import Tree
from mesh.errors import ConfigError, StoreError, one_line
from mesh.node import Identity, Node
from mesh.offload import Lane, Offload, Reading, Threads
from mesh.server.app import Asgi, create_app
from mesh.server.control import Control
from mesh.server.serve import serve
from mesh.status import Reloaded
from mesh.store.directory import DataDirectory
from mesh.store.disk import DiskStore
from mesh.store.files import DiskFiles
from mesh.transport.base import Replica, Sketches
from mesh.transport.http import Http, HttpWire, credentials, new_client
from mesh.transport.native import NativePeer
from mesh.wire.control import CONTROL_FILE

log = logging.getLogger("mesh")

# Threads that hash and write: hashing releases the lock, so as many as cores are of use, and two
# more keep the disk busy meanwhile.
_WORKERS = (os.cpu_count() or 2) + 2


@dataclass(frozen=True)
class Parts:
    """A node that is put together: its actors, its HTTP application, and what asks it to stop."""

    node: Node
    app: Asgi
    backend: str
    stop: anyio.Event
    reload: Callable[[], Awaitable[Reloaded]]

    @property
    def identity(self) -> Identity:
        """Who the node is."""
        return self.node.identity


@asynccontextmanager
async def assembled(
    config: Config, directory: DataDirectory, backend: str, sources: Sources | None = None
) -> AsyncIterator[Parts]:
    """The parts of the node of `directory`; `backend` is asyncio or trio, as the loop that runs.

    `sources`: where `config` came from, to be read again by `Parts.reload`.

    Nothing runs yet: see `run_until_stopped`. The connections to peers end with the context.
    """
    node_id = directory.node_id
    name = config.name or f"node-{node_id.hex()[:8]}"
    identity = Identity(node_id, secrets.token_bytes(8), name)
    work = Threads(_WORKERS)
    stop = anyio.Event()
    warn_of_exposed(config)
    async with new_client() as client:

        def blobstash(address: Address) -> Remote:
            return Remote(Http(client, address.url, credentials(address)), address.place)

        def connect(address: Address, ours: Callable[[], Tree], sketches: Sketches) -> Replica:
            if address.protocol == "blobstash":
                return BlobstashPeer(blobstash(address), ours, work, one_way=address.one_way)
            http = Http(client, address.url, credentials(address))
            return NativePeer(HttpWire(http), address.place, node_id, sketches)

        files = DiskFiles(directory.path)
        store = DiskStore(files, directory.path / "index.sqlite", Lane, work)
        changes, keep = kept_peers(directory, work)
        node = Node(config, identity, store, connect, work, Random(), changes, keep)  # noqa: S311 - jitter
        reloader = Reloader(config, sources, node.membership, Reading())
        data = str(directory.path.absolute())
        control = Control(
            control_key(directory), data, reloader.accepted, reloader.reload, reloader.shown
        )
        app = create_app(node, backend, blobstash, stop, control)
        yield Parts(node, app, backend, stop, reloader.reload)


def control_key(directory: DataDirectory) -> Secret | None:
    """The key of whoever may change the node, made at its first start; None where none can be made.

    ConfigError when the file is there and holds none.
    """
    data = directory.read(CONTROL_FILE)
    file = directory.path / CONTROL_FILE
    if data is None:
        try:
            directory.replace(CONTROL_FILE, secrets.token_hex(32).encode() + b"\n")
        except StoreError as error:
            log.warning("peers cannot be changed in this run: %s", one_line(error))
            return None
    elif file.stat().st_mode & 0o077:
        log.warning("others can read %s; chmod 600 it", file)
    try:
        return read_keys(str(file))[0]
    except ConfigError as error:
        raise ConfigError(f"{error}; delete {file} to have a new one made") from error


def kept_peers(directory: DataDirectory, work: Offload) -> tuple[Changes, Keep]:
    """What was ordered about peers in earlier runs on a directory, and what keeps later orders.

    ConfigError when the file is damaged.
    """
    data = directory.read(PEERS_FILE)
    changes = Changes()
    if data is not None:
        changes = decode_changes(data, str(directory.path / PEERS_FILE))

    async def keep(changes: Changes) -> None:
        await work(directory.replace, PEERS_FILE, encode_changes(changes))

    return changes, keep


async def run_until_stopped(parts: Parts, listener: socket.socket | None) -> None:
    """Run the actors, and serve on `listener` if there is one, until `parts.stop` is set.

    Then requests under way may end for up to `shutdown_seconds`, and the store is closed.
    Raises the StoreError or OSError for which the store could not be opened.
    """
    actors = anyio.CancelScope()
    failures: list[StoreError | OSError] = []
    async with create_task_group() as group:
        group.start_soon(_run_actors, parts, actors, failures)
        if listener is None:
            await parts.stop.wait()
        else:
            grace = parts.node.config.shutdown_seconds
            await serve(parts.app, listener, parts.backend, parts.stop, grace)
        actors.cancel()
    if failures:
        raise failures[0]


async def _run_actors(
    parts: Parts, scope: anyio.CancelScope, failures: list[StoreError | OSError]
) -> None:
    """The actors. A store that cannot be opened stops the server first, and is then said."""
    with scope:
        try:
            await parts.node.run()
        except (StoreError, OSError) as error:
            failures.append(error)
            parts.stop.set()
