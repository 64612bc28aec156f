"""The node: wires the actors, owns their nursery and the order of shutdown. Knows no HTTP.

**Theory.** A node is a tree of tasks. `run` opens the store, starts every actor under a supervisor
in one task group, and stays there until it is cancelled. Each thing that changes has one owner
among the actors: the keeper owns the store, the tree and the claims; each peer actor what is known
of its peer; the membership which peers there are; the scheduler when rounds begin. The node itself
owns nothing that changes but its phase (opening, building, ready). It is where the actors meet. It
passes on

- what arrives (`_announce`) to the announcers of all peers;
- what peers say of themselves (`heard`, `hinted`) to the peer actor and the scheduler;
- what clients ask (`status`, `find_peer`, `wait`) to whoever knows it.

Shutdown goes in the order of what depends on what: the actors are cancelled, the mailboxes are
closed, which answers whoever waits for them, then the connections to peers, and at last the store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from copy import copy
from random import Random

import anyio
import msgspec
from anyio import create_task_group
from anyio.abc import TaskGroup

from mesh.actors.actor import supervise
from mesh.actors.arrivals import Arrivals
from mesh.actors.chronicle import Chronicle, Listener
from mesh.actors.fetcher import Candidate, Fetcher
from mesh.actors.holders import Holders
from mesh.actors.inbound import Inbound
from mesh.actors.journal import Journal
from mesh.actors.keeper import Keeper
from mesh.actors.membership import Keep, Membership, kept_nowhere
from mesh.actors.peer import Host, Peer
from mesh.actors.reader import Reader
from mesh.actors.roster import Roster
from mesh.actors.round import Limits
from mesh.actors.scheduler import Scheduler
from mesh.actors.scrubber import Scrubber
from mesh.actors.service import Service
from mesh.actors.sketcher import Sketcher
from mesh.actors.telling import Teller
from mesh.actors.trouble import Trouble
from mesh.actors.waiting import Wait
from mesh.config import Address, Changes, Config, Listed
from mesh.core.digest import Digest
from mesh.core.holder import Caller, Holder
from mesh.core.tree import Tree
from mesh.dates import TIME_OF_DAY, Clock, Dates, rfc3339
from mesh.events import Began
from mesh.offload import Offload
from mesh.status import Errors, InboundStatus, Status, WaitAnswer, WaitReport, WantedStatus
from mesh.store.base import BlobStore
from mesh.transport.base import Replica, Sketches
from mesh.version import package_version
from mesh.wire.messages import Hello, StandingReply, StandingRequest

log = logging.getLogger("mesh")


class Identity(msgspec.Struct, frozen=True):
    """Who a node is: the id of its data directory, the id of this run, and its name."""

    node_id: bytes
    instance: bytes
    name: str


class Node:
    """One node. `run` it in a task group; everything else may be called while it runs."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        store: BlobStore,
        connect: Callable[[Address, Callable[[], Tree], Sketches], Replica],
        work: Offload,
        random: Random,
        changes: Changes = Changes(),  # noqa: B008 - a frozen value
        keep: Keep = kept_nowhere,
        *,
        wall: Clock = TIME_OF_DAY,
    ) -> None:
        """`connect` makes the way to a peer, given our tree and sketch; `work` runs hashing.

        `random` decides all jitter. `changes`: what was ordered about peers in earlier runs; `keep`
        keeps what is ordered in this one. `wall` tells the time of day, for what is shown.

        ConfigError when a peer that was added cannot be used.
        """
        self.config = config
        self.identity = identity
        self.store = store
        self.work = work
        self._random = random
        self._wall = wall
        self._state = "opening"
        self._began: float | None = None
        self._journal = Journal(self._called)
        self.events = Chronicle()
        self.keeper = Keeper(
            store,
            self._announce,
            on_lost=self._ask_all,
            reserve=config.reserve_bytes,
            on_recovery=self._ask_all,
            journal=self._journal,
            events=self.events,
        )
        self._sketcher = Sketcher(self.keeper, work, config.sketch_cells, config.shared_secret())
        self._scheduler = Scheduler(config.interval_seconds, random)
        self._roster: Roster[Peer] = Roster(identity.node_id, identity.instance)
        self._inbound = Inbound()
        arrivals = Arrivals(identity.node_id, self._candidates)
        limits = Limits(work, config.max_replica_bytes, arrivals=arrivals)
        host = Host(
            keeper=self.keeper,
            limits=limits,
            scheduler=self._scheduler,
            roster=self._roster,
            hello=self.hello,
            interval=config.interval_seconds,
            released=self._ask_others,
        )

        def make(each: Listed) -> tuple[Peer, Replica]:
            replica = connect(each.address, self.keeper.ready_tree, self._sketcher)
            return Peer(each.address, replica, host, paused=each.paused), replica

        self.membership = Membership(config, changes, keep, make, self._scheduler, random)
        self.peers = self.membership.peers
        self._trouble = Trouble(self.keeper, self.peers)
        self._teller = Teller(identity.name, self.peers, self._roster, self.keeper, self._scheduler)
        self.holders = Holders(self.keeper, lambda: self.peers)
        self.service = Service(self.keeper, limits, self.hello, self, self._sketcher)
        self.fetcher = Fetcher(self.keeper, config.max_replica_bytes, self._candidates)
        # A copy: how often the scrub draws must not shift the jitter of the rounds.
        self.scrubber = Scrubber(
            self.keeper.door, config.scrub_bytes_per_second, config.scrub_days, copy(random)
        )
        self.reader = Reader(self.keeper, self.fetcher if config.read_through else None)

    # --- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Open the store and run the actors until cancelled.

        Raises StoreError when the store cannot be opened. On the way out the commit under way is
        finished, then the store is closed: what was acknowledged is durable in any case.
        """
        self._began = anyio.current_time()
        try:
            note = await self.store.open()
            log.info("store: %s", note)
            self._state = "building"
            async with create_task_group() as group:
                self._start(group)
                await self.keeper.built()
                self._state = "ready"
                log.info("ready: root %s", self.keeper.ready_tree().root.hex())
        finally:
            self.events.close()
            self.keeper.close()
            self.fetcher.close()
            self.membership.close()
            with anyio.CancelScope(shield=True):
                await self.membership.disconnect()
                await self.store.close()
            self._journal.flush()

    def _start(self, group: TaskGroup) -> None:
        actors = {
            "journal": self._journal.run,
            "keeper": self.keeper.run,
            "scheduler": self._scheduler.run,
            "fetcher": self.fetcher.run,
            "scrubber": self.scrubber.run,
            "sketcher": self._sketcher.run,
        }
        for name, run in actors.items():
            group.start_soon(supervise, name, run, self._random, name=name)
        self.membership.start(group)

    # --- what clients ask ------------------------------------------------------------------------

    def status(self) -> Status:
        """How the node and its peers stand; answers from the first moment."""
        tree = self.keeper.tree
        root = tree.root if tree is not None else None
        totals, wants = self.store.totals, self.store.wants
        dates = self._dates()
        return Status(
            node_id=self.identity.node_id.hex(),
            name=self.identity.name,
            version=package_version(),
            state=self._state,
            root=root.hex() if root is not None else None,
            blobs=totals.blobs,
            bytes=totals.bytes,
            max_blob_bytes=self.config.most_per_put(),
            time=rfc3339(dates.wall),
            started_at=dates.at(self._began),
            uptime_seconds=dates.ago(self._began) or 0.0,
            wanted_blobs=wants.total,
            wanted=[
                WantedStatus(w.digest.hex(), w.reason, w.since, rfc3339(w.since))
                for w in wants.first
            ],
            store=self.keeper.disk.status(),
            peers=[peer.status(root, dates) for peer in self.peers],
            inbound=self._strangers(root, totals.blobs, dates),
        )

    def errors(self) -> Errors:
        """What keeps failing."""
        return self._trouble.told(self.store.wants, self._dates())

    async def retry(self) -> Errors:
        """Try again, now, what keeps failing; what fails still."""
        await self._trouble.retry()
        return self.errors()

    def listen(self) -> Listener:
        """What happens from now on, as events."""
        hello = self.hello()
        began = Began(
            node_id=hello.node.hex(),
            name=self.identity.name,
            root=hello.root.hex() if hello.root is not None else None,
            blobs=hello.count,
        )
        return self.events.listen(began)

    def _dates(self) -> Dates:
        return Dates(self._wall(), anyio.current_time())

    def find_peer(self, name: str) -> Peer:
        """The peer called `name`; see Membership.find."""
        return self.membership.find(name)

    async def wait(self, timeout: float | None) -> list[WaitReport]:
        """Rounds with every peer until each is level, or `timeout` seconds are over."""
        return await self._wait().peers(timeout)

    async def wait_and_tell(self, timeout: float | None, *, whole: bool) -> WaitAnswer:
        """The same, and how far that is seen.

        With `whole`, all nodes that are reached through peers have to be level as well. Gone when
        nothing can be said of our own set.
        """
        self.keeper.disk.present()
        answer = await self._wait().answer(timeout, whole=whole)
        self.keeper.disk.present()
        return answer

    def _wait(self) -> Wait:
        return Wait(list(self.peers), self.keeper, self.identity.node_id)

    # --- what peers tell (actors.service.Acquaintances) ------------------------------------------

    def hello(self) -> Hello:
        """Who we are and how we stand."""
        tree = self.keeper.tree
        return Hello(
            node=self.identity.node_id,
            instance=self.identity.instance,
            name=self.identity.name,
            root=tree.root if tree is not None else None,
            count=len(tree) if tree is not None else self.store.totals.blobs,
        )

    def heard(self, hello: Hello, caller: Caller) -> None:
        """A node spoke to us. One that we never met may be any of those we cannot reach.

        Whoever has the key of the mesh may say any Hello. So it makes us look at most: a peer
        that fails is tried soon, and one that says to have what we have, while we do not know it,
        is asked: that takes one request. What such a round finds is shown.
        """
        if self._roster.is_us(hello):
            return
        for peer in self.peers:
            if peer.node == hello.node:
                peer.called(caller)
                if peer.seems_level(hello):
                    self._scheduler.hint(peer)
            if peer.node in (hello.node, None):
                self._scheduler.contacted(peer)

    def greeted(self, hello: Hello, caller: Caller) -> None:
        """A node asked how we stand."""
        self.heard(hello, caller)
        listed = any(peer.node == hello.node for peer in self.peers)
        if not listed and not self._roster.is_us(hello):
            self._inbound.note(hello, caller.key)

    def hinted(self, hello: Hello) -> None:
        """A node has more than it announced."""
        peer = self._roster.find(hello.node)
        if peer is not None:
            self._scheduler.hint(peer)

    def is_peer(self, hello: Hello) -> bool:
        """Whether we call that node by ourselves, and may fetch from it."""
        peer = self._roster.find(hello.node)
        return peer is not None and peer.active and peer.address.pulls

    def pulled(self, hello: Hello) -> float | None:
        """Seconds since we last fetched from that node all that was missing here.

        Whoever asks in the name of a peer learns this number, and can do nothing with it.
        """
        peer = self._roster.find(hello.node)
        return peer.pulled_seconds_ago if peer is not None else None

    async def standing(self, request: StandingRequest) -> StandingReply:
        """How we stand with our peers, or a node behind us with its."""
        return await self._teller.answer(request)

    def _ask_others(self, failed: Peer) -> bool:
        """One peer did not bring what it had claimed: the others, if any, are asked soon."""
        others = [peer for peer in self.peers if peer is not failed and peer.active]
        for peer in others:
            self._scheduler.hint(peer)
        return bool(others)

    def _ask_all(self) -> None:
        """Blobs were lost, or can be stored again: whoever may have them is asked soon."""
        for peer in self.peers:
            if peer.active:
                self._scheduler.contacted(peer)
                self._scheduler.hint(peer)

    def _candidates(self) -> list[Candidate]:
        """Whom to ask for a blob, those that answered at the last try first."""
        found = [peer.candidate for peer in self.peers]
        return sorted((c for c in found if c is not None), key=lambda c: not c.reachable)

    def _strangers(self, root: Digest | None, count: int, dates: Dates) -> list[InboundStatus]:
        """Those that pull from us; one that asked before we met it as a peer is none of them."""
        for peer in self.peers:
            if peer.node is not None:
                self._inbound.forget(peer.node)
        return self._inbound.status(root, count, dates)

    def _called(self, url: str) -> str:
        """What people call the peer at an address."""
        return next((peer.name for peer in self.peers if peer.address.url == url), url)

    def _announce(self, digests: Sequence[Digest], holder: Holder) -> None:
        self._sketcher.nudge()
        for peer in self.peers:
            peer.announce(digests, holder)
