"""What a connecting device must know, read for many at once.

A storm of reconnects asks the same three questions ten thousand times: which rooms, how far did this device get, has anything grown
since? Those who ask while a query is under way share the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from imcore.errors import Unavailable
from imcore.events.names import Pool
from imcore.events.types import ALL, KEY, ROOM, USER
from imcore.projections import queries

BATCH_MAX: Final = 500
HEADS = "SELECT name, position FROM streams WHERE name = ANY($1::text[])"


class Known(NamedTuple):
    """About one device: its person's rooms (stream -> position of the join) as of position `head`, the position of the newest event
    in any stream that it is entitled to, the delivery marks of the person's devices, and its open sessions on all comets (key ->
    position of the opening) as of some position: the rows are written a moment after the events."""

    head: int
    rooms: dict[str, int]
    newest: int
    marks: dict[str, int]
    sessions: dict[str, int]


class Loader:
    """Answers `load` with one set of queries for all who ask at the same time. `run` is the task that does it."""

    def __init__(self, pool: Pool, guarded: Callable[[Awaitable[object]], Awaitable[object]]) -> None:
        self._pool = pool
        self._guarded = guarded
        # Bounded by the connections that are being opened (admissions_under_way_max): each asks once.
        self._waiting: list[tuple[int, str, asyncio.Future[Known]]] = []
        self._wake = asyncio.Event()

    async def load(self, mid: int, key: str) -> Known:
        """What is known of this device. Raises Unavailable when the database is not there."""
        future: asyncio.Future[Known] = asyncio.get_running_loop().create_future()
        self._waiting.append((mid, key, future))
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
            try:
                await self._guarded(self._load(batch))
            except Unavailable as error:
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(Unavailable(error.detail))

    async def _load(self, batch: list[tuple[int, str, asyncio.Future[Known]]]) -> None:
        mids = list({mid for mid, _, _ in batch})
        async with self._pool.acquire() as connection:
            head, memberships = await queries.memberships(connection, mids)
            marks: dict[int, dict[str, int]] = {}
            for (mid, key), position in (await queries.delivered(connection, mids)).items():
                marks.setdefault(mid, {})[key] = position
            sessions: dict[int, dict[str, int]] = {}
            for (mid, key), position in (await queries.opened(connection, mids)).items():
                sessions.setdefault(mid, {})[key] = position
            rooms = {
                mid: {ROOM + room: membership.since for room, membership in memberships.get(mid, {}).items()}
                for mid in mids
            }
            streams = {ALL, *(f"{USER}{mid}" for mid in mids), *(KEY + key for _, key, _ in batch)}
            streams.update(stream for one in rooms.values() for stream in one)
            rows = await connection.fetch(HEADS, list(streams))
        positions: dict[str, int] = {row["name"]: row["position"] for row in rows}
        for mid, key, future in batch:
            if future.done():
                continue
            own = (ALL, f"{USER}{mid}", KEY + key, *rooms[mid])
            newest = max(positions.get(stream, 0) for stream in own)
            future.set_result(Known(head, rooms[mid], newest, marks.get(mid, {}), sessions.get(mid, {})))
