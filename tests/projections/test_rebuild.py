"""A projection is folded again from zero with the service running, and compared with its log."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from imcore import commands
from imcore.events.messages import About
from imcore.events.store import Draft, draft
from imcore.events.types import (
    ROOM,
    SESSION,
    DeliveryAcked,
    MemberJoined,
    MemberLeft,
    MessageEdited,
    MessageRecalled,
    SessionClosed,
    SessionOpened,
)
from imcore.projections import PROJECTIONS, inbox, members, sessions
from imcore.projections import rebuild as rebuilding
from imcore.projections.projection import AnyProjection
from imcore.projections.rebuild import LogIncomplete, RebuildBlocked, RebuildRunning, audit, rebuild
from projections.place import Place, message, place, running
from waiting import eventually

R = "group://r"
SOON_S = 60


@asynccontextmanager
async def life(here: Place) -> AsyncIterator[None]:
    """Members come and go, talk, connect and disconnect, as long as the block runs; whatever is refused fails the test."""

    async def live() -> None:
        for n in itertools.count():
            mid = n % 7 + 1
            fact = MemberLeft(room=R, mid=mid) if n % 5 == 4 else MemberJoined(room=R, mid=mid)
            (joined,) = await here.happen(draft(ROOM + R, fact, mid))
            edit = MessageEdited(room=R, target=n // 3 + 1, body=n)
            recall = MessageRecalled(room=R, target=n // 2 + 1, author=mid)
            await here.happen(draft(ROOM + R, recall if n % 4 == 3 else edit, mid))
            (opened,) = await here.happen(draft(f"{SESSION}{mid}", SessionOpened(key="phone", node="n"), mid))
            await here.submit(
                *(message(R, mid) for _ in range(3)),
                commands.about(message(R, mid, '"hi"'), About(thread=joined.seq, mentions=(mid, mid + 1))),
                draft(f"{SESSION}{mid}", DeliveryAcked(key="phone", position=joined.position), mid),
                draft(f"{SESSION}{mid}", SessionClosed(key="phone", opened=opened.position - n % 2, reason=""), mid),
            )

    async with running(live()) as task:
        yield
        if task.done():
            await task
    await here.send(R, 9)  # what was under way when life ended is in the log before this


# Who has waited for a position must not find rows from before it later.
NEVER_BACK = """
CREATE FUNCTION refuse_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN ASSERT new.position >= old.position, 'a checkpoint went back'; RETURN new; END $$;
CREATE TRIGGER never_back BEFORE UPDATE ON checkpoints FOR EACH ROW EXECUTE FUNCTION refuse_back();
"""


async def shape(here: Place, table: str) -> tuple[object, ...]:
    """Everything that hangs on a table and is not a row."""
    indexes = await here.pool.fetch("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = $1 ORDER BY 1", table)
    columns = await here.pool.fetch(
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = $1", table
    )
    options = await here.pool.fetchval("SELECT reloptions FROM pg_class WHERE relname = $1", table)
    grants = await here.pool.fetch(
        "SELECT grantee, privilege_type FROM information_schema.role_table_grants WHERE table_name = $1 ORDER BY 1, 2",
        table,
    )
    view = await here.pool.fetchval("SELECT pg_get_viewdef('online'::regclass)")
    tables = await here.pool.fetch(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'v') AND relname LIKE $1 ORDER BY 1", f"{table}%"
    )
    return indexes, columns, options, grants, view, tables


@pytest.mark.parametrize("projection", PROJECTIONS.values(), ids=PROJECTIONS.keys())
async def test_a_rebuild_while_events_are_appended_gives_the_fold_of_the_log(
    here: Place, projection: AnyProjection
) -> None:
    table = projection.table.name
    await here.pool.execute(f"GRANT SELECT ON {table} TO pg_monitor")
    await here.pool.execute(NEVER_BACK)
    before = await shape(here, table)
    runner = here.runner()
    async with running(runner.run()):
        async with life(here):
            await eventually(lambda: _is(len(here.events) > 200))
            first = await rebuild(here.pool, projection)
            second = await rebuild(here.pool, projection)
            at = len(here.events)
            await eventually(lambda: _is(len(here.events) > at + 50))
        assert await runner.reached(here.log.position, SOON_S)

    assert 0 < first.position < second.position
    assert first.failures == []
    assert before == await shape(here, table)
    await here.assert_rows_are_the_fold()


async def test_an_audit_finds_rows_that_are_not_what_the_log_says_and_a_rebuild_mends_them(here: Place) -> None:
    runner = here.runner()
    async with running(runner.run()):
        await here.join(R, 1, 2, 3)
        await here.send(R, 1)
        await runner.reached(4, SOON_S)
        right = await here.rows(inbox.projection)
        await here.pool.execute("UPDATE inbox SET sent = 99 WHERE mid = 1")
        await here.pool.execute("DELETE FROM inbox WHERE mid = 2")
        await here.pool.execute("INSERT INTO inbox SELECT 9, room, 1, 1, 1, 1, 1 FROM inbox WHERE mid = 3")

        found = await audit(here.pool, inbox.projection)

        wrong = await here.rows(inbox.projection)
        assert [(key, right.get(key), wrong.get(key)) for key in ((1, R), (2, R), (9, R))] == found.differences
        await rebuild(here.pool, inbox.projection)
        assert (await audit(here.pool, inbox.projection)).differences == []
        assert right == await here.rows(inbox.projection)


async def test_an_audit_compares_at_the_position_of_the_rows(here: Place) -> None:
    """Rows that are only behind are not wrong."""
    await here.join(R, 1)

    assert (await audit(here.pool, inbox.projection)) == (0, [], [])
    assert (await audit(here.pool, members.projection)) == (1, [], [])


async def test_what_was_quarantined_is_tried_again(here: Place) -> None:
    """And what still cannot be folded is quarantined again."""
    await here.submit(Draft(f"{SESSION}7", "session_opened", "{}", 7))
    await here.pool.execute(
        "INSERT INTO quarantine (projection, position, error) VALUES ('sessions', 77, 'by older code')"
    )

    rebuilt = await rebuild(here.pool, sessions.projection)

    assert [1] == [failure.recorded.position for failure in rebuilt.failures]
    assert [1] == [row[0] for row in await here.pool.fetch("SELECT position FROM quarantine")]


async def test_a_report_that_reads_the_table_for_long_stops_nobody(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The swap would wait for it, and every append for the swap. It gives up and tries again instead."""
    monkeypatch.setattr(rebuilding, "SWAP_WAIT_MS", 50)
    monkeypatch.setattr(rebuilding, "SWAP_AGAIN_S", 0.05)
    monkeypatch.setattr(rebuilding, "SWAP_TRIES", 10_000)  # as many as come while the report reads
    await here.join(R, 1)
    async with here.pool.acquire() as report:
        reading = report.transaction()
        await reading.start()
        await report.fetch("SELECT * FROM members")
        async with running(rebuild(here.pool, members.projection)) as rebuilt:
            for mid in range(2, 20):
                async with asyncio.timeout(SOON_S):
                    await here.join(R, mid)
                await asyncio.sleep(0.02)
            assert not rebuilt.done()
            await reading.rollback()
            await rebuilt
    await here.assert_rows_are_the_fold(members.projection)


async def test_a_rebuild_that_never_gets_the_lock_leaves_the_old_rows(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "SWAP_WAIT_MS", 20)
    monkeypatch.setattr(rebuilding, "SWAP_AGAIN_S", 0.01)
    monkeypatch.setattr(rebuilding, "SWAP_TRIES", 2)
    await here.join(R, 1)
    async with here.pool.acquire() as report, report.transaction():
        await report.fetch("SELECT * FROM members")
        with pytest.raises(RebuildBlocked):
            await rebuild(here.pool, members.projection)
    await here.assert_rows_are_the_fold(members.projection)
    assert await here.pool.fetchval("SELECT to_regclass('members_rebuild')") is None


async def test_one_rebuild_of_a_projection_at_a_time(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "SWAP_WAIT_MS", 20)
    async with here.pool.acquire() as report, report.transaction():
        await report.fetch("SELECT * FROM members")
        async with running(rebuild(here.pool, members.projection)):
            await eventually(lambda: here.pool.fetchval("SELECT to_regclass('members_rebuild')::text"))
            with pytest.raises(RebuildRunning):
                await rebuild(here.pool, members.projection)
            await rebuild(here.pool, inbox.projection)


async def test_what_a_killed_rebuild_left_is_in_nobodys_way(here: Place) -> None:
    await here.join(R, 1)
    await here.pool.execute("CREATE TABLE members_rebuild (half integer)")

    assert (await rebuild(here.pool, members.projection)).rows == 1


async def test_a_log_without_its_beginning_is_not_folded_again(here: Place) -> None:
    """What retention dropped lives on in the rows, and only there."""
    await here.pool.execute("SELECT imcore_make_partitions(5000001)")
    await here.pool.execute(
        """
        INSERT INTO events (position, stream_id, seq, messages, type, version, mid, key, op, format, recorded_at, body)
        VALUES (5000001, 1, 1, 1, 'message_sent', 1, 7, '', 1000, 1, now(), '')
        """
    )
    with pytest.raises(LogIncomplete):
        await rebuild(here.pool, members.projection)
    with pytest.raises(LogIncomplete):
        await audit(here.pool, members.projection)


async def test_an_empty_log_gives_empty_rows(database_url: str) -> None:
    async with place(database_url) as here:
        for projection in PROJECTIONS.values():
            assert (await rebuild(here.pool, projection)) == (0, 0, [])
            assert (await audit(here.pool, projection)) == (0, [], [])


async def _is(so: bool) -> bool:
    return so
