"""The tables are brought up to date once, by whoever comes first, and can go back."""

from __future__ import annotations

import ast
import asyncio
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from imcore import tables
from imcore.database import connect
from imcore.database.embedded import programs
from imcore.database.migrations import ADVISORY_LOCK, SchemaBusy, current, downgrade, newest, upgrade
from imcore.projections import ASYNCHRONOUS, LEISURELY, PROJECTIONS
from waiting import eventually

REPOSITORY = Path(__file__).parent.parent

UPGRADE = """
import asyncio, logging, sys
logging.basicConfig(level=logging.INFO)
from imcore.database.migrations import upgrade
sys.stdin.readline()
asyncio.run(upgrade(sys.argv[1]))
"""


def schema(url: str) -> str:
    """The whole schema as SQL."""
    dumped = subprocess.run(
        [programs() / "pg_dump", "--schema-only", "--restrict-key=tests", url],
        check=True,
        capture_output=True,
        text=True,
    )
    return dumped.stdout


async def test_every_revision_goes_down_and_up_again(empty_database_url: str) -> None:
    assert None is await current(empty_database_url)

    await upgrade(empty_database_url)
    assert newest() == await current(empty_database_url)
    at_first = schema(empty_database_url)

    await downgrade(empty_database_url, "base")
    assert None is await current(empty_database_url)

    await upgrade(empty_database_url)
    assert at_first == schema(empty_database_url)


async def test_going_down_leaves_nothing_behind(empty_database_url: str) -> None:
    await upgrade(empty_database_url)
    await downgrade(empty_database_url, "base")

    left = [line for line in schema(empty_database_url).splitlines() if line.startswith("CREATE")]
    assert ["CREATE TABLE public.alembic_version ("] == left


async def test_going_down_leaves_no_checkpoint_of_a_table_that_is_gone(empty_database_url: str) -> None:
    """Else the table of the next upgrade would be empty, and taken for as far as that of before. Step by step: each revision cleans up
    after itself."""
    await upgrade(empty_database_url)
    connection = await connect(empty_database_url)
    names = [(projection.name,) for projection in (*ASYNCHRONOUS, *LEISURELY)]
    try:
        await connection.executemany("INSERT INTO checkpoints VALUES ($1, 7)", names)
        while (revision := await current(empty_database_url)) != "0001":
            await downgrade(empty_database_url, "-1")
            left = await connection.fetch(
                "SELECT projection FROM checkpoints WHERE to_regclass(projection) IS NULL ORDER BY projection"
            )
            assert [] == [row[0] for row in left], f"after going down from {revision}"
    finally:
        await connection.close()


async def test_a_second_upgrade_changes_nothing(database_url: str) -> None:
    before = schema(database_url)
    await upgrade(database_url)
    assert before == schema(database_url)


async def test_processes_that_start_together_migrate_once(empty_database_url: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADE, empty_database_url],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(4)
    ]
    ended = await asyncio.gather(*(asyncio.to_thread(process.communicate, "now\n") for process in started))

    assert [0] * 4 == [process.returncode for process in started], ended
    assert 1 == sum(said.count("Running upgrade  -> ") for _, said in ended), "the first revision ran once"
    assert newest() == await current(empty_database_url)


async def test_who_waits_too_long_says_for_whom(empty_database_url: str) -> None:
    holder = await connect(empty_database_url, application_name="somebody else")
    try:
        await holder.execute("SELECT pg_advisory_lock($1)", ADVISORY_LOCK)

        with pytest.raises(SchemaBusy, match=r"waited 0\.2 s for 'somebody else'"):
            await upgrade(empty_database_url, wait_s=0.2)
        assert None is await current(empty_database_url)
    finally:
        await holder.close()

    await upgrade(empty_database_url)


async def test_up_to_date_tables_are_nobodys_turn(database_url: str) -> None:
    """A comet that starts while somebody migrates has nothing to wait for if its own tables are there."""
    holder = await connect(database_url)
    try:
        await holder.execute("SELECT pg_advisory_lock($1)", ADVISORY_LOCK)
        await upgrade(database_url, wait_s=0)
    finally:
        await holder.close()


async def test_newer_tables_are_left_alone(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """In a rolling restart, old processes meet the new tables."""
    connection = await connect(database_url)
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    await connection.close()

    await upgrade(database_url)

    assert "9999" == await current(database_url)
    assert "newer than this imcore" in caplog.text


async def test_migrating_leaves_logging_as_it_was(empty_database_url: str) -> None:
    ours = logging.getLogger("imcore.database")
    before = (ours.disabled, ours.level, logging.getLogger().level, list(logging.getLogger().handlers))
    await upgrade(empty_database_url)
    assert before == (ours.disabled, ours.level, logging.getLogger().level, list(logging.getLogger().handlers))


async def test_the_revisions_make_the_tables_that_are_drawn(database_url: str) -> None:
    """What tables.py says and what the revisions made are the same, partitions aside."""
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: connect(database_url))

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_server_default": True,
                "include_name": lambda name, kind, parents: kind != "table" or name in tables.metadata.tables,
            },
        )
        return list(compare_metadata(context, tables.metadata))

    async with engine.connect() as connection:
        assert [] == await connection.run_sync(differences)
    await engine.dispose()


def test_what_a_migration_leaves_to_do_is_said_where_operators_look() -> None:
    """Each revision that speaks of a rebuild is in the section about upgrading, and what is to be rebuilt there is a projection."""
    page = (REPOSITORY / "docs" / "operating.md").read_text(encoding="utf-8")
    section = page.partition("\n## Upgrading\n")[2].partition("\n## ")[0]
    speaking = [
        file.name[:4]
        for file in sorted((REPOSITORY / "alembic" / "versions").glob("*.py"))
        if "rebuild" in (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "")
    ]
    named = re.findall(r"^imcore rebuild ([a-z_ ]+?) +#", section, re.MULTILINE)

    assert ["0006", "0009", "0013", "0014", "0016"] == speaking
    assert [revision for revision in speaking if revision in section] == speaking
    assert (
        {"rooms", "members", "seen", "room_counts", "code_uses", "uploads", "mutes"}
        <= set(" ".join(named).split())
        <= set(PROJECTIONS)
    )


async def test_everybody_is_in_as_many_rooms_as_there_are_memberships(empty_database_url: str) -> None:
    await upgrade(empty_database_url)
    await downgrade(empty_database_url, "0012")
    connection = await connect(empty_database_url)
    try:
        for room, mid in (("group://a", 7), ("group://b", 7), ("group://a", 8)):
            await connection.execute("INSERT INTO members VALUES ($1, $2, 'member', 1, 1, 0)", room, mid)

        await upgrade(empty_database_url)

        assert [(7, 2), (8, 1)] == [tuple(row) for row in await connection.fetch("TABLE room_counts ORDER BY mid")]
    finally:
        await connection.close()


async def test_who_is_muted_is_so_after_the_next_join_too(empty_database_url: str) -> None:
    await upgrade(empty_database_url)
    await downgrade(empty_database_url, "0015")
    connection = await connect(empty_database_url)
    try:
        for mid, until_ms in ((7, 9), (8, 0)):
            await connection.execute("INSERT INTO members VALUES ('group://a', $1, 'member', 1, 1, $2)", mid, until_ms)

        await upgrade(empty_database_url)

        assert [("group://a", 7, 9)] == [tuple(row) for row in await connection.fetch("TABLE mutes")]
    finally:
        await connection.close()


async def test_rooms_of_before_have_their_owners_and_their_members_a_version(empty_database_url: str) -> None:
    """What the folds of today would say of a log of that time, as far as the rows can tell."""
    await upgrade(empty_database_url)
    await downgrade(empty_database_url, "0004")
    connection = await connect(empty_database_url)
    try:
        await connection.execute("INSERT INTO rooms VALUES ('group://a', 1, 7, true, 'joined', '', 3)")
        for mid, role, since in ((9, "owner", 4), (7, "owner", 2), (8, "member", 3)):
            await connection.execute("INSERT INTO members VALUES ('group://a', $1, $2, $3, $3, 0)", mid, role, since)
        await upgrade(empty_database_url)

        room = await connection.fetchrow("SELECT owners, writers, dismissed FROM rooms")
        assert room is not None
        assert ([7, 9], "members", 0) == tuple(room)
        assert [2, 3, 4] == [row[0] for row in await connection.fetch("SELECT changed FROM members ORDER BY changed")]
    finally:
        await connection.close()


async def test_an_index_on_what_may_be_many_rows_is_built_beside_those_who_write(empty_database_url: str) -> None:
    """Also where somebody died while he built it."""
    await upgrade(empty_database_url)
    await downgrade(empty_database_url, "0014")
    before, after = [await connect(empty_database_url) for _ in range(2)]
    try:
        await before.execute("CREATE INDEX attachments_room_mid_idx ON attachments (room)")
        async with asyncio.TaskGroup() as tasks:
            async with before.transaction():
                await before.execute("LOCK TABLE attachments IN ROW EXCLUSIVE MODE")
                tasks.create_task(upgrade(empty_database_url, "0015"))
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                await eventually(lambda: after.fetchval(waiting))
                async with after.transaction():
                    await after.execute("SET LOCAL lock_timeout = '2s'")
                    await after.execute("LOCK TABLE attachments IN ROW EXCLUSIVE MODE")

        definition = (
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indisvalid AND indexrelid = $1::text::regclass"
        )
        made = await after.fetchval(definition, "attachments_room_mid_idx")
        assert made.endswith('(room, mid, "position")')
    finally:
        await before.close()
        await after.close()
