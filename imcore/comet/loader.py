"""What a connecting device must know, and what it missed, read for many at once.

A storm of reconnects asks the same questions ten thousand times: which rooms, how far did this device get, has anything grown since,
what came meanwhile? Those who ask while a query is under way share the next one. So the statements of a storm are bounded by how long
it takes and not by how many come.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple
from weakref import WeakSet

from imcore.comet.hub import Left
from imcore.database import DATABASE_ERRORS, heed_cancellation
from imcore.errors import Unavailable
from imcore.events import messages
from imcore.events.names import Pool
from imcore.events.reader import Reader
from imcore.events.types import (
    ALL,
    KEY,
    ROOM,
    USER,
    MemberLeft,
    MemberRemoved,
    MessageEdited,
    Page,
    RoomDismissed,
    device,
)
from imcore.projections import queries

BATCH_MAX: Final = 500
PAGES_BATCH_MAX: Final = 64  # sessions that share a reading of pages
PAGES_AT_ONCE: Final = 4  # readings at a time, so that a storm leaves connections for everybody else
GATHER_S: Final = 0.1
# Of a session, however many share. To find where a page begins costs as much as some twenty events of it; and all that are read
# together are made into events in one go, while everybody else waits (64 times 48: 12 ms).
PAGE_EVENTS_MIN: Final = 48
HEADS = "SELECT name, position FROM streams WHERE name = ANY($1::text[])"


class Known(NamedTuple):
    """About one device: its person's rooms (stream -> position of the join) as of position `head`, the position of the newest event
    in any stream that it is entitled to, the delivery marks of the person's devices, the rooms that it has left after position
    `left_from`, which is where the device was, or will begin, and its open sessions on all comets (key -> position of the opening)
    as of some position: the rows are written a moment after the events."""

    head: int
    rooms: dict[str, int]
    newest: int
    marks: dict[str, int]
    left: dict[str, Left]
    left_from: int
    sessions: dict[str, int]


class Asked(NamedTuple):
    """Who waits: the device, and up to where it has everything, if it says so."""

    mid: int
    key: str
    after: int | None
    future: asyncio.Future[Known]


class Loader:
    """Answers `load` with one set of queries for all who ask at the same time. `run` is the task that does it."""

    def __init__(self, pool: Pool, guarded: Callable[[Awaitable[object]], Awaitable[object]]) -> None:
        self._pool = pool
        self._guarded = guarded
        # Bounded by the connections that are being opened (admissions_under_way_max): each asks once.
        self._waiting: list[Asked] = []
        self._wake = asyncio.Event()
        self.batches = 0

    async def load(self, mid: int, key: str, after: int | None = None) -> Known:
        """What is known of this device, which says that it has everything up to `after`. Raises Unavailable when the database is not
        there."""
        future: asyncio.Future[Known] = asyncio.get_running_loop().create_future()
        self._waiting.append(Asked(mid, key, after, future))
        self._wake.set()
        return await future

    @property
    def waiting(self) -> int:
        """How many asked and wait for the next queries."""
        return len(self._waiting)

    async def run(self) -> None:
        """For ever; ends when cancelled."""
        while True:
            await self._wake.wait()
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            if not self._waiting:
                self._wake.clear()
            if not batch:
                continue
            self.batches += 1
            try:
                await self._guarded(self._load(batch))
            except Unavailable as error:
                for asked in batch:
                    if not asked.future.done():
                        asked.future.set_exception(Unavailable(error.detail))

    async def _load(self, batch: list[Asked]) -> None:
        mids = list({asked.mid for asked in batch})
        async with self._pool.acquire() as connection:
            head, memberships, ended = await queries.memberships_and_ends(connection, mids)
            marks: dict[int, dict[str, int]] = {}
            for (mid, key), position in (await queries.delivered(connection, mids)).items():
                marks.setdefault(mid, {})[key] = position
            sessions: dict[int, dict[str, int]] = {}
            for (mid, key), position in (await queries.opened(connection, mids)).items():
                sessions.setdefault(mid, {})[key] = position
            rooms = {
                # The same rooms are in many lists, and each name is kept once.
                mid: {
                    sys.intern(ROOM + room): membership.since for room, membership in memberships.get(mid, {}).items()
                }
                for mid in mids
            }
            streams = {ALL, *(f"{USER}{mid}" for mid in mids), *(KEY + asked.key for asked in batch)}
            streams.update(stream for one in rooms.values() for stream in one)
            rows = await connection.fetch(HEADS, list(streams))
            was_at = [_was_at(asked, marks.get(asked.mid, {})) for asked in batch]
            left_from: dict[int, int] = {}
            for asked, after in zip(batch, was_at, strict=True):
                left_from[asked.mid] = min(after, left_from.get(asked.mid, after))
            departed = await queries.departed(connection, left_from)
        positions: dict[str, int] = {row["name"]: row["position"] for row in rows}
        for (mid, key, _, future), after in zip(batch, was_at, strict=True):
            if future.done():
                continue
            own = (ALL, f"{USER}{mid}", KEY + key, *rooms[mid])
            newest = max(positions.get(stream, 0) for stream in own)
            left = {
                ROOM + room: Left(one.position, one.by, (MemberRemoved if one.removed else MemberLeft).type)
                for room, one in departed.get(mid, {}).items()
            }
            left |= {
                ROOM + room: Left(one.position, one.by, RoomDismissed.type)
                for room, one in ended.get(mid, {}).items()
                if one.position > after
            }
            future.set_result(Known(head, rooms[mid], newest, marks.get(mid, {}), left, after, sessions.get(mid, {})))


def _was_at(asked: Asked, marks: Mapping[str, int]) -> int:
    """Up to where the device has everything: as it says, or its mark, or, if it is new, where it will begin."""
    if asked.after is not None:
        return asked.after
    own = marks.get(device(asked.key))
    return max(marks.values(), default=0) if own is None else own


class Waiting(NamedTuple):
    """A session that wants a page. `goes_on`: it has had one and was told that there is more."""

    streams: Mapping[str, int]
    upto: int
    limit: int
    goes_on: bool
    future: asyncio.Future[Page]


class Pages:
    """Reads pages of the log for sessions that are behind, for those together who wait together.

    First come, first served: who has read a page and wants the next stands behind all who are waiting. So one long way back keeps
    nobody waiting for more than a page. The events of one reading are bounded: the more share it, the fewer each gets.

    A storm comes drop by drop. So after a reading those who come newly wait for each other, for `GATHER_S` from its beginning; who
    goes on waits for nobody, and takes them along.

    Messages that were recalled are without their words. That is looked up after the pages were read, in one query for all of them: what
    was recalled before is hidden.
    """

    def __init__(self, reader: Reader, pool: Pool) -> None:
        self._reader = reader
        self._pool = pool
        # Bounded by the sessions that are behind: each waits for one page at a time.
        self._waiting: deque[Waiting] = deque()
        self._wake = asyncio.Event()
        self._hurried = asyncio.Event()  # somebody goes on, or there is enough for a reading
        self._readers: WeakSet[asyncio.Task[object]] = WeakSet()  # tasks that have had a page
        self._began_at = -GATHER_S
        self.readings = 0

    async def read(self, streams: Mapping[str, int], upto: int, limit: int) -> Page:
        """The next events of these streams, each after its own position and none after `upto`; at most `limit`. Raises what the
        database raises."""
        future: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        goes_on = task in self._readers
        self._waiting.append(Waiting(streams, upto, limit, goes_on, future))
        self._wake.set()
        if goes_on or len(self._waiting) >= PAGES_BATCH_MAX:
            self._hurried.set()
        page = await future
        self._readers.add(task)
        return page

    async def run(self) -> None:
        """For ever; ends when cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(PAGES_AT_ONCE):
                tasks.create_task(self._read_on())

    async def _read_on(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            rest_s = self._began_at + GATHER_S - loop.time()
            if rest_s > 0 and not self._hurried.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest_s):
                        await self._hurried.wait()
                continue
            batch = self._take()
            if not batch:
                continue
            self._began_at = loop.time()
            self.readings += 1
            asked = min(one.limit for one in batch)
            limit = min(asked, max(PAGE_EVENTS_MIN, asked // len(batch)))
            try:
                pages = await self._reader.read_pages([(one.streams, one.upto) for one in batch], limit)
                pages = await self._hide(pages)
            except DATABASE_ERRORS as error:
                for one in batch:
                    if not one.future.done():
                        one.future.set_exception(error)
                heed_cancellation()
                continue
            for one, page in zip(batch, pages, strict=True):
                if not one.future.done():
                    one.future.set_result(page)

    async def _hide(self, pages: list[Page]) -> list[Page]:
        asked: set[tuple[str, int, int]] = set()
        for page in pages:
            ranges: dict[str, tuple[int, int]] = {}
            for event in page.events:
                if event.op and event.stream.startswith(ROOM):
                    first, _ = ranges.get(event.room, (event.seq, 0))
                    ranges[event.room] = first, event.seq
                elif event.type == MessageEdited.type:
                    target = messages.target(event)
                    asked.add((event.room, target, target))
            asked.update((room, first, last) for room, (first, last) in ranges.items())
        recalls = await queries.recalls(self._pool, asked) if asked else {}
        if not recalls:
            return pages
        return [
            page._replace(
                events=[
                    event if by is None else messages.hidden(event, *by)
                    for event in page.events
                    for by in (recalls.get((event.room, messages.target(event))),)
                ]
            )
            for page in pages
        ]

    def _take(self) -> list[Waiting]:
        waiting = self._waiting
        batch = [waiting.popleft() for _ in range(min(len(waiting), PAGES_BATCH_MAX))]
        if not waiting:
            self._wake.clear()
        if len(waiting) < PAGES_BATCH_MAX and not any(one.goes_on for one in waiting):
            self._hurried.clear()
        return [one for one in batch if not one.future.done()]
