"""The tables of today: Alembic's revisions, applied once however many processes start together.

A session-level advisory lock makes the processes take turns, and each looks at the revision again when its turn comes. Dying
in the middle is harmless: every revision is a transaction of its own, and the lock goes with the connection.

A database that is newer than this code is left alone: revisions are written so that the code before them still runs, and
in a rolling restart old processes meet the new tables.

The trap: whoever waits for the lock must not sleep inside pg_advisory_lock(). A statement that waits holds a snapshot, and a
CREATE INDEX CONCURRENTLY of the one who has the lock waits for all snapshots: both would wait for ever. So it is asked for
again and again. The lock needs a session: point this at Postgres, not at a pooler in transaction mode.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from imcore.database.connections import connect, place
from imcore.errors import ImcoreError

logger = logging.getLogger(__name__)

ADVISORY_LOCK = int.from_bytes(b"imcore:m")  # one number for every version of imcore, for ever
ASK_AGAIN_S = 0.1

# In a wheel the revisions travel inside the package; in a checkout they stand beside it.
_PACKAGE = Path(__file__).parent.parent
SCRIPTS = _PACKAGE / "_alembic" if (_PACKAGE / "_alembic").is_dir() else _PACKAGE.parent / "alembic"


class SchemaBusy(ImcoreError):
    """Another process is changing the tables and did not finish in time."""

    code: ClassVar[str] = "schema_busy"
    retry: ClassVar[bool] = True


async def upgrade(url: str, revision: str = "head", *, wait_s: float = 120) -> None:
    """Bring the tables to a revision, the newest if none is named; do nothing if they are there already or are newer.

    Processes that start together migrate once: the others wait up to `wait_s`, and say for whom.

    Raises SchemaBusy when the wait is over, DatabaseUnavailable.
    """
    async with _connection(url) as connection:
        # Most starts find everything in place; they need no lock.
        if revision == "head" and await connection.run_sync(_revision) == newest():
            return
    async with _alone(url, wait_s) as connection:
        found = await connection.run_sync(_revision)
        if found is not None and found not in _known():
            logger.warning("the tables are newer than this imcore; leaving them as they are", extra={"revision": found})
            return
        await _run(connection, partial(command.upgrade, revision=revision))


async def downgrade(url: str, revision: str, *, wait_s: float = 120) -> None:
    """Take the tables back to a revision ("base": to none), waiting for the lock as `upgrade` does. This can destroy data."""
    async with _alone(url, wait_s) as connection:
        await _run(connection, partial(command.downgrade, revision=revision))


async def current(url: str) -> str | None:
    """The revision that the tables have now; None before the first."""
    async with _connection(url) as connection:
        return await connection.run_sync(_revision)


def newest() -> str | None:
    """The newest revision that this code knows."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _known() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    config = Config()  # no file: nothing here may touch the logging of the process
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


async def _run(connection: AsyncConnection, step: Callable[[Config], None]) -> None:
    def migrate(synchronous: Connection) -> None:
        config = _config()
        config.attributes["connection"] = synchronous  # alembic/env.py takes it from here
        step(config)

    # Alembic commits only what it began itself: what was read before must not have left a transaction open.
    await connection.commit()
    await connection.execution_options(isolation_level="READ COMMITTED")
    await connection.run_sync(migrate)


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator[AsyncConnection]:
    # The dialect opens no connection by itself: asyncpg reads our URLs, sockets and all, and failures are worded in one place.
    opened = partial(connect, url, application_name="imcore migrations")
    engine = create_async_engine("postgresql+asyncpg://", async_creator=opened, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection


@asynccontextmanager
async def _alone(url: str, wait_s: float) -> AsyncIterator[AsyncConnection]:
    async with _connection(url) as connection:
        await _take_turn(connection, url, wait_s)
        yield connection  # closing it gives the lock back


async def _take_turn(connection: AsyncConnection, url: str, wait_s: float) -> None:
    deadline = asyncio.get_running_loop().time() + wait_s
    told = False
    # True if the lock is ours now; false at once if it is somebody's.
    while not await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": ADVISORY_LOCK}):
        if asyncio.get_running_loop().time() >= deadline:
            holder = await _holder(connection)
            raise SchemaBusy(f"waited {wait_s:g} s for {holder} to finish changing the tables: {place(url)}")
        if not told:
            told = True
            logger.info("waiting for %s to finish changing the tables: %s", await _holder(connection), place(url))
        await asyncio.sleep(ASK_AGAIN_S)


async def _holder(connection: AsyncConnection) -> str:
    # Who has the lock; a 64-bit key is shown in two halves.
    rows = await connection.execute(
        text(
            """
            SELECT activity.application_name, activity.pid, activity.client_addr, activity.backend_start
            FROM pg_locks AS lock JOIN pg_stat_activity AS activity USING (pid)
            WHERE lock.locktype = 'advisory' AND lock.granted AND lock.objsubid = 1
              AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND (lock.classid::bigint << 32) | lock.objid::bigint = :key
            """
        ),
        {"key": ADVISORY_LOCK},
    )
    row = rows.one_or_none()
    if row is None:
        return "nobody any more"
    return f"{row.application_name!r} (server process {row.pid}, {row.client_addr or 'local'}, since {row.backend_start:%H:%M:%S})"
