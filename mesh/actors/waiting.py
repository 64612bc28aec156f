"""What is behind `wait`: rounds until every peer is level, and then a look behind the peers.

Level, for one peer: all that was here when the wait began is there, and all that was there when it
was first asked is here, as proven by rounds that began after that. What the peers had is here then.
Where that was new here, it is waited for until the others have it as well. With a peer of direction
`pull` only the way here counts, with one of direction `push` only the way there. A peer that is
paused is not waited for, and the answer says so; for a wait for the whole mesh it is not level.

For a wait for the whole mesh the way there counts in any direction: whoever only lets us fetch
has to get our blobs from somewhere else. Behind the peers nothing is called: see core.horizon.

What a node behind the peers has alone comes one hop nearer with each pass. So the search is made
again until nothing new has come here, and all that the nodes had when they were first asked has had
time to come: as many passes as the farthest node is hops away. One pass is enough where every node
says of itself that it has our root.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import anyio
import msgspec
from anyio import create_task_group
from anyio.abc import TaskGroup

from mesh.actors.keeper import Keeper
from mesh.actors.peer import Peer
from mesh.core.digest import Digest
from mesh.core.horizon import Horizon, Question, margin
from mesh.core.tree import Tree
from mesh.core.words import count_text
from mesh.errors import PeerError, Refused, one_line
from mesh.status import RoundStats, WaitAnswer, WaitReport
from mesh.wire.messages import StandingRequest

# A wait looks again after a round that did not level a peer: soon at first, for a mesh that is
# about to be level, then once a second, for one that is moving a terabyte.
_FIRST = 0.05
_CAP = 1.0

# Seconds for which a wait that was asked for the peers alone looks behind them. What is new gets
# there within some milliseconds, so by then a peer of a peer that is well is level, too.
_GLANCE = 1.0

_AT_ONCE = 8  # questions at a time: each holds a connection, here and at each node on its way

_MOST_LINES = 10  # problems that are said in one line for people; all are in `beyond`


class Wait:
    """One call of `wait`."""

    def __init__(self, peers: Sequence[Peer], keeper: Keeper, us: bytes) -> None:
        """`us`: our node id."""
        self._peers = list(peers)
        self._keeper = keeper
        self._us = us
        self._reports = {
            peer: WaitReport(
                peer=peer.name, level=False, direction=peer.direction, error="no answer yet"
            )
            for peer in peers
        }
        self._since: dict[Peer, float] = {}
        self._whole = False
        self._places = anyio.Semaphore(_AT_ONCE)

    async def peers(self, timeout: float | None) -> list[WaitReport]:
        """Rounds with every peer until each is level, or `timeout` seconds are over."""
        with anyio.move_on_after(timeout):
            await self._own()
        return list(self._reports.values())

    async def answer(self, timeout: float | None, *, whole: bool) -> WaitAnswer:
        """The same, and how far that is seen; with `whole`, until all behind them is level, too."""
        self._whole = whole
        until = anyio.current_time() + (float("inf") if timeout is None else timeout)
        horizon = Horizon(self._us, [])
        searched: Digest | None = None  # the root that the last search found everywhere
        passes = 0
        while True:
            with anyio.CancelScope(deadline=until):
                await self._own()
            if not self._all_level:
                break
            root = self._keeper.ready_tree().root
            if root == searched and passes >= horizon.depth - 1:
                break
            horizon = self._horizon()
            glance = anyio.current_time() + _GLANCE
            with anyio.CancelScope(deadline=until if whole else min(until, glance)):
                await self._behind(horizon)
            passes += 1
            if not whole or horizon.problems() or horizon.alike(root) or passes >= horizon.depth:
                break
            searched = root
        return self._answered(horizon)

    def _answered(self, horizon: Horizon) -> WaitAnswer:
        level, reports = self._all_level, list(self._reports.values())
        paused = [f"{peer.name} is paused here" for peer in self._peers if peer.paused]
        beyond = horizon.problems() + (paused if self._whole else []) if level else []
        return WaitAnswer(
            level=level and not (self._whole and beyond),
            said=_said(reports, horizon, beyond, whole=self._whole and level)
            + _lost(self._keeper.wanted),
            peers=reports,
            beyond=beyond,
        )

    # --- our own peers -------------------------------------------------------------------------

    @property
    def _all_level(self) -> bool:
        reports = self._reports.values()
        counting = [report for report in reports if report.counts]
        return all(report.level for report in counting) and bool(counting)

    async def _own(self) -> None:
        """Rounds with all peers until each has what was here, and what the others had."""
        baseline = await self._keeper.built()
        await self._rounds(self._peers, baseline, fetched=False)
        gathered = self._keeper.ready_tree()
        if not self._all_level or gathered.root == baseline.root:
            return
        others = [p for p in self._peers if p.active and (self._whole or p.address.pushes)]
        for peer in others:
            report = self._reports[peer]
            self._reports[peer] = msgspec.structs.replace(
                report, level=False, error="not asked yet whether it has what others brought here"
            )
        await self._rounds(others, gathered, fetched=True)

    async def _rounds(self, peers: Sequence[Peer], baseline: Tree, *, fetched: bool) -> None:
        async with create_task_group() as group:
            for peer in peers:
                group.start_soon(partial(self._level, peer, baseline, fetched=fetched))

    async def _level(self, peer: Peer, baseline: Tree, *, fetched: bool) -> None:
        """Rounds with one peer until it is level with `baseline`, and we with it.

        `fetched`: what it had when it was first asked is here.
        """
        pause = _FIRST
        here = fetched or not peer.address.pulls
        there = not (peer.address.pushes or self._whole)
        while True:
            stats = await peer.sync(baseline=baseline)
            if peer.successor is not None:
                await self._level(self._replaced(peer, peer.successor), baseline, fetched=False)
                return
            if peer.paused or peer.removed:
                self._reports[peer] = _left_out(peer)
                return
            if stats.error is None and stats.proven:
                here = here or stats.missing_here == 0
                there = there or stats.baseline_there == 0
            level = (here and there) or not peer.counts
            self._reports[peer] = _report(peer, stats, level=level, whole=self._whole)
            if level and peer.counts:
                self._since[peer] = anyio.current_time()
            if level or (there and _hopeless(stats)):
                return
            await anyio.sleep(pause)
            pause = min(_CAP, pause * 2)

    def _replaced(self, old: Peer, new: Peer) -> Peer:
        """Wait for `new` in place of `old`: a peer that got another address or key meanwhile."""
        self._peers[self._peers.index(old)] = new
        report = msgspec.structs.replace(self._reports.pop(old), level=False, counts=True)
        self._reports[new] = msgspec.structs.replace(report, error="no answer at its new address")
        return new

    # --- behind them ---------------------------------------------------------------------------

    def _horizon(self) -> Horizon:
        """A new search, which begins at our own peers."""
        level = [(p.node, p.name, at) for p, at in self._since.items() if p.active]
        return Horizon(self._us, level)

    async def _behind(self, horizon: Horizon) -> None:
        """Ask until all is level, or nothing more can be found out; cancelled when time is up."""
        pause = _FIRST
        while True:
            async with create_task_group() as group:

                def later(questions: Sequence[Question], group: TaskGroup = group) -> None:
                    for question in questions:
                        group.start_soon(self._ask, horizon, question, later)

                later(horizon.ask())
            if not horizon.open:
                return
            await anyio.sleep(pause)
            pause = min(_CAP, pause * 2)

    async def _ask(
        self,
        horizon: Horizon,
        question: Question,
        later: Callable[[Sequence[Question]], None],
    ) -> None:
        """One question, and with `whole` those that its answer leads to."""
        peer = next((peer for peer in self._since if peer.node == question.route[0]), None)
        if peer is None:
            horizon.failed(question, "another node answers at its address now", never=True)
            return
        async with self._places:
            sent = anyio.current_time()
            since = margin(question.since, sent) if self._whole else None
            request = StandingRequest(route=list(question.route[1:]), since=since)
            try:
                reply = await peer.tell(request)
            except PeerError as error:
                never = isinstance(error, Refused) and error.retry_after is None
                horizon.failed(question, one_line(error), never=never)
                return
        now = anyio.current_time()
        if reply is None:
            horizon.failed(question, "its protocol has no such question", never=True)
        elif reply.error is not None:
            horizon.failed(question, reply.error, never=reply.never)
        else:
            fresh = horizon.told(question, reply.peers, sent, now, more=reply.more, root=reply.root)
            if self._whole:
                later(fresh)


def _hopeless(stats: RoundStats) -> bool:
    """Whether all that is missing here is too large for this node, which only a restart changes."""
    return stats.error is None and stats.proven and 0 < stats.missing_here <= stats.over_limit


def _left_out(peer: Peer) -> WaitReport:
    """A peer with which no rounds are run: it is not level, and is not waited for."""
    why = "it is paused here" if peer.paused else "it was removed meanwhile"
    return WaitReport(
        peer=peer.name, level=False, direction=peer.direction, counts=False, error=why
    )


def _report(peer: Peer, stats: RoundStats, *, level: bool, whole: bool) -> WaitReport:
    known = stats.error is None and stats.proven
    sent = peer.address.pushes or whole
    why = stats.error if stats.error is not None else "; ".join(stats.reasons)
    if known and stats.baseline_there and not peer.address.pushes and not why:
        why = "blobs are only fetched from it, so it has to get them from another node"
    return WaitReport(
        peer=stats.peer,
        level=level,
        direction=peer.direction,
        counts=peer.counts,
        missing_here=stats.missing_here if known and peer.address.pulls else None,
        missing_there=stats.baseline_there if known and sent else None,
        error=one_line(Exception(why)) if why and not level else None,
    )


# --- in words --------------------------------------------------------------------------------


def _said(
    reports: Sequence[WaitReport], horizon: Horizon, beyond: Sequence[str], *, whole: bool
) -> str:
    """How far a wait saw, in one line."""
    counting = [report for report in reports if report.counts]
    if not reports:
        return "no peers are configured; nothing is anywhere else"
    left_out = [f"{r.peer} was not waited for: {r.error}" for r in reports if _is_left_out(r)]
    if not counting and left_out:
        return "; ".join([*left_out[:_MOST_LINES], "nothing is known to be anywhere else"])
    if not counting:
        only = "the only peer" if len(reports) == 1 else f"each of the {len(reports)} peers"
        return f"{only} that is configured is this node itself; nothing is anywhere else"
    level = sum(report.level for report in counting)
    lines = [f"level with {level} of {len(counting)} peers"]
    if whole and horizon.beyond:
        nodes = "1 node" if horizon.beyond == 1 else f"{horizon.beyond} nodes"
        lines[0] += f" and with {nodes} behind them"
    lines += [_one_way(r) for r in counting if r.level and r.direction == "push"]
    if not whole:
        lines += [_one_way(r) for r in counting if r.level and r.direction == "pull"]
    lines += [f"{r.peer}: {_lacking(r)}" for r in counting if not r.level]
    lines += left_out
    lines += beyond
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"and {len(lines) - _MOST_LINES} more"]
    return "; ".join(lines)


def _is_left_out(report: WaitReport) -> bool:
    return not report.counts and not report.level


def _lost(wanted: int) -> str:
    """That a level mesh lacks what was lost here: no peer has a blob that is still wanted."""
    if not wanted:
        return ""
    blobs = "1 blob that was" if wanted == 1 else f"{wanted} blobs that were"
    return f"; {blobs} found damaged here and did not come from any peer (mesh status)"


def _one_way(report: WaitReport) -> str:
    if report.direction == "pull":
        return f"from {report.peer} blobs are only fetched, so it may lack some"
    return f"to {report.peer} blobs are only sent, so some of its own may be missing here"


def _lacking(report: WaitReport) -> str:
    here, there = report.missing_here, report.missing_there
    found = [f"{count_text(here, 'blob')} missing here"] if here else []
    found += [f"{there} missing there"] if there else []
    found += [report.error] if report.error else []
    return ", ".join(found) or "not compared yet"
