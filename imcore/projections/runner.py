"""Asynchronous projections follow the log: pages of events in, rows and checkpoint out, in one transaction.

One runner is active, the one that holds a lease: an advisory lock of the very session that it writes with, so whoever has lost
the lock cannot write either. The others stand by, and take over when the lock is free, or when its holder lives but does not move.
A page is written only if the checkpoints still are where it began, so even two active runners could not apply an event twice.

Projections at the same position share a page. One that is behind (new, rebuilt, or stopped by an event) has pages of its own until
it has caught up, and nobody waits for it.

An event that cannot be folded is tried `TRIES` times; then it goes into `quarantine` and the projection goes past it. Its
effect is missing from the rows until the projection is rebuilt with code that understands it.

The trap: pages are small when there is little to do, and each costs a commit. So after a page that was not full the runner waits
`page_gap_s`, unless somebody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from pydantic import ValidationError

from imcore import failpoints
from imcore.database import DATABASE_ERRORS, heed_cancellation
from imcore.events.names import Connection
from imcore.events.reader import Reader
from imcore.events.types import Recorded
from imcore.projections.projection import AnyProjection, Failure, RowTable, fold_page

logger = logging.getLogger(__name__)

PAGE_EVENTS_MAX: Final = 5_000
READ_EVENTS_MAX: Final = 1_000  # of a page that the log is read for: its bodies come with it, 64 KiB each at worst
PAGE_GAP_S: Final = 0.05
# A page of more than so many events waits this many gaps: the same few rows are then read and written for more events.
BUSY_EVENTS, BUSY_GAPS = 1_000, 4
QUIET_S: Final = 1.0
STUCK_S: Final = 15.0
POLL_S: Final = 0.02  # of the checkpoints, while standing by and somebody waits
PAGE_TIMEOUT_S: Final = 30.0
RECONNECT_S, RECONNECT_S_MAX = 0.1, 5.0
TRIES: Final = 3
LEASE_SPACE: Final = int.from_bytes(
    b"imcp"
)  # the first half of the advisory lock's key; the second is made of the names

START = (
    "INSERT INTO checkpoints (projection, position) SELECT unnest($1::text[]), 0 ON CONFLICT (projection) DO NOTHING"
)
# How far the projections are, and the log.
LOOK = """
SELECT c.projection, c.position, h.position AS head FROM checkpoints c CROSS JOIN log_head h WHERE c.projection = ANY($1::text[])
"""
# Move on, but only from where this page began.
MOVE = """
UPDATE checkpoints SET position = $3 WHERE projection = ANY($1::text[]) AND position = $2
"""
STOP_AT = "UPDATE checkpoints SET position = $2 WHERE projection = $1"
QUARANTINE = """
INSERT INTO quarantine (projection, position, error) VALUES ($1, $2, $3)
ON CONFLICT (projection, position) DO UPDATE SET error = excluded.error, at = now()
"""
TAKE_LEASE = "SELECT pg_try_advisory_lock($1, $2)"
# Whoever holds the lease loses its session, and with it the lease.
END_LEASE = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = $1::integer::oid AND objid = $2::integer::oid
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

# The last: what asyncpg says when the server's farewell has arrived and the end of the connection has not.


class Moved(Exception):
    """A checkpoint is not where this runner left it: somebody else has written the page."""


class Runner:
    """Keeps the rows of asynchronous projections, in one process at a time; the same object waits for them in every process.

    Guarantees. A projection's rows and its checkpoint change together: at checkpoint p they hold exactly the fold of the events
    up to p (less those in quarantine). Every event is applied once, in order, whatever is killed in between. `run` survives the
    loss of the database. `wake` never blocks.

    `connect` opens the connection that holds the lease and writes; `recent(after, limit)` gives consecutive events after a
    position from memory, or None when memory does not reach back that far; otherwise the log is read. With `lead=False` this
    process never becomes the active one, and only waits. With `rest` it does nothing after a page for so many times as long as the
    page took, whoever waits: what it takes of the machine has a bound, and under load it falls behind instead.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        reader: Reader,
        projections: Sequence[AnyProjection],
        *,
        recent: Callable[[int, int], Sequence[Recorded] | None] | None = None,
        lead: bool = True,
        page_events_max: int = PAGE_EVENTS_MAX,
        page_gap_s: float = PAGE_GAP_S,
        quiet_s: float = QUIET_S,
        stuck_s: float = STUCK_S,
        rest: float = 0.0,
    ) -> None:
        assert projections, "a runner runs something"
        self._connect = connect
        self._reader = reader
        self._tables = {projection.name: RowTable(projection) for projection in projections}
        self._names = list(self._tables)
        self._lease = LEASE_SPACE, zlib.crc32(" ".join(sorted(self._names)).encode()) - 2**31
        self._recent = recent
        self._may_lead = lead
        self._page_events_max = page_events_max
        self._page_gap_s = page_gap_s
        self._quiet_s = quiet_s
        self._stuck_s = stuck_s
        self._rest = rest
        self._positions: dict[str, int] = {}
        self._failing: dict[str, tuple[int, int]] = {}  # a projection's event that failed, and how often
        # Those in `reached`. Not bounded here: each belongs to a request, and those are (reads_under_way_max, http_requests_max).
        self._waiting: dict[asyncio.Future[None], int] = {}
        self._woken = asyncio.Event()
        self._hurried = asyncio.Event()
        self.head = 0  # the last position of the log that this process has heard of
        self._heard = 0  # the same since the log was last read
        self.leading = False
        self.pages = 0
        self.events = 0  # folded, by pages of this process
        self.quarantined = 0

    @property
    def position(self) -> int:
        """All rows hold every event up to here, as far as this process knows."""
        return min(self._positions.values(), default=0)

    @property
    def positions(self) -> dict[str, int]:
        """The same for each projection."""
        return dict(self._positions)

    @property
    def lag_events(self) -> int:
        """How many events of the log are not in all rows yet."""
        return max(0, self.head - self.position)

    @property
    def waiting(self) -> int:
        """How many wait in `reached`."""
        return len(self._waiting)

    def wake(self, head: int) -> None:
        """Events up to `head` are committed."""
        self._heard = max(self._heard, head)
        if head > self.head:
            self.head = head
            self._woken.set()

    async def reached(self, position: int, timeout_s: float) -> bool:
        """Wait until the rows of all projections hold the event at `position`; False if they do not in time.

        The position must be one of the log. Works in every process where `run` does, whichever holds the lease.
        """
        if self.position >= position:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = position
        self._hurried.set()
        self._woken.set()
        self.wake(position)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            del self._waiting[future]
        return True

    # --- the task --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stand by, lead, and begin again when the database was lost; for ever. Ends when cancelled."""
        pause_s = RECONNECT_S
        while True:
            connection: Connection | None = None
            try:
                connection = await self._connect()
                async with asyncio.timeout(PAGE_TIMEOUT_S):
                    await connection.execute(START, self._names)
                    await self._look(connection)
                pause_s = RECONNECT_S
                await self._stand_by(connection)
                self.leading = True
                logger.info("this process runs the projections %s from %s", self._names, self._positions)
                await self._lead(connection)
            except DATABASE_ERRORS as error:
                heed_cancellation()
                logger.warning("the projections are without a database: %s: %s", type(error).__name__, error)
            finally:
                self.leading = False
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RECONNECT_S_MAX)

    async def _stand_by(self, connection: Connection) -> None:
        """Return when this session holds the lease."""
        loop = asyncio.get_running_loop()
        asked_at, moved_at, position = -self._quiet_s, loop.time(), -1
        while True:
            if self._may_lead and loop.time() >= asked_at + self._quiet_s:
                asked_at = loop.time()
                # Asked again and again: whoever waits inside pg_advisory_lock holds a snapshot, and vacuum back.
                if await connection.fetchval(TAKE_LEASE, *self._lease):
                    await self._look(connection)
                    return
            if self.position != position or self.lag_events == 0:
                moved_at, position = loop.time(), self.position
            elif self._may_lead and loop.time() >= moved_at + self._stuck_s:
                logger.error("the projections stand still at %d of %d: taking over", self.position, self.head)
                await connection.execute(END_LEASE, *self._lease)
                moved_at = loop.time()
            self._hurried.clear()
            await _first_of(self._hurried, POLL_S if self._waiting else self._quiet_s)
            self.head = await self._look(connection)  # and not what anybody said: nobody is replaced for hearsay

    async def _lead(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        looked_at = loop.time()
        while True:
            if loop.time() >= looked_at + self._quiet_s:
                # Is the session alive? Have others appended, or rebuilt a projection?
                looked_at = loop.time()
                async with asyncio.timeout(PAGE_TIMEOUT_S):
                    await self._look(connection)
            self._woken.clear()
            self._hurried.clear()
            if self.lag_events == 0:
                await _first_of(self._woken, max(0, looked_at + self._quiet_s - loop.time()))
            else:
                folded = self.events
                async with asyncio.timeout(PAGE_TIMEOUT_S):
                    began_at = loop.time()
                    full = await self._round(connection)
                if self._rest:
                    await asyncio.sleep(self._rest * (loop.time() - began_at))
                if not full and not self._waiting:
                    is_busy = self.events - folded > BUSY_EVENTS
                    await _first_of(self._hurried, self._page_gap_s * (BUSY_GAPS if is_busy else 1))

    async def _look(self, connection: Connection) -> int:
        """Learn where the checkpoints and the log are; the head of the log."""
        rows = await connection.fetch(LOOK, self._names)
        assert len(rows) == len(self._names), "every projection got a checkpoint at the start"
        self._positions = {row["projection"]: row["position"] for row in rows}
        head: int = rows[0]["head"]
        self.head = max(self.head, head)
        self._tell()
        return head

    def _tell(self) -> None:
        position = self.position
        for future, wanted in self._waiting.items():
            if wanted <= position and not future.done():
                future.set_result(None)

    # --- pages -----------------------------------------------------------------------------------------------------------

    async def _round(self, connection: Connection) -> bool:
        """One page for each group of projections that stand together and are behind. True if the next should follow at once."""
        more = False
        groups: dict[int, list[str]] = {}
        for name, position in self._positions.items():
            if position < self.head:
                groups.setdefault(position, []).append(name)
        for after, names in groups.items():
            page = await self._page(after)
            if not page:
                continue
            try:
                failures = await self._fold(connection, after, names, page)
            except Moved:
                logger.info("somebody else moved a checkpoint of %s on from %d", names, after)
                await self._look(connection)
                return True
            self.pages += 1
            self.events += len(page)
            more = more or bool(failures) or len(page) >= min(self._page_events_max, READ_EVENTS_MAX)
        self._tell()
        return more or len(set(self._positions.values())) > 1

    async def _page(self, after: int) -> Sequence[Recorded]:
        """The next events, from memory or from the log; none at its head."""
        if self._recent is not None:
            page = self._recent(after, self._page_events_max)
            if page and page[0].position == after + 1 and page[-1].position == after + len(page):
                return page
        self._heard = 0
        page = await self._reader.read(after, min(self._page_events_max, READ_EVENTS_MAX))
        if not page:
            self.head = max(after, self._heard)  # the log ends here, but for what was told since it was asked
        elif page[0].position != after + 1:
            # Retention is the operator's decision; a projection that comes later can only take what is left.
            logger.error("the log begins at %d: what happened after %d is not kept", page[0].position, after)
        return page

    async def _fold(
        self, connection: Connection, after: int, names: list[str], page: Sequence[Recorded]
    ) -> dict[str, Failure]:
        """Fold a page into the rows of these projections and move their checkpoints, all or nothing."""
        upto = page[-1].position
        failures: dict[str, Failure] = {}
        given_up: dict[str, Failure] = {}
        async with connection.transaction():
            # First of all, so that whoever else moves these checkpoints waits here, and not with half of its rows written.
            if await connection.execute(MOVE, names, after, upto) != f"UPDATE {len(names)}":
                raise Moved
            for name in names:
                failure = await fold_page(connection, self._tables[name], page)
                if failure is not None and self._tries(name, failure) >= TRIES:
                    given_up[name] = failure
                    await connection.execute(QUARANTINE, name, failure.recorded.position, failure.text())
                    rest = page[failure.recorded.position - page[0].position + 1 :]
                    failure = await fold_page(connection, self._tables[name], rest)
                if failure is not None:
                    failures[name] = failure
                    await connection.execute(STOP_AT, name, failure.recorded.position - 1)
            if failpoints.armed is not None:
                await failpoints.arrive("before_cursor_commit")
        for name in names:
            self._positions[name] = failures[name].recorded.position - 1 if name in failures else upto
        for name, failure in failures.items():
            self._failing[name] = failure.recorded.position, self._tries(name, failure)
        for name, failure in given_up.items():
            self.quarantined += 1
            _complain(name, failure)
        return failures

    def _tries(self, name: str, failure: Failure) -> int:
        """How often this event has failed now."""
        position, tries = self._failing.get(name, (0, 0))
        return tries + 1 if position == failure.recorded.position else 1


def _complain(name: str, failure: Failure) -> None:
    # A traceback of pydantic's quotes the body, and says nothing else of interest.
    error = None if isinstance(failure.error, ValidationError) else failure.error
    logger.error(
        "%s goes past the event at %d, now in quarantine: %s",
        name,
        failure.recorded.position,
        failure.text(),
        exc_info=error,
    )


async def _first_of(event: asyncio.Event, timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
