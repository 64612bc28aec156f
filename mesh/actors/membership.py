"""Who the peers are, and the only one that changes that while the node runs.

**Theory.** Which peers there are follows from two values: the configuration, and the changes that
were ordered beside it (`mesh.config.changes`). An order is taken in three steps, one order at a
time: it is decided, as a function of these values; the new changes are kept, so that they are on
disk before anybody is told so; and then the peers that run are made to be those that are listed. A
step that fails leaves everything as it was before the order.

Each peer has a scope of its own, in which its actor and its announcer run. To remove a peer is to
cancel that scope, to wait until it has ended, and to take what is left of the peer out of the
schedule, the roster and the claims. A peer with another address or another key is another peer: the
old one is removed, and the new one starts from nothing, with the name of the old one. The old one
names it as its successor, for those who were waiting for the old one.

`peers` is one list for the whole life of the node. Whoever awaits while going through it takes a
copy first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import anyio
import msgspec
from anyio import create_task_group
from anyio.abc import TaskGroup

from mesh.actors.actor import Mailbox, supervise
from mesh.actors.peer import Peer
from mesh.actors.scheduler import Scheduler
from mesh.config import (
    Address,
    Change,
    Changes,
    Config,
    Listed,
    PeerEntry,
    listed,
    names_of,
    parse_peer,
    removed,
)
from mesh.config.peers import NAME
from mesh.errors import InputError, MeshError, Stopping
from mesh.status import ListedPeer
from mesh.transport.base import Replica

log = logging.getLogger("mesh")

# Keeps the changes; returns when they are durable, and raises StoreError when they cannot be.
Keep = Callable[[Changes], Awaitable[None]]


async def kept_nowhere(changes: Changes) -> None:
    """For a node whose peers are changed for as long as it runs."""


@dataclass(frozen=True)
class Add:
    """A new peer, or one that was removed, with `entry` as what it is from now on."""

    entry: PeerEntry


@dataclass(frozen=True)
class Remove:
    """No peer any more, until it is added again."""

    name: str


@dataclass(frozen=True)
class Pause:
    """Or resume: whether this node deals with a peer at all."""

    name: str
    paused: bool


@dataclass(frozen=True)
class Move:
    """A peer that answers at another URL now."""

    name: str
    url: str


@dataclass(frozen=True)
class Configure:
    """Another configuration."""

    config: Config


Order = Add | Remove | Pause | Move | Configure


@dataclass
class _Member:
    """A peer that is listed, and the tasks that are its own."""

    listed: Listed
    peer: Peer
    replica: Replica
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)


class Membership:
    """See the module. `start` it in the node's nursery."""

    def __init__(
        self,
        config: Config,
        changes: Changes,
        keep: Keep,
        make: Callable[[Listed], tuple[Peer, Replica]],
        scheduler: Scheduler,
        random: Random,
    ) -> None:
        """`changes` are in force, and `keep` keeps later ones; `make` makes the peer for one.

        ConfigError when the key file of a peer that was added cannot be read.
        """
        self._config = config
        self._changes = changes
        self._keep = keep
        self._make = make
        self._scheduler = scheduler
        self._random = random
        self._mailbox: Mailbox[Order, str] = Mailbox("the owner of the peers", 0, Stopping)
        self._group: TaskGroup | None = None
        _warn_of_duplicates(config.addresses())
        self._members = [self._made(each) for each in listed(config, changes)]
        self.peers = [member.peer for member in self._members]

    # --- what others ask -----------------------------------------------------------------------

    async def order(self, order: Order) -> str:
        """Carry out an order; what has changed, in one line for people.

        InputError or ConfigError for an order that cannot be carried out, StoreError when it cannot
        be kept; nothing has changed then. Once taken, it is carried out whoever goes away.
        """
        return await self._mailbox.ask(order)

    def find(self, name: str) -> Peer:
        """The peer called `name`, by URL, address or name; InputError when none or several are.

        A name that this node gave wins over one that a peer gave itself.
        """
        return self._member(name).peer

    def listing(self) -> list[ListedPeer]:
        """Every peer, and those of the configuration that were removed."""
        gone = removed(self._config, self._changes)
        return [*map(_shown, self._members), *map(_shown_as_removed, gone)]

    # --- life ----------------------------------------------------------------------------------

    def start(self, group: TaskGroup) -> None:
        """Run the peers and take orders, as tasks of `group`."""
        self._group = group
        for member in self._members:
            self._begin(member, group, among=len(self._members))
        group.start_soon(supervise, "membership", self._run, self._random, name="membership")

    def close(self) -> None:
        """The tasks have ended for good; whoever still waits for an answer is told so."""
        self._mailbox.close()
        for peer in self.peers:
            peer.close()

    async def disconnect(self) -> None:
        """Let go of the connections to the peers."""
        for member in self._members:
            await member.replica.close()

    async def _run(self) -> None:
        while True:
            with self._mailbox.turn() as turn:
                request = await turn.take()
                try:
                    request.reply.set(await self._carry_out(request.question))
                except MeshError as error:
                    request.reply.fail(error)

    async def _carry_out(self, order: Order) -> str:
        config = order.config if isinstance(order, Configure) else self._config
        changes, said = self._decided(order)
        target = listed(config, changes)
        if changes != self._changes:
            await self._keep(changes)
        self._config, self._changes = config, changes
        await self._become(target)
        if said:
            log.info("peers: %s", said)
        return said

    # --- deciding ------------------------------------------------------------------------------

    def _decided(self, order: Order) -> tuple[Changes, str]:
        """The changes that are in force after an order, and what it does, for people."""
        match order:
            case Add(entry=entry):
                return self._add(entry)
            case Remove(name=name):
                return self._remove(self._member(name))
            case Pause(name=name, paused=paused):
                return self._pause(self._member(name), paused=paused)
            case Move(name=name, url=url):
                return self._move(self._member(name), url)
            case Configure(config=config):
                _warn_of_duplicates(config.addresses())
                return self._changes, self._difference(config)

    def _add(self, entry: PeerEntry) -> tuple[Changes, str]:
        address = self._config.address_of(entry)
        if parse_peer(entry.url).key is not None:
            raise InputError("a key in a URL would be kept in a file; give the key a file instead")
        for member in self._members:
            if member.peer.address.url == address.url:
                raise InputError(f"{address.place} is a peer already: {member.peer.name}")
        if address.name in names_of([member.listed for member in self._members]):
            raise InputError(f"another peer is called {address.name!a}; give it another name")
        if any(member.listed.anchor == address.url for member in self._members):
            raise InputError(
                f"{address.url} is the address that a peer had before `set-url`; "
                "move that peer back, or remove it first"
            )
        if entry.key_file is not None:  # the next start may be from another directory
            entry = msgspec.structs.replace(entry, key_file=os.path.abspath(entry.key_file))
        change = Change(of=address.url, added=entry)
        said = f"{address.name or address.place} is added"
        if self._as_configured(entry, address):
            change, said = Change(of=address.url), f"{said} again, as it is configured"
        return self._changes.with_change(change), said

    def _as_configured(self, entry: PeerEntry, address: Address) -> bool:
        """Whether a peer that is added is one of the configuration, and nothing else is said."""
        bare = entry == PeerEntry(entry.url) and address.name is None
        known = self._config.addresses()
        return address in known or (bare and any(each.url == address.url for each in known))

    def _remove(self, member: _Member) -> tuple[Changes, str]:
        change = Change(of=member.listed.anchor)
        said = f"{member.peer.name} is removed"
        if member.listed.configured:
            change = Change(of=member.listed.anchor, removed=True)
            said += (
                "; it stays removed although the configuration lists it, until "
                f"`mesh peers add {member.listed.anchor}`"
            )
        return self._changes.with_change(change), said

    def _pause(self, member: _Member, *, paused: bool) -> tuple[Changes, str]:
        before = self._changes.of(member.listed.anchor)
        name = member.peer.name
        if before.paused == paused:
            return self._changes, f"{name} was {'paused' if paused else 'not paused'} before"
        change = msgspec.structs.replace(before, paused=paused)
        said = f"{name} is paused, also over restarts" if paused else f"{name} is resumed"
        return self._changes.with_change(change), said

    def _move(self, member: _Member, text: str) -> tuple[Changes, str]:
        given, address = parse_peer(text), member.peer.address
        if given.name is not None or given.key is not None:
            raise InputError("set-url takes a URL alone; the peer keeps its name and its key")
        if given.protocol != address.protocol:
            raise InputError(f"{member.peer.name} speaks {address.protocol}, {text!a} does not")
        for other in self._members:
            if other is not member and given.url in (other.peer.address.url, other.listed.anchor):
                raise InputError(f"{given.url} is another peer already: {other.peer.name}")
        before = self._changes.of(member.listed.anchor)
        url = given.url if given.url != member.listed.anchor else None
        change = msgspec.structs.replace(before, url=url, name=self._kept_name(member, url))
        said = f"{member.peer.name} is at {given.url} now"
        return self._changes.with_change(change), said

    def _kept_name(self, member: _Member, url: str | None) -> str | None:
        """The name that the peer has now, where it has one beside its address."""
        name = member.peer.name
        others = [other.listed for other in self._members if other is not member]
        taken = names_of(others) | {other.address.place for other in others}
        good = NAME.fullmatch(name) and name not in taken and name != member.peer.address.place
        return name if url is not None and good else None

    def _difference(self, config: Config) -> str:
        """What another configuration does to the peers."""
        before = {each.anchor: each for each in listed(self._config, self._changes)}
        after = {each.anchor: each for each in listed(config, self._changes)}
        words = [f"{_called(after[url])} is added" for url in after if url not in before]
        words += [f"{_called(before[url])} is removed" for url in before if url not in after]
        both = [(before[url], after[url]) for url in after if url in before]
        words += [f"{_called(new)} is changed" for old, new in both if old.address != new.address]
        known = {each.url for each in self._config.addresses()}
        words += [
            f"{each.name or each.place} was removed by an order and stays so, until "
            f"`mesh peers add {each.url}`"
            for each in removed(config, self._changes)
            if each.url not in known
        ]
        return "; ".join(words)

    # --- becoming ------------------------------------------------------------------------------

    async def _become(self, target: Sequence[Listed]) -> None:
        """Make the peers that run those of `target`."""
        wanted = {each.anchor: each for each in target}
        kept: dict[str, _Member] = {}
        made: dict[str, _Member] = {}
        for member in list(self._members):
            new = wanted.get(member.listed.anchor)
            if new is not None and new.address == member.listed.address:
                kept[new.anchor] = member
                await self._follow(member, new)
                continue
            if new is not None:
                made[new.anchor] = successor = self._made(new)
                member.peer.successor = successor.peer
            await self._end(member)
        for each in target:
            if each.anchor not in kept:
                kept[each.anchor] = member = made.get(each.anchor) or self._made(each)
                if self._group is not None:
                    self._begin(member, self._group)
        self._members = [kept[each.anchor] for each in target]
        self.peers[:] = [member.peer for member in self._members]

    async def _follow(self, member: _Member, new: Listed) -> None:
        member.listed = new
        if new.paused and not member.peer.paused:
            await member.peer.pause()
        elif member.peer.paused and not new.paused:
            member.peer.resume()

    async def _end(self, member: _Member) -> None:
        self._members.remove(member)
        self.peers.remove(member.peer)
        member.scope.cancel()
        await member.ended.wait()
        member.peer.remove()
        await member.replica.close()

    def _made(self, each: Listed) -> _Member:
        peer, replica = self._make(each)
        return _Member(each, peer, replica)

    def _begin(self, member: _Member, group: TaskGroup, among: int = 1) -> None:
        if not member.peer.paused:
            self._scheduler.add(member.peer, among)
        place = member.peer.address.place
        group.start_soon(self._live, member, name=f"peer {place}")

    async def _live(self, member: _Member) -> None:
        """The tasks of one peer."""
        place = member.peer.address.place
        try:
            with member.scope:
                async with create_task_group() as group:
                    for what, run in (
                        (f"peer {place}", member.peer.run),
                        (f"announcer {place}", member.peer.announcer.run),
                    ):
                        group.start_soon(supervise, what, run, self._random, name=what)
        finally:
            member.ended.set()

    # --- finding -------------------------------------------------------------------------------

    def _member(self, name: str) -> _Member:
        for known_by in (_by_address, _by_given_name, _by_own_name):
            found = [member for member in self._members if name in known_by(member)]
            if len(found) > 1:
                places = ", ".join(member.peer.address.place for member in found)
                raise InputError(f"several peers call themselves {name[:80]!a}: say {places}")
            if found:
                return found[0]
        known = ", ".join(peer.name for peer in self.peers) or "none"
        raise InputError(f"no peer is called {name[:80]!a}; there are: {known}")


def _by_address(member: _Member) -> tuple[str, ...]:
    return member.peer.address.place, member.peer.address.url


def _by_given_name(member: _Member) -> tuple[str | None]:
    return (member.peer.address.name,)


def _by_own_name(member: _Member) -> tuple[str]:
    return (member.peer.name,)


def _called(each: Listed) -> str:
    return each.address.name or each.address.place


def _shown(member: _Member) -> ListedPeer:
    peer, address = member.peer, member.peer.address
    moved = member.listed.anchor if member.listed.anchor != address.url else None
    return ListedPeer(
        name=peer.name,
        url=address.url,
        protocol=address.protocol,
        direction=peer.direction,
        origin="configuration" if member.listed.configured else "added",
        state=peer.state,
        node_id=peer.node.hex() if peer.node is not None else None,
        moved_from=moved,
        last_error=peer.last_error,
        calls_from=peer.calls_from,
    )


def _shown_as_removed(address: Address) -> ListedPeer:
    return ListedPeer(
        name=address.name or address.place,
        url=address.url,
        protocol=address.protocol,
        direction=address.direction,
        origin="configuration",
        state="removed",
    )


def _warn_of_duplicates(addresses: Sequence[Address]) -> None:
    seen: set[str] = set()
    for address in addresses:
        if address.url in seen:
            log.warning("peer %s is listed twice; once is enough", address.place)
        seen.add(address.url)
