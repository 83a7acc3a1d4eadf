"""Connections to Postgres: a failure says which database and why, and never the password.

A connection must also not wait for ever on a peer that is gone without a word (a pulled cable sends no reset). Both ends are
told to give up after `SILENCE_S`: this end, so that a send fails over to the new primary; the server's end, because a dead
process may hold the lock on the head of the log, and everybody waits for that lock.

The trap: a URL that cannot be parsed is quoted by the parser's error, password and all. Such errors are replaced, not chained.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from imcore.errors import BadConfiguration, DatabaseUnavailable

logger = logging.getLogger(__name__)

# What our statements run on: one's own connection, or one lent by a pool.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Opened: TypeAlias = "Callable[[asyncpg.Connection[asyncpg.Record]], Coroutine[Any, Any, None]]"

# What a query may raise because of the database or the way to it, and not because of the query. InternalClientError: a query was
# begun between the server's farewell and the close (asyncpg 0.32).
DATABASE_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    DatabaseUnavailable,
    OSError,
    TimeoutError,
)
SILENCE_S = 20  # unacknowledged data, or a dead peer found by keepalives, ends a connection after this
KEEPALIVE_IDLE_S = 10
KEEPALIVE_INTERVAL_S = 5
KEEPALIVES = 2
assert KEEPALIVE_IDLE_S + KEEPALIVE_INTERVAL_S * KEEPALIVES == SILENCE_S
CLOSE_S = 10
UNREADABLE = "a database URL that cannot be read"


def heed_cancellation() -> None:
    """To be called where an error of the database is caught and life goes on. Raises CancelledError if this task was cancelled.

    A cancellation that arrives while the driver gives a connection back to a pool that is being closed comes out as an error of the
    database ("pool is closed"), and would be lost: the task would try again for ever, and whoever waits for its end with it.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def connect(
    url: str,
    *,
    application_name: str = "imcore",
    connect_s: float = 10,
    command_s: float | None = None,
    hold_s: float = SILENCE_S,
    opened: Opened | None = None,
) -> asyncpg.Connection[asyncpg.Record]:
    """Open one connection; the caller closes it. Postgres ends it, with its locks, when it is silent for `hold_s` in a transaction.
    `opened` is awaited with it first; what that raises closes it again.

    Raises DatabaseUnavailable when Postgres cannot be reached or lets nobody in, and BadConfiguration for a URL that is none.
    """
    connection = await _open(
        url, timeout=connect_s, command_timeout=command_s, server_settings=_settings(application_name, hold_s)
    )
    if opened is not None:
        try:
            await opened(connection)
        except BaseException:
            connection.terminate()
            raise
    return connection


@asynccontextmanager
async def create_pool(
    url: str,
    *,
    application_name: str = "imcore",
    connections_min: int = 1,
    connections_max: int = 10,
    connect_s: float = 10,
    command_s: float = 30,
    opened: Opened | None = None,
) -> AsyncIterator[Pool]:
    """Keep a pool of connections while the block runs. `opened` is awaited with each before its first use, as for `connect`.

    Connections are not reset between users, which saves a round trip each time: leave no session state behind (SET LOCAL, and
    locks of the transaction only; LISTEN needs a connection of its own). An open transaction is rolled back all the same.
    At the end the connections in use get `CLOSE_S` to come back; then they are cut.

    Raises DatabaseUnavailable at the start, and from `acquire` later, when Postgres cannot be reached.
    """
    pool = asyncpg.create_pool(
        url,
        connect=_open,
        reset=_keep_session,
        init=opened,
        min_size=connections_min,
        max_size=connections_max,
        max_queries=10**9,  # asyncpg would reconnect after 50,000 queries, which here is a minute's work
        timeout=connect_s,
        command_timeout=command_s,
        server_settings=_settings(application_name),
    )
    await pool
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(CLOSE_S):
                await pool.close()
        except TimeoutError:
            logger.warning("connections are still in use at the end and were cut", extra={"database": place(url)})
            pool.terminate()


def count_statements(connection: Connection, counts: Counter[str], purpose: str) -> None:
    """Count what is sent over this connection from now on."""

    def count(statement: object) -> None:
        counts[purpose] += 1

    connection.add_query_logger(count)


def place(url: str) -> str:
    """Say in a few words which database a URL names, fit for logs: name and host, no user, no password."""
    try:
        parts = urlsplit(url)
        if (
            "@" in url and "@" not in parts.netloc
        ):  # a sign in the password cut the URL short, and its start is shown as the host
            raise ValueError
        query = parse_qs(parts.query)
        host = query.get("host", [parts.netloc.rpartition("@")[2] or "localhost"])[0]
        name = query.get("dbname", [unquote(parts.path.lstrip("/"))])[0]
    except ValueError:
        return UNREADABLE
    return f"{name or 'the default database'} at {host}"


async def _open(dsn: str | None = None, **keywords: Any) -> asyncpg.Connection[asyncpg.Record]:
    # The form is asyncpg's: the pool calls this for each connection that it opens, also long after the start.
    url = dsn or ""
    try:
        if place(url) == UNREADABLE or not url.startswith("postgres"):
            raise ValueError  # asyncpg would take an empty URL, and connect to whatever PGHOST says
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            url.replace("postgresql+asyncpg://", "postgresql://", 1), **keywords
        )
    except TimeoutError:
        raise DatabaseUnavailable(f"Postgres did not answer in {keywords['timeout']:g} s: {place(url)}") from None
    except (OSError, asyncpg.PostgresError) as error:
        raise DatabaseUnavailable(f"cannot connect to Postgres: {place(url)}: {error}") from error
    except (ValueError, asyncpg.InterfaceError):
        expected = "postgresql://user:password@host:5432/name, with %-escapes for signs such as @ / # in the password"
        raise BadConfiguration(f"the database URL cannot be read; it looks like {expected}") from None
    _give_up_on_silence(connection)
    return connection


def _settings(application_name: str, hold_s: float = SILENCE_S) -> dict[str, str]:
    return {
        "application_name": application_name,
        "jit": "off",  # our statements are short; compiling one costs more than running it
        # A process that stops in the middle of a transaction holds its locks, the one on the head of the log among them.
        "idle_in_transaction_session_timeout": f"{int(hold_s * 1000)}ms",
        # The server's end of the line; without effect, and without harm, on a Unix socket.
        "tcp_keepalives_idle": str(KEEPALIVE_IDLE_S),
        "tcp_keepalives_interval": str(KEEPALIVE_INTERVAL_S),
        "tcp_keepalives_count": str(KEEPALIVES),
        "tcp_user_timeout": f"{SILENCE_S}s",
    }


def _give_up_on_silence(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    # asyncpg has no option for these and no public way to its socket (0.32); without it only TCP_NODELAY is set.
    line = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    if line.family == socket.AF_UNIX:
        return
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVES),
        ("TCP_USER_TIMEOUT", SILENCE_S * 1000),
    ):
        if hasattr(socket, name):  # macOS names or lacks some of them
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _keep_session(connection: object) -> None:
    # asyncpg has rolled back an open transaction and dropped listeners before it calls this. Its own default goes on with
    # `UNLISTEN *; RESET ALL; …`: a round trip for every release.
    return
