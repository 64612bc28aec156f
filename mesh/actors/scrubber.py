"""The scrubber: reads everything again, slowly, to find what has rotted before it is asked for.

What it finds takes the way of all damage: the store tells the keeper. One step reads about a MiB.
"""

from __future__ import annotations

import logging
import math
from random import Random

import anyio
import msgspec

from mesh.actors.door import Door
from mesh.core.scrub import Pass, Saved, Scrub, Stepped
from mesh.decoding import json_of
from mesh.errors import StoreError, Undecodable, one_line
from mesh.status import ScrubStatus
from mesh.store.base import Cursor

log = logging.getLogger("mesh")

_NOTE = "scrub"

# How often the place is kept: after a kill so much is read again, and it costs a small
# transaction. While it waits for the next pass an hour is close enough.
_SAVE = 60.0
_SAVE_IDLE = 3600.0


class Scrubber:
    """See the module. `run` is supervised by the node; the rest are plain calls."""

    def __init__(self, door: Door, rate: float, days: float, random: Random) -> None:
        """`rate`: bytes a second; `days`: between passes."""
        self._door = door
        self._rate = rate
        self._days = days
        self._random = random
        self._scrub: Scrub | None = None
        self._wake = anyio.Event()
        self._saved_at = -math.inf
        self._changed = False
        self._reads = 0
        self._failing = False

    # --- what people ask ---------------------------------------------------------------------

    def start(self) -> None:
        """Begin a pass now, or go on with the one under way."""
        self._known().start(anyio.current_time())
        self._now()

    def pause(self) -> None:
        """Read nothing until `resume` or `start`, also over restarts."""
        self._known().pause()
        self._now()

    def resume(self) -> None:
        """Undo `pause`."""
        self._known().resume(anyio.current_time())
        self._now()

    def status(self) -> ScrubStatus:
        """How it stands."""
        totals = self._door.totals
        scrub = self._scrub
        if scrub is None:
            state, next_seconds = "starting", None
        elif scrub.paused:
            state, next_seconds = "paused", None
        elif scrub.running:
            state, next_seconds = "running", None
        else:
            state, next_seconds = "waiting", max(0.0, scrub.next() - anyio.current_time())
        return ScrubStatus(
            state=state,
            passes=scrub.passes if scrub is not None else 0,
            blobs=totals.blobs,
            bytes=totals.bytes,
            bytes_per_second=scrub.rate if scrub is not None else self._rate,
            next_seconds=next_seconds,
            now=scrub.current if scrub is not None else Pass(),
            before=scrub.before if scrub is not None else None,
        )

    def _known(self) -> Scrub:
        if self._scrub is None:
            raise StoreError("the store is still being opened; try again in a moment")
        return self._scrub

    def _now(self) -> None:
        self._changed = True
        self._wake.set()

    # --- the actor ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Pass after pass, until cancelled."""
        scrub = self._scrub or await self._load()
        try:
            while True:
                self._wake = anyio.Event()
                now = anyio.current_time()
                save_at = self._saved_at + (_SAVE if scrub.running else _SAVE_IDLE)
                if self._changed or now >= save_at:
                    await self._save(scrub)
                elif scrub.next() > now:
                    with anyio.CancelScope(deadline=min(scrub.next(), save_at)):
                        await self._wake.wait()
                else:
                    await self._step(scrub)
        finally:
            with anyio.CancelScope(shield=True):
                await self._save(scrub)

    async def _load(self) -> Scrub:
        saved: Saved | None = None
        note = await self._door.noted(_NOTE)
        if note is not None:
            try:
                saved = json_of(Saved).read(note)
            except Undecodable as error:
                log.warning("the place of the scrub is lost: %s", one_line(error))
        now = anyio.current_time()
        self._scrub = Scrub(self._rate, self._days, self._random, now, saved)
        self._saved_at = now
        return self._scrub

    async def _save(self, scrub: Scrub) -> None:
        self._changed = False
        self._saved_at = anyio.current_time()
        try:
            await self._door.note(_NOTE, msgspec.json.encode(scrub.saved(self._saved_at)))
        except StoreError as error:
            log.debug("the place of the scrub is not kept: %s", one_line(error))

    async def _step(self, scrub: Scrub) -> None:
        """One unit of work: some blobs, or some pieces of one."""
        if not scrub.running:
            scrub.begin(anyio.current_time())
            log.info("scrub: a pass over %d blobs begins", self._door.totals.blobs)
        reads = self._reads
        try:
            step = await self._door.scrub(Cursor(*scrub.place), scrub.room)
        except StoreError as error:
            if not self._failing:
                log.error("scrub: %s; tried again in a minute", one_line(error))
            self._failing = True
            scrub.failed(anyio.current_time())
            return
        self._failing = False
        self._reads = self._door.reads
        scrub.stepped(
            Stepped(step.cursor, step.blobs, step.bytes, step.damaged),
            busy=self._reads != reads,
            now=anyio.current_time(),
        )
        if not scrub.running:
            self._changed = True
            done = scrub.current
            log.info(
                "scrub: a pass over %d blobs, %d bytes ended: %d damaged",
                done.blobs, done.bytes, done.damaged,
            )  # fmt: skip
