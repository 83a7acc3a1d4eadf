"""Connections that say what is wrong and keep the password to themselves, and the refusal of a Postgres that could lose data."""

from __future__ import annotations

import ast
import asyncio
import logging
import os
import socket
import subprocess
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
import uvloop

import imcore
from conftest import Server
from imcore.database import DATABASE_ERRORS, connect, create_pool, heed_cancellation, place, refuse_unsafe
from imcore.database.connections import SILENCE_S
from imcore.database.embedded import programs
from imcore.errors import BadConfiguration, DatabaseUnavailable, UnsafeDatabase
from waiting import eventually

PASSWORD = "correct-horse"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"postgresql://alice:{PASSWORD}@db.example:5433/chat", "chat at db.example:5433"),
        (f"postgresql://alice:{PASSWORD}@/chat?host=/run/postgresql", "chat at /run/postgresql"),
        ("postgresql:///chat", "chat at localhost"),
        ("postgresql://db.example", "the default database at db.example"),
        (f"postgresql://alice:{PASSWORD}/x@db.example/chat", "a database URL that cannot be read"),
        (f"postgresql://alice:{PASSWORD}#x@db.example/chat", "a database URL that cannot be read"),
        (f"postgresql://alice:[{PASSWORD}@db.example/chat", "a database URL that cannot be read"),
    ],
)
def test_a_database_is_named_without_its_password(url: str, said: str) -> None:
    assert said == place(url)


async def test_a_database_that_does_not_answer_is_named_without_its_password() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and does not listen: nobody is there, and nobody else can come
        port = deaf.getsockname()[1]
        with pytest.raises(DatabaseUnavailable) as refusal:
            await connect(f"postgresql://alice:{PASSWORD}@127.0.0.1:{port}/chat")
    assert f"chat at 127.0.0.1:{port}" in str(refusal.value)
    assert refusal.value.retry
    assert PASSWORD not in "".join(traceback.format_exception(refusal.value))


async def test_a_database_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(DatabaseUnavailable, match=r"did not answer in 0\.1 s"):
            await connect(f"postgresql://alice@127.0.0.1:{port}/chat?sslmode=disable", connect_s=0.1)


async def test_a_database_that_is_not_there_is_said(server: Server) -> None:
    with pytest.raises(DatabaseUnavailable, match='"no_such_database" does not exist'):
        async with create_pool(server.url_of("no_such_database")):
            pass


@pytest.mark.parametrize(
    "url", ["", "chat", "mysql://alice@db/chat", f"postgresql://alice:{PASSWORD}/x@db.example/chat"]
)
async def test_a_url_that_is_none_is_not_quoted(url: str) -> None:
    with pytest.raises(BadConfiguration) as refusal:
        await connect(url)
    assert PASSWORD not in "".join(traceback.format_exception(refusal.value))


async def test_a_pool_lends_connections_and_takes_no_trip_to_get_them_back(database_url: str) -> None:
    async with create_pool(database_url, application_name="lender", connections_max=1) as pool:
        async with pool.acquire() as connection:
            backend = await connection.fetchval("SELECT pg_backend_pid()")
            await connection.fetchval("SELECT 'the last word'")
        async with connect_to(database_url) as observer:
            # What the lent connection did last, and how it introduced itself.
            row = await observer.fetchrow(
                "SELECT query, application_name FROM pg_stat_activity WHERE pid = $1", backend
            )
    assert row is not None
    assert ("SELECT 'the last word'", "lender") == (row["query"], row["application_name"])


async def test_a_transaction_left_open_ends_when_its_connection_goes_back(database_url: str) -> None:
    said: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context["message"]))
    async with create_pool(database_url, connections_max=1) as pool:
        async with pool.acquire() as connection:
            await connection.execute("BEGIN")
        async with pool.acquire() as connection:
            assert not connection.is_in_transaction()
    assert "active transaction" in said[0], "and asyncpg says so"


@pytest.mark.parametrize("what", ["a connection of a pool", "a transaction"])
async def test_a_cancellation_that_the_driver_loses_is_heeded(database_url: str, what: str) -> None:
    """Two of its ways to lose one (asyncpg 0.32). A third is a pool that closes a connection because `opened` has failed. So it is
    asked for where an error is caught, and not mended around the driver. When this fails, look whether it need still be."""
    begun, told = asyncio.Event(), list[BaseException]()

    async def waiting() -> None:
        async with create_pool(database_url) as pool, pool.acquire() as connection:
            async with connection.transaction() if what == "a transaction" else nullcontext():
                begun.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    if what == "a transaction":
                        pool.terminate()  # it goes while this one is cancelled
                    else:
                        asyncio.get_running_loop().call_soon(pool.terminate)  # or while the connection goes back

    async def going_on() -> None:
        try:
            await waiting()
        except DATABASE_ERRORS as error:
            told.append(error)
            heed_cancellation()
        raise AssertionError("it was lost")

    task = asyncio.create_task(going_on())
    await begun.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert 1 == len(told), "the driver made an error of it"


def test_whatever_goes_on_after_an_error_of_the_database_heeds_a_cancellation_first() -> None:
    """In a loop it would be lost: whoever waits for the end of the task would wait for ever."""
    package = Path(imcore.__file__).parent
    loops, deaf = 0, []
    for path in sorted(package.rglob("*.py")):
        for loop in ast.walk(ast.parse(path.read_text())):
            if not isinstance(loop, (ast.While, ast.For, ast.AsyncFor)):
                continue
            for handler in ast.walk(loop):
                if isinstance(handler, ast.ExceptHandler) and "DATABASE_ERRORS" in ast.unparse(handler.type or handler):
                    loops += 1
                    ends = isinstance(handler.body[-1], ast.Raise)
                    if not ends and "heed_cancellation()" not in map(ast.unparse, handler.body):
                        deaf.append(f"{path.relative_to(package)}:{handler.lineno}")
    assert [] == deaf
    assert loops > 10, "they are found"


async def test_a_pool_outlives_a_database_that_restarts(database_url: str) -> None:
    async with create_pool(database_url, connections_max=2) as pool:
        async with connect_to(database_url) as other:
            # Everybody else on this database is put out, as by a restart.
            await other.execute(
                """
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE pid <> pg_backend_pid() AND datname = current_database()
                """
            )

        async def answers() -> bool:
            return bool(await pool.fetchval("SELECT true"))

        assert await eventually(answers)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_ends_of_a_network_connection_give_up_on_silence(
    server_url: str, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def options() -> tuple[dict[str, int], str]:
        async with over_tcp(server_url) as url, connect_to(url) as connection:
            line = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
            asked = {"SO_KEEPALIVE": line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)}
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                asked["TCP_USER_TIMEOUT"] = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            return asked, await connection.fetchval("SHOW idle_in_transaction_session_timeout")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        here, there = runner.run(options())
    assert {"SO_KEEPALIVE": 1, "TCP_USER_TIMEOUT": SILENCE_S * 1000}.items() >= here.items()
    assert f"{SILENCE_S}s" == there


async def test_our_own_postgres_is_safe(database_url: str) -> None:
    async with connect_to(database_url) as connection:
        await refuse_unsafe(connection)
    async with create_pool(database_url) as pool, pool.acquire() as connection:
        await refuse_unsafe(connection)


@pytest.mark.parametrize("value", ["on", "remote_apply"])
async def test_a_commit_that_waits_for_the_disk_is_safe(database_url: str, value: str) -> None:
    async with connect_to(database_url) as connection:
        await connection.execute(f"SET synchronous_commit = {value}")
        await refuse_unsafe(connection)


@pytest.mark.parametrize("value", ["off", "local", "remote_write"])
async def test_a_commit_that_does_not_wait_is_refused(database_url: str, value: str) -> None:
    async with connect_to(database_url) as connection:
        await connection.execute(f"SET synchronous_commit = {value}")
        with pytest.raises(UnsafeDatabase, match=f"synchronous_commit is {value}, and must be on or remote_apply"):
            await refuse_unsafe(connection)


async def test_every_unsafe_setting_is_named_with_its_reason(used: Path) -> None:
    async with careless_standby(used) as url, connect_to(url) as connection:
        with pytest.raises(UnsafeDatabase) as refusal:
            await refuse_unsafe(connection)
    for said in (
        "fsync is off, and must be on: otherwise a power cut",
        "full_page_writes is off, and must be on: otherwise a page half written",
        "data_sync_retry is on, and must be off: otherwise a write that the disk refused",
        "synchronous_commit is off, and must be on or remote_apply: otherwise a commit",
        "a standby in recovery, and must be the primary",
    ):
        assert said in str(refusal.value)


async def test_unsafe_is_a_warning_for_those_who_ask_for_it(used: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with careless_standby(used) as url, connect_to(url) as connection:
        await refuse_unsafe(connection, unsafe=True)

    assert [logging.WARNING] == [record.levelno for record in caplog.records if record.name == "imcore.database.safety"]
    assert "fsync is off" in caplog.text


@asynccontextmanager
async def connect_to(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
def server_url(server: Server) -> str:
    return server.url


@asynccontextmanager
async def over_tcp(url: str) -> AsyncIterator[str]:
    """The same database through a port; the embedded Postgres has none."""
    query = parse_qs(urlsplit(url).query)
    path = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while some := await reader.read(65536):
            writer.write(some)
        writer.close()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(path)
        await asyncio.gather(forward(reader, back), forward(there, writer))

    async with await asyncio.start_server(meet, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        yield f"postgresql://postgres@127.0.0.1:{port}/imcore?sslmode=disable"


@asynccontextmanager
async def careless_standby(data_dir: Path) -> AsyncIterator[str]:
    """A Postgres with everything wrong that a setting can make wrong."""
    folder = data_dir / "postgres"
    (folder / "standby.signal").touch()
    data_dir.chmod(0o711)
    owner = folder.stat() if os.geteuid() == 0 else None
    wrong = ("fsync=off", "full_page_writes=off", "data_sync_retry=on", "synchronous_commit=off", "listen_addresses=")
    with subprocess.Popen(
        [programs() / "postgres", "-D", folder, "-k", folder, *(part for setting in wrong for part in ("-c", setting))],
        user=owner and owner.st_uid,
        group=owner and owner.st_gid,
        stderr=subprocess.DEVNULL,
    ) as postgres:
        url = f"postgresql://postgres@/imcore?host={folder}"

        async def up() -> bool:
            async with connect_to(url):
                return True

        try:
            await eventually(up)
            yield url
        finally:
            postgres.terminate()
