"""Follow the log: every event once, in order, for ever.

The tail stands at one position and takes a batch only if it follows. Batches come from this process's own appends and from a
bus that may lose, repeat or reorder them; whatever does not fit is thrown away and the log is read instead, and when everything
is quiet the log is looked at every `quiet_s`. So the bus needs no promises: it is a doorbell.

The last events are kept in memory, so that whoever fell behind a little costs no query.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from imcore.database import DATABASE_ERRORS, heed_cancellation
from imcore.events.types import Recorded

log = logging.getLogger(__name__)

RECENT_EVENTS_MAX: Final = 16_384
RECENT_BYTES_MAX: Final = 64 * 2**20
HELD_EVENTS_MAX: Final = 16_384
QUIET_S: Final = 1.0
READ_EVENTS_MAX: Final = 2_000
RETRY_S: Final = 0.2


class Tail:
    """The events of the log after `position`, given to `apply` in order, each exactly once.

    `offer` and `ring` never block; `run` is the task that fills gaps. `apply` must not raise: an event that cannot be applied
    would stop everything behind it.
    """

    def __init__(
        self,
        position: int,
        read: Callable[[int, int], Awaitable[list[Recorded]]],
        apply: Callable[[list[Recorded]], None],
        *,
        quiet_s: float = QUIET_S,
        recent_events_max: int = RECENT_EVENTS_MAX,
        recent_bytes_max: int = RECENT_BYTES_MAX,
        held_events_max: int = HELD_EVENTS_MAX,
        read_events_max: int = READ_EVENTS_MAX,
    ) -> None:
        self.position = position
        self._read = read
        self._apply = apply
        self._quiet_s = quiet_s
        self._recent_events_max = recent_events_max
        self._recent_bytes_max = recent_bytes_max
        self._held_events_max = held_events_max
        self._read_events_max = read_events_max
        # Bounded: beyond twice its limit in events, or its limit in bytes, the oldest are forgotten.
        self._recent: list[Recorded] = []
        self.recent_bytes = 0  # of bodies
        # Batches that came early, by first position. Bounded: beyond held_events_max they are forgotten and read from the log.
        self._held: dict[int, list[Recorded]] = {}
        self._held_events = 0
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []  # bounded by those who call `reached`
        self._wake = asyncio.Event()
        self.looked_at = time.monotonic()  # when the log last said that there is no more
        self.gaps = 0  # how often the log had to be read because something was missing
        self.gap_events = 0

    def offer(self, batch: list[Recorded]) -> None:
        """Here is a batch of consecutive events; it may be old, early or a repetition."""
        if not batch:
            return
        first, last = batch[0].position, batch[-1].position
        if first == self.position + 1:
            self._take(batch)
            if self._held:
                self._take_held()
        elif last <= self.position:
            return
        elif first <= self.position:
            self._take(batch[self.position + 1 - first :])
            self._take_held()
        else:
            if self._held_events + len(batch) > self._held_events_max:
                self._held.clear()
                self._held_events = 0
            if first not in self._held:
                self._held[first] = batch
                self._held_events += len(batch)
            self._wake.set()

    def ring(self, position: int) -> None:
        """Somebody says that the log has come to `position`."""
        if position > self.position:
            self._wake.set()

    def recent(self, after: int, limit: int | None = None) -> list[Recorded] | None:
        """The events after `after` up to the tail's position, from memory; None if memory does not reach back that far."""
        kept = self._recent
        if after >= self.position:
            return []
        if not kept or after + 1 < kept[0].position:
            return None
        start = after + 1 - kept[0].position
        return kept[start:] if limit is None else kept[start : start + limit]

    async def reached(self, position: int) -> None:
        """Return when the tail has come to this position of the log."""
        if position > self.position:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._awaited.append((position, future))
            await future

    @property
    def oldest(self) -> int:
        """The position after which memory holds everything."""
        return self._recent[0].position - 1 if self._recent else self.position

    async def run(self) -> None:
        """Fill gaps, and look at the log when all is quiet. For ever; ends when cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._quiet_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self.catch_up()
            except DATABASE_ERRORS as error:
                heed_cancellation()
                log.warning("the log cannot be read: %s", error)
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def catch_up(self) -> None:
        """Read on from the log, until a page says that there is no more. Whoever rings during the last page wakes `run` again."""
        while True:
            after = self.position
            page = await self._read(after, self._read_events_max)
            assert not page or page[0].position == after + 1, f"the log has a hole after position {after}"
            if page and page[-1].position > self.position:
                self.gaps += 1
                self.gap_events += len(page)
                self.offer(page)
            if len(page) < self._read_events_max:
                self.looked_at = time.monotonic()
                return

    def _take(self, batch: list[Recorded]) -> None:
        assert batch[0].position == self.position + 1, "the tail moves from p to p + 1 only"
        self.position = batch[-1].position
        recent = self._recent
        recent.extend(batch)
        self.recent_bytes += sum([len(event.body) for event in batch])
        if len(recent) > 2 * self._recent_events_max or self.recent_bytes > self._recent_bytes_max:
            self._forget()
        self._apply(batch)
        if self._awaited:
            self._tell()

    def _forget(self) -> None:
        """Keep the newest: no more than there may be, and in bytes half of it, so that this is not done for each batch."""
        recent = self._recent
        start = max(0, len(recent) - self._recent_events_max)
        size = sum([len(event.body) for event in recent[start:]])
        while size > self._recent_bytes_max // 2 and start < len(recent):
            size -= len(recent[start].body)
            start += 1
        del recent[:start]
        self.recent_bytes = size

    @property
    def recent_events(self) -> int:
        """How many are in memory."""
        return len(self._recent)

    @property
    def held_events(self) -> int:
        """How many came early and wait for those before them."""
        return self._held_events

    def _tell(self) -> None:
        waiting, self._awaited = self._awaited, []
        for position, future in waiting:
            if position > self.position:
                self._awaited.append((position, future))
            elif not future.done():
                future.set_result(None)

    def _take_held(self) -> None:
        for first in sorted(self._held):
            batch = self._held[first]
            if first > self.position + 1:
                break
            del self._held[first]
            self._held_events -= len(batch)
            if batch[-1].position > self.position:
                self._take(batch[self.position + 1 - first :])
