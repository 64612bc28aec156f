"""`mesh has`: which blobs are here, and on how many peers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from mesh.cli.forms import Form
from mesh.cli.naming import NotHere, digest_named
from mesh.cli.objects import Rows
from mesh.cli.streams import Input
from mesh.config import Address
from mesh.core.digest import Digest, parse_name
from mesh.core.limits import MOST_ASKED
from mesh.decoding import legible
from mesh.errors import InputError, printable
from mesh.status import BlobHolders, HoldersAnswer, SilentPeer
from mesh.transport.client import NodeClient, node_client

_STDIN = "-"
_PIECE = 64 * 1024


class _Report:
    """What was found, as lines or as JSON."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._rows = Rows(form, "has", "blob", "blobs")
        self._silent: dict[str, SilentPeer] = {}
        self._peers = 0
        self.all_here = True

    def add(self, answer: HoldersAnswer) -> None:
        self._peers = answer.peers
        self._silent |= {each.peer: each for each in answer.silent}
        for blob in answer.blobs:
            self.all_here = self.all_here and blob.here
            self._rows.add(blob)
            if not self._form.machine:
                print(f"{blob.digest}  {_here(here=blob.here)}  {_elsewhere(blob.peers, answer)}")

    def nothing(self, name: str) -> None:
        """No blob here begins with this prefix; nobody can be asked for it."""
        self.all_here = False
        self._rows.add(BlobHolders(name, here=False, peers=0))
        if not self._form.machine:
            print(f"{name}  {_here(here=False)}")

    def finish(self) -> None:
        silent = sorted(self._silent.values(), key=lambda each: each.peer)
        self._rows.finish(ok=self.all_here, peers=self._peers, silent=silent)


async def has(node: Address, names: Sequence[str], form: Form) -> bool:
    """Whether all blobs that are named are on the node; `-` reads names from standard input."""
    report = _Report(form)
    async with node_client(node) as client:
        batch: list[Digest] = []
        async for name in _names(names):
            try:
                batch.append(await digest_named(client, name))
            except NotHere:
                await _tell(client, batch, report)
                report.nothing(name.lower())
            if len(batch) >= MOST_ASKED:
                await _tell(client, batch, report)
        await _tell(client, batch, report)
    report.finish()
    return report.all_here


async def _tell(client: NodeClient, batch: list[Digest], report: _Report) -> None:
    if batch:
        report.add(await client.holders(batch))
        batch.clear()


async def _names(given: Sequence[str]) -> AsyncIterator[str]:
    for name in given:
        if name != _STDIN:
            yield name
            continue
        async for line in _lines():
            yield line


async def _lines() -> AsyncIterator[str]:
    """The first word of each line, as b2sum, `mesh put` and `mesh ls` print digests."""
    rest = b""
    async for chunk in Input(_PIECE):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            for name in _word(line):
                yield name
        if len(rest) > _PIECE:
            raise InputError("standard input has a line of more than 64 KiB; expected digests")
    for name in _word(rest):
        yield name


def _word(line: bytes) -> list[str]:
    """The digest of a line; InputError for a line without one, nothing for an empty line."""
    words = line.split(None, 1)
    if not words:
        return []
    return [parse_name(legible(words[0]).removeprefix("\\"))]


def _here(*, here: bool) -> str:
    return "here    " if here else "not here"


def _elsewhere(count: int, answer: HoldersAnswer) -> str:
    """On how many peers; those that could not be asked are named."""
    if not answer.peers:
        return "no peers"
    said = f"{count} of {answer.peers} peers"
    names = ", ".join(printable(each.peer) for each in answer.silent)
    return f"{said}, ? at {names}" if names else said
