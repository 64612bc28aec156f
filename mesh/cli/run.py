"""`mesh run`: one node in the foreground, until a signal."""

from __future__ import annotations

import errno
import gc
import importlib.util
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from setproctitle import setproctitle

from mesh.api.assembly import assembled, run_until_stopped
from mesh.config import Config, Sources, redacted
from mesh.errors import ConfigError, MeshError, StoreError, one_line
from mesh.racing import beside
from mesh.server.descriptors import raise_limit
from mesh.server.serve import bind, url_of
from mesh.status import Reloaded
from mesh.store.directory import DataDirectory

log = logging.getLogger("mesh")

# Seconds that a thread may keep the interpreter from the others. Hashing a blob lets go of it and
# takes it back; with Python's 5 ms the event loop, and each of a thousand hashes, waits so long
# for a thread that does neither I/O nor hashing. Measured on a busy machine: 16,000 blobs a second
# replicated with 5 ms, 20,000 with 1 ms, 24,000 with this.
_SWITCH = 0.0002

# By default Python looks for cycles when 700 more objects were made than went. A batch of blobs
# makes that many all the time, and blobs, rows and trees are in no cycles. What is in cycles, a
# request or an error, is some hundred objects each.
_COLLECT = (20_000, 20, 20)


def run_node(config: Config, sources: Sources, announce: Callable[[str], None]) -> None:
    """Run a node until SIGINT or SIGTERM. `announce` gets one line when it can be reached.

    SIGHUP has it read `sources`, from which `config` came, again.

    Raises ConfigError when it cannot start, in one line that says why. What it was about to serve
    has not been changed then.
    """
    early: list[int] = []
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        # Until the node listens to signals; then it makes good for those that came before.
        signal.signal(signal.SIGHUP, lambda number, _: early.append(number))
    hangups = _Hangups(os.isatty(0), early)
    raise_limit()
    host, port = config.endpoint()
    listener = bind(host, port)
    try:
        directory = DataDirectory.claim(Path(config.data), config.node_id)
    except BaseException:
        listener.close()
        raise
    sys.setswitchinterval(_SWITCH)
    # What is loaded stays, so the garbage collector need not look at it again and again.
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    options: dict[str, Any] = {}
    if config.backend == "asyncio":
        options["use_uvloop"] = importlib.util.find_spec("uvloop") is not None
    main = partial(_main, config, sources, hangups, listener, directory, announce)
    try:
        anyio.run(main, backend=config.backend, backend_options=options)
    except* OSError as errors:
        raise _cannot_start(errors) from errors
    finally:
        directory.release()


def hide_keys(arguments: Sequence[str]) -> None:
    """Cut keys that stand in URLs out of what `ps` shows of this process."""
    shown = [redacted(argument) for argument in arguments]
    if shown != list(arguments):
        setproctitle(" ".join(("mesh", *shown[1:])))


@dataclass(frozen=True)
class _Hangups:
    """`terminal`: the node was started on one. `early`: each SIGHUP before it could be followed."""

    terminal: bool
    early: Sequence[int]

    @property
    def terminal_gone(self) -> bool:
        """Whether the terminal was closed, which is when the kernel sends a SIGHUP."""
        return self.terminal and not os.isatty(0)


async def _main(
    config: Config,
    sources: Sources,
    hangups: _Hangups,
    listener: socket.socket,
    directory: DataDirectory,
    announce: Callable[[str], None],
) -> None:
    url = url_of(listener)
    async with assembled(config, directory, config.backend, sources) as parts:
        who = f"{parts.identity.name} ({parts.identity.node_id.hex()})"
        announce(f"mesh node {who} listening on {url}, data in {config.data}")
        try:
            await beside(
                partial(_until_signal, parts.stop, parts.reload, hangups),
                partial(run_until_stopped, parts, listener),
            )
        except (StoreError, OSError) as error:
            raise _cannot_start(error) from error
    log.info("stopped")


def _cannot_start(error: BaseException) -> ConfigError:
    """The line for what failed: the first of a group, with what to do where that is known."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, OSError):
        return ConfigError(one_line(error))
    why = error.strerror or one_line(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        why += f" (this process may have {limit}); allow some thousand with `ulimit -n`"
    where = f"{error.filename}: " if error.filename else ""
    return ConfigError(f"cannot start: {where}{why}")


class _Reloads:
    """Reloads one after the other, beside whoever listens to signals.

    A reload may take long, and the signal that stops the node has to be heard meanwhile. However
    often one is asked for while another runs, one more will do: it reads what is there then.
    """

    def __init__(self, reload: Callable[[], Awaitable[Reloaded]]) -> None:
        self._reload = reload
        self._asked = anyio.Event()

    def ask(self) -> None:
        """Have the configuration read soon."""
        self._asked.set()

    async def run(self) -> None:
        """Reload whenever that was asked for, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = anyio.Event()
            await _reload(self._reload)


async def _until_signal(
    stop: anyio.Event,
    reload: Callable[[], Awaitable[Reloaded]],
    hangups: _Hangups,
) -> None:
    """The first signal asks for a stop, the second one ends the process at once.

    SIGHUP asks for a reload, unless it comes because the terminal has gone on which the node was
    started: then it asks for a stop. `nohup` has it ignored, and that stays so.
    """
    reloads = _Reloads(reload)
    await beside(reloads.run, partial(_listen, stop, reloads, hangups))


async def _listen(stop: anyio.Event, reloads: _Reloads, hangups: _Hangups) -> None:
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    with anyio.open_signal_receiver(*numbers) as signals:
        if hangups.early:
            os.kill(os.getpid(), signal.SIGHUP)
        async for number in signals:
            if number == signal.SIGHUP and not hangups.terminal_gone:
                reloads.ask()
                continue
            if stop.is_set():
                # Nothing acknowledged can be lost: it is durable before it is acknowledged.
                os._exit(128 + number)
            log.info("stopping (%s)", signal.Signals(number).name)
            stop.set()


async def _reload(reload: Callable[[], Awaitable[Reloaded]]) -> None:
    """What has changed is logged where that is done; here is said why nothing has."""
    try:
        await reload()
    except MeshError as error:
        log.error("nothing is reloaded: %s", one_line(error))
