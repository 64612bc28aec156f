"""`mesh status`: how a node and its peers stand; once, again and again, or for a monitor."""

from __future__ import annotations

import os
import shutil
import sys

import anyio
import msgspec

from mesh.cli.columns import fitting
from mesh.cli.standings import check, in_colour, lines, no_colour
from mesh.config import Address
from mesh.decoding import json_of, utf8
from mesh.errors import MeshError, one_line
from mesh.status import Status
from mesh.transport.client import NodeClient, node_client

_EVERY = 1.0  # seconds between two looks of --watch

# To the upper left corner; wipe the rest of a line; wipe all that is below.
_HOME, _END_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


async def status(node: Address, *, as_json: bool) -> None:
    """The node and its peers."""
    async with node_client(node) as client:
        print(await _text(client, as_json=as_json))


async def checked(node: Address, *, as_json: bool) -> int:
    """One line, or the whole as JSON, and the exit code for a monitor."""
    async with node_client(node) as client:
        raw = bytes(await client.status(msgspec.Raw))
    code, said = check(json_of(Status).read(raw))
    print(utf8(raw).rstrip() if as_json else said)
    return code


async def watch(node: Address, *, as_json: bool) -> None:
    """The same each second, until a signal ends it; raises what goes wrong at the first look.

    A terminal is redrawn; in a pipe the blocks follow each other. A node that does not answer later
    on may be restarting, so that is shown, and it is asked again.
    """
    terminal = sys.stdout.isatty() and not as_json
    first = True
    async with node_client(node) as client:
        while True:
            try:
                text = await _text(client, as_json=as_json)
            except MeshError as error:
                if first:
                    raise
                text = f"mesh: {one_line(error)}"
                if as_json:  # standard output is for objects alone
                    print(text, file=sys.stderr)
                    text = ""
            if terminal:
                _draw(text, clear=first)
            elif text:
                print(text if as_json or first else f"\n{text}", flush=True)
            first = False
            await anyio.sleep(_EVERY)


async def _text(client: NodeClient, *, as_json: bool) -> str:
    if as_json:
        return utf8(bytes(await client.status(msgspec.Raw))).rstrip()
    paint = in_colour if _colours() else no_colour
    return "\n".join(lines(await client.status(Status), paint))


def _colours() -> bool:
    """Whether the output is a terminal that shows colours, and nobody said NO_COLOR."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain


def _draw(text: str, *, clear: bool) -> None:
    """As much of it as the terminal has lines for, over what was there before."""
    size = shutil.get_terminal_size()
    seen = fitting(text.split("\n"), size.lines - 1, size.columns)
    shown = "".join(f"{line}{_END_OF_LINE}\n" for line in seen)
    print(("\x1b[2J" if clear else "") + _HOME + shown + _BELOW, end="", flush=True)
