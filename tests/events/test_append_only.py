"""The database itself keeps the log: what is in it cannot be changed, and there is always a partition for what comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import asyncpg
import pytest

from events.at_work import AtWork, appending, assert_sound, connected, message, new_id, stream
from imcore import membership
from imcore.database import Connection
from imcore.events.store import PARTITION_MARGIN_EVENTS
from imcore.events.types import Page, Recorded
from imcore.permissions import person
from waiting import eventually

R, S = "group://r", "group://s"
SMALL = 50  # events of a partition, in the tests that cross from one to the next
PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY inhrelid"
# Bounds of the partitions, in order.
BOUNDS = """
SELECT pg_get_expr(relpartbound, oid) FROM pg_class JOIN pg_inherits ON inhrelid = oid
WHERE inhparent = 'events'::regclass ORDER BY oid
"""


async def shrink_partitions(connection: Connection, partitions: int) -> None:
    """Begin the log again with so many small partitions; whoever makes more of them makes large ones again."""
    source = await connection.fetchval("SELECT pg_get_functiondef('imcore_make_partitions'::regproc)")
    assert "5000000" in source
    for name in await connection.fetch(PARTITIONS):
        await connection.execute(f"DROP TABLE {name[0]}")
    await connection.execute(source.replace("5000000", str(SMALL)))
    await connection.execute("SELECT imcore_make_partitions($1)", SMALL * partitions)
    await connection.execute(source)


@pytest.fixture
async def written(here: AtWork) -> AsyncIterator[AtWork]:
    """A log with events in two partitions, which is the same at the end of the test."""
    async with connected(here.url) as connection:
        await shrink_partitions(connection, 1)
    await here.join(R, 1)
    await here.tell(*(message(R) for _ in range(SMALL + 10)))
    before = await here.whole_log()
    yield here
    assert before == await here.whole_log()


# --- nothing changes -------------------------------------------------------------------------------------------------------------


CHANGES = {
    "UPDATE": "UPDATE {} SET mid = mid",
    "UPDATE of one row": "UPDATE {} SET mid = 7 WHERE position = 3",
    "UPDATE of no row": "UPDATE {} SET mid = 7 WHERE false",
    "DELETE": "DELETE FROM {}",
    "TRUNCATE": "TRUNCATE {}",
    "TRUNCATE CASCADE": "TRUNCATE {} CASCADE",
    "MERGE": "MERGE INTO {} AS old USING (SELECT 3 AS position) AS new USING_ON WHEN MATCHED THEN DELETE",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_nothing_that_is_written_can_be_changed(written: AtWork, change: str) -> None:
    """Neither through the log nor in any of its partitions, nor the ids, by nobody: the owner of the tables tries it here."""
    async with connected(written.url) as connection:
        partitions = [row[0] for row in await connection.fetch(PARTITIONS)]
        assert len(partitions) > 1
        for table in ("events", *partitions, "client_ids"):
            statement = CHANGES[change].format(table).replace("USING_ON", "ON old.position = new.position")
            with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError) as refusal:
                await connection.execute(statement)
            assert f"{change.split()[0]} on {table} is refused: the log is append-only".replace(
                "MERGE", "DELETE"
            ) == str(refusal.value)


async def test_an_insert_cannot_change_what_is_there(written: AtWork) -> None:
    async with connected(written.url) as connection:
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="UPDATE on events is refused"):
            await connection.execute(
                "INSERT INTO events SELECT * FROM events WHERE position = 1 ON CONFLICT (position) DO UPDATE SET mid = 7"
            )
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("INSERT INTO events SELECT * FROM events WHERE position = 1")


async def test_a_partition_that_is_made_later_is_guarded_too(written: AtWork) -> None:
    async with connected(written.url) as connection:
        made = await connection.fetchval("SELECT imcore_make_partitions(12000000)")
        assert made > 0
        last = (await connection.fetch(PARTITIONS))[-1][0]
        for change in ("UPDATE", "DELETE", "TRUNCATE"):
            with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match=f"{change} on {last} is refused"):
                await connection.execute(CHANGES[change].format(last))


# --- partitions ------------------------------------------------------------------------------------------------------------------


async def test_partitions_follow_each_other_without_a_hole(database_url: str) -> None:
    async with connected(database_url) as connection:
        assert 2 == await connection.fetchval("SELECT imcore_make_partitions(12000000)")
        assert 0 == await connection.fetchval("SELECT imcore_make_partitions(12000000)")
        assert 0 == await connection.fetchval("SELECT imcore_make_partitions(15000000)")
        assert 1 == await connection.fetchval("SELECT imcore_make_partitions(15000001)")
        edges = [1, 5_000_001, 10_000_001, 15_000_001, 20_000_001]
        assert [f"FOR VALUES FROM ('{first}') TO ('{last}')" for first, last in pairwise(edges)] == [
            row[0] for row in await connection.fetch(BOUNDS)
        ]


async def test_partitions_are_all_alike(database_url: str) -> None:
    """Those that came with the tables and those that were made later: columns, indexes, triggers."""
    async with connected(database_url) as connection:
        await connection.execute("SELECT imcore_make_partitions(5000001)")
        looks = []
        for (name,) in await connection.fetch(PARTITIONS):
            indexes = await connection.fetch("SELECT indexdef FROM pg_indexes WHERE tablename = $1 ORDER BY 1", name)
            triggers = await connection.fetch(
                "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = $1::text::regclass ORDER BY 1", name
            )
            checks = await connection.fetch(
                "SELECT contype::text FROM pg_constraint WHERE conrelid = $1::text::regclass AND contype <> 'n'", name
            )
            looks.append([[row[0].replace(name, "_") for row in rows] for rows in (indexes, triggers, checks)])
        assert looks[0] == looks[1]
        assert [3, 3, 1] == [len(look) for look in looks[0]]


async def test_partitions_are_made_before_they_are_needed(database_url: str) -> None:
    """A head that is less than the margin before the last bound makes the appender grow the log, with the first batch."""
    async with connected(database_url) as connection:
        await connection.execute("UPDATE log_head SET position = $1", 5_000_000 - PARTITION_MARGIN_EVENTS)
        async with appending(database_url) as here:
            assert (
                5_000_000 - PARTITION_MARGIN_EVENTS + 1 == (await here.say("live://r", is_member=False)).event.position
            )

            assert 2 == len(await connection.fetch(BOUNDS))
            await connection.execute(
                "UPDATE log_head SET position = 10_000_000 - $1::bigint", PARTITION_MARGIN_EVENTS // 2
            )

            async def has_grown() -> bool:
                await here.say("live://r", is_member=False)
                return 3 == len(await connection.fetch(BOUNDS))

            await eventually(has_grown)
            assert (await here.reader.head()).position < 10_000_000


async def test_many_processes_that_start_together_make_each_partition_once(database_url: str) -> None:
    async with appending(database_url) as one, appending(database_url) as two, appending(database_url) as three:
        async with connected(database_url) as connection:
            await connection.execute("UPDATE log_head SET position = 4_999_999")
            waiting = [here.log.appending(message("live://r", is_member=False)) for here in (one, two, three)]
            assert {5_000_000, 5_000_001, 5_000_002} == {(await event).position for event in waiting}
            assert 2 == len(await connection.fetch(BOUNDS))


async def test_appends_and_reads_go_across_partitions(here: AtWork) -> None:
    """Batches larger than a partition, decisions, streams over five of them: the bounds are nowhere to be seen."""
    async with connected(here.url) as connection:
        await shrink_partitions(connection, 4)
    used = [new_id() for _ in range(3 * SMALL)]
    await here.join(R, 1)
    await here.join(S, 1)
    first = await here.tell(*(message(R if n % 3 else S, 1, id_) for n, id_ in enumerate(used)))
    await here.together(*(membership.Join(f"group://{n}", person(2), may_create=True) for n in range(SMALL + 1)))
    events = await assert_sound(here.pool)
    assert 2 + 3 * SMALL + SMALL + 1 == len(events)

    assert events == await here.reader.read(0, 1_000)
    assert events[40:60] == await here.reader.read(40, 20)
    in_s = [event for event in events if event.stream == stream(S)]
    assert in_s == await here.reader.read_on(stream(S), 0, 1_000)
    assert in_s[10:40] == await here.reader.read_on(stream(S), 10, 30)
    assert in_s[::-1] == await here.reader.read_back(stream(S), 10**9, 1_000)
    both = [event for event in events if event.stream in (stream(R), stream(S)) and 20 < event.position <= 130]
    assert [Page(both, 130)] == await here.reader.read_pages([({stream(R): 20, stream(S): 20}, 130)], 500)
    # A retry finds its first place in whatever partition.
    again = await here.tell(*(message(R if n % 3 else S, 1, id_) for n, id_ in enumerate(used)))
    assert [one.event for one in first] == [one.event for one in again if one.duplicate]


async def test_what_comes_after_the_last_partition_is_not_lost_but_refused_whole(database_url: str) -> None:
    """It cannot happen while partitions are made ahead; if it does, nothing is half stored."""
    async with connected(database_url) as connection:
        await shrink_partitions(connection, 1)
        await connection.execute(
            "CREATE OR REPLACE FUNCTION imcore_make_partitions(p_upto bigint) RETURNS integer LANGUAGE sql AS 'SELECT 0'"
        )
        async with appending(database_url) as here:
            await here.join(R, 1)
            fits = await here.tell(*(message(R) for _ in range(SMALL - 1)))
            too_many = await here.tell(message(R), message(R))
            assert {Recorded} == {type(one.outcome) for one in fits}
            assert {"unavailable"} == {getattr(one.outcome, "code", None) for one in too_many}
            assert SMALL == len(await assert_sound(here.pool))
