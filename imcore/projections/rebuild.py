"""Fold a projection again from zero: into a new table that takes the place of the old, or to compare.

A rebuild runs beside the service. It folds the log into `<table>_rebuild` page by page until it has nearly caught up. Then one
transaction stops whoever moves the projection (for an inline one that is every append: the head of the log is locked), folds the
last events and swaps the tables. Who reads sees the old rows or the new ones, never a mixture; who writes waits some
milliseconds. A rebuild that is killed leaves a table that the next one drops.

An audit folds the log into a table that only its own transaction sees, up to the position that the rows say they are at, and
compares the two.

The trap: the swap waits for everybody who reads the table, and everybody else waits behind it. A report that runs for minutes
would stop the service, so the swap gives up after `SWAP_WAIT_MS`, lets the others go on, and tries again later.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from typing import ClassVar, Final, Generic, NamedTuple

import asyncpg

from imcore.errors import ImcoreError
from imcore.events.names import Connection, Names, Pool
from imcore.events.store import recorded
from imcore.projections import INLINE
from imcore.projections.projection import Failure, Key, Projection, R, RowTable, fold_page

logger = logging.getLogger(__name__)

PAGE_EVENTS_MAX: Final = 5_000
READ_EVENTS_MAX: Final = 1_000  # where the bodies of messages come with them, 64 KiB each at worst
WINDOW_EVENTS: Final = 500_000  # a page looks at so many positions at most, however few of them it wants
SWAP_WAIT_MS: Final = 300
SWAP_TRIES: Final = 100
SWAP_AGAIN_S: Final = 0.5
DIFFERENCES_MAX: Final = 100
LOCK_SPACE: Final = int.from_bytes(b"imcr")

# What the projection wants of a stretch of the log. The bodies of plain messages only if it reads them.
READ = """
SELECT position, stream_id, seq, messages, type, version, mid, key, client_id, op, format, recorded_at,
  CASE WHEN op > 0 AND version = 1 AND NOT $5 THEN '' ELSE body END AS body
FROM events WHERE position > $1 AND position <= $2 AND type = ANY($3::text[])
ORDER BY position LIMIT $4
"""
FIRST = "SELECT min(position) FROM events"
HEAD = "SELECT position FROM log_head"
CHECKPOINT = "SELECT position FROM checkpoints WHERE projection = $1"
MOVE = """
INSERT INTO checkpoints (projection, position) VALUES ($1, $2) ON CONFLICT (projection) DO UPDATE SET position = excluded.position
"""
FORGET_QUARANTINE = "DELETE FROM quarantine WHERE projection = $1"
QUARANTINE = "INSERT INTO quarantine (projection, position, error) VALUES ($1, $2, $3)"

# What hangs on a table: its settings, who may do what with it, the views over it.
OPTIONS = "SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = $1::text::regclass"
GRANTS = """
SELECT format('GRANT %s ON %I TO %s%s', privilege_type, $2::text,
  CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
  CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_class, aclexplode(relacl) WHERE oid = $1::text::regclass AND grantee <> relowner
"""
VIEWS = """
SELECT DISTINCT view.oid::regclass::text AS name, pg_get_viewdef(view.oid) AS definition
FROM pg_depend JOIN pg_rewrite ON pg_rewrite.oid = pg_depend.objid JOIN pg_class view ON view.oid = pg_rewrite.ev_class
WHERE pg_depend.classid = 'pg_rewrite'::regclass AND pg_depend.refobjid = $1::text::regclass AND view.relkind = 'v'
"""
# The index of the new table that is what this one is on the old.
INDEXES = """
SELECT old.indexrelid::regclass::text AS old, new.indexrelid::regclass::text AS new
FROM pg_index old JOIN pg_index new ON new.indkey = old.indkey AND new.indisprimary = old.indisprimary
  AND pg_get_expr(new.indpred, new.indrelid) IS NOT DISTINCT FROM pg_get_expr(old.indpred, old.indrelid)
WHERE old.indrelid = $1::text::regclass AND new.indrelid = $2::text::regclass
"""


class RebuildRunning(ImcoreError):
    """This projection is being rebuilt already."""

    code: ClassVar[str] = "rebuild_running"


class RebuildBlocked(ImcoreError):
    """Somebody reads or writes the table for too long: the rebuilt rows could not take its place."""

    code: ClassVar[str] = "rebuild_blocked"


class LogIncomplete(ImcoreError):
    """The log does not begin at 1 any more: what was dropped cannot be folded again."""

    code: ClassVar[str] = "log_incomplete"
    retry: ClassVar[bool] = False


class Rebuilt(NamedTuple):
    """The rows are the fold of the events up to `position`, less those that failed (now in quarantine)."""

    position: int
    rows: int
    failures: list[Failure]


class Difference(NamedTuple, Generic[R]):
    """A key whose row is not what the log says. None: no row."""

    key: Key
    expected: R | None
    actual: R | None


class Audit(NamedTuple, Generic[R]):
    """What a comparison at `position` found: at most `DIFFERENCES_MAX` differences, and the events that cannot be folded."""

    position: int
    differences: list[Difference[R]]
    failures: list[Failure]


async def rebuild(pool: Pool, projection: Projection[R]) -> Rebuilt:
    """Fold the projection again from the first event and swap the result in, with the service running.

    Readers and a runner notice nothing but new rows; views, grants, settings and the names of indexes stay as they were.

    Raises RebuildRunning, LogIncomplete, and RebuildBlocked when the swap got no lock; then the old rows stay.
    """
    lock = LOCK_SPACE, zlib.crc32(projection.name.encode()) - 2**31
    async with pool.acquire() as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *lock):
            raise RebuildRunning
        rebuilding = _Rebuilding(connection, projection)
        try:
            await rebuilding.begin()
            for tried in range(SWAP_TRIES):
                if tried:
                    await asyncio.sleep(SWAP_AGAIN_S)
                await rebuilding.catch_up()
                try:
                    return await rebuilding.swap()
                except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
                    logger.info("the rebuilt %s wait for a lock: %s", projection.name, error)
            raise RebuildBlocked
        finally:
            if not connection.is_closed():
                await connection.execute(f"DROP TABLE IF EXISTS {rebuilding.new.name}")
                await connection.execute("SELECT pg_advisory_unlock($1, $2)", *lock)


async def audit(pool: Pool, projection: Projection[R]) -> Audit[R]:
    """Compare the rows with the fold of the log, at the position the rows are at. Changes nothing.

    Everything is read in one snapshot, so the service may run; a long audit holds vacuum back.

    Raises LogIncomplete.
    """
    table = projection.table.name
    folded = RowTable(projection, f"{table}_audit")
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
        await _check_whole(connection)
        at = await (
            connection.fetchval(HEAD) if _is_inline(projection) else connection.fetchval(CHECKPOINT, projection.name)
        )
        upto: int = at or 0
        await connection.execute(f"CREATE TEMP TABLE {folded.name} (LIKE {table} INCLUDING INDEXES) ON COMMIT DROP")
        names, failures, position = Names(), list[Failure](), 0
        while position < upto:
            position = await _fold_on(connection, folded, names, position, upto, failures)
        columns = [column.name for column in projection.table.columns]
        keys = ", ".join(column.name for column in projection.table.primary_key)
        expected, actual = (", ".join(f"{side}.{name}" for name in columns) for side in ("expected", "actual"))
        # Keys whose rows differ, or are on one side only.
        different = await connection.fetch(
            f"""
            SELECT {keys} FROM {folded.name} AS expected FULL JOIN {table} AS actual USING ({keys})
            WHERE ROW({expected}) IS DISTINCT FROM ROW({actual}) ORDER BY {keys} LIMIT $1
            """,
            DIFFERENCES_MAX,
        )
        found: list[Key] = [tuple(record) for record in different]
        right = await folded.load(connection, found)
        wrong = await RowTable(projection).load(connection, found)
        return Audit(upto, [Difference(key, right.get(key), wrong.get(key)) for key in found], failures)


class _Rebuilding(Generic[R]):
    """A rebuild on its way: how far the new table is, and what could not be folded into it."""

    def __init__(self, connection: Connection, projection: Projection[R]) -> None:
        self.connection = connection
        self.projection = projection
        self.table = projection.table.name
        self.new = RowTable(projection, f"{self.table}_rebuild")
        self.inline = _is_inline(projection)
        self.names = Names()
        self.position = 0
        self.failures: list[Failure] = []

    async def begin(self) -> None:
        await _check_whole(self.connection)
        await self.connection.execute(f"DROP TABLE IF EXISTS {self.new.name}")
        await self.connection.execute(f"CREATE TABLE {self.new.name} (LIKE {self.table} INCLUDING ALL)")
        if options := await self.connection.fetchval(OPTIONS, self.table):
            await self.connection.execute(f"ALTER TABLE {self.new.name} SET ({options})")

    async def catch_up(self) -> None:
        """Fold on until less than a page is missing."""
        while True:
            head = await self.connection.fetchval(HEAD)
            behind = head - self.position
            while self.position < head:
                async with self.connection.transaction():
                    # Nothing is lost if this is: a rebuild begins at zero. The swap's commit waits for the disk.
                    await self.connection.execute("SET LOCAL synchronous_commit = off")
                    self.position = await _fold_on(
                        self.connection, self.new, self.names, self.position, head, self.failures
                    )
            if behind < PAGE_EVENTS_MAX:
                await self.connection.execute(f"ANALYZE {self.new.name}")
                return

    async def swap(self) -> Rebuilt:
        """The last events and the swap, in one transaction."""
        position, failures = self.position, list(self.failures)
        connection, name = self.connection, self.projection.name
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {SWAP_WAIT_MS}")
            # From here to the commit nobody else moves this projection.
            if self.inline:
                upto = await connection.fetchval(f"{HEAD} FOR UPDATE")
            else:
                upto = max(position, await connection.fetchval(f"{CHECKPOINT} FOR UPDATE", name) or 0)
            while position < upto:
                position = await _fold_on(connection, self.new, self.names, position, upto, failures)
            await self._take_the_place()
            if not self.inline:
                await connection.execute(MOVE, name, position)
            await connection.execute(FORGET_QUARANTINE, name)
            await connection.executemany(
                QUARANTINE, [(name, failure.recorded.position, failure.text()) for failure in failures]
            )
        return Rebuilt(position, await connection.fetchval(f"SELECT count(*) FROM {self.table}"), failures)

    async def _take_the_place(self) -> None:
        """The new table becomes the old one, with everything that hangs on it."""
        connection, table, new, replaced = self.connection, self.table, self.new.name, f"{self.table}_replaced"
        await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        grants = await connection.fetch(GRANTS, table, table)
        views = await connection.fetch(VIEWS, table)
        indexes = await connection.fetch(INDEXES, table, new)
        await connection.execute(f"ALTER TABLE {table} RENAME TO {replaced}")
        await connection.execute(f"ALTER TABLE {new} RENAME TO {table}")
        for view in views:
            await connection.execute(f"CREATE OR REPLACE VIEW {view['name']} AS {view['definition']}")
        for (grant,) in grants:
            await connection.execute(grant)
        await connection.execute(f"DROP TABLE {replaced}")
        for index in indexes:
            await connection.execute(f"ALTER INDEX {index['new']} RENAME TO {index['old']}")


async def _fold_on(
    connection: Connection, table: RowTable[R], names: Names, after: int, upto: int, failures: list[Failure]
) -> int:
    """Fold the next page of the log, going past what fails; the position that the rows are at then."""
    upto = min(upto, after + WINDOW_EVENTS)
    projection = table.projection
    page_events = READ_EVENTS_MAX if projection.reads_messages else PAGE_EVENTS_MAX
    rows = await connection.fetch(READ, after, upto, list(projection.types), page_events, projection.reads_messages)
    await names.resolve(connection, {row["stream_id"] for row in rows})
    events = [recorded(row, names) for row in rows]
    if len(events) == page_events:
        upto = events[-1].position
    while events and (failure := await fold_page(connection, table, events)) is not None:
        failures.append(failure)
        events = [event for event in events if event.position > failure.recorded.position]
    return upto


async def _check_whole(connection: Connection) -> None:
    first = await connection.fetchval(FIRST)
    if first is not None and first != 1:
        raise LogIncomplete(f"the log begins at {first}: what happened before cannot be folded again")


def _is_inline(projection: Projection[R]) -> bool:
    return any(projection.name == other.name for other in INLINE)
