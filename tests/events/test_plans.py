"""Each read of the log goes through an index, and none of it grows with the log: 210,000 events, 50,000 streams, five partitions.

The plans are generic ones, as a prepared statement has them for ever, before the tables were ever analyzed and after. What
imcore_append does inside is counted by the database itself: which tables a call scanned, and how often.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias

import pytest
import pytest_asyncio

from conftest import Server
from events.at_work import appending, connected, message, new_id, stream
from events.test_append_only import PARTITIONS
from imcore import membership
from imcore.database import Connection
from imcore.errors import ImcoreError
from imcore.events import history, names, reader, store
from imcore.permissions import person
from waiting import eventually

EVENTS = 210_000
STREAMS = 50_000
IN_ONE_ROOM = 30_000
PARTITION_EVENTS = 50_000

Plan: TypeAlias = dict[str, Any]

# A busy room, and as many rooms of a few events each; every third event with a client's id.
SEED = f"""
INSERT INTO streams (name) SELECT 'room:group://' || n FROM generate_series(1, {STREAMS}) AS n;
INSERT INTO events (position, stream_id, seq, messages, type, version, mid, key, client_id, op, format, recorded_at, body)
SELECT n, s, row_number() OVER (PARTITION BY s ORDER BY n), row_number() OVER (PARTITION BY s ORDER BY n),
  'message_sent', 1, s % 1000, 'k', CASE WHEN n % 3 = 0 THEN lpad(to_hex(n), 32, '0')::uuid END, 1000, 0, now(), '{{}}'
FROM (SELECT n, CASE WHEN n % ({EVENTS // IN_ONE_ROOM}) = 0 THEN 1 ELSE 1 + n % {STREAMS} END AS s
      FROM generate_series(1, {EVENTS}) AS n) AS placed;
INSERT INTO client_ids (mid, client_id, position) SELECT mid, client_id, position FROM events WHERE client_id IS NOT NULL;
UPDATE streams SET seq = head.seq, messages = head.seq, position = head.position
FROM (SELECT stream_id, max(seq) AS seq, max(position) AS position FROM events GROUP BY 1) AS head WHERE id = stream_id;
INSERT INTO members (room, mid, role, since, since_seq, muted_until_ms)
SELECT 'group://' || n, mid, 'member', 1, 1, 0 FROM generate_series(1, {STREAMS}) AS n, generate_series(1, 2) AS mid;
INSERT INTO generations (mid, key, opened) SELECT n % 1000, n::text, n FROM generate_series(1, {STREAMS}) AS n;
UPDATE log_head SET position = {EVENTS}, opened = {STREAMS};
"""

# Query, arguments, and the ends of the names of the indexes that it goes through.
QUERIES = {
    "READ": (reader.READ, "100, 500", {"pkey"}),
    "READ_ON": (reader.READ_ON, "1, 100, 500", {"stream_id_seq_idx"}),
    "READ_BACK": (reader.READ_BACK, "1, 30000, 500", {"stream_id_seq_idx"}),
    "READ_PAGES": (
        reader.READ_PAGES,
        f"'{{1,2,3,4,5}}', '{{0,100,200,0,10}}', '{{1,4}}', '{{3,5}}', '{{{EVENTS},{EVENTS}}}', 500",
        {"stream_id_seq_idx", "streams_pkey"},
    ),
    "ORIGINALS": (store.ORIGINALS, "'{1,100000}'", {"pkey"}),
    "HEADS": (store.HEADS, "'{1,2,3}'", {"streams_pkey"}),
    "USED_IDS": (store.USED_IDS, "'{1}', '{00000000-0000-0000-0000-000000000003}'", {"client_ids_client_id_idx"}),
    "NEWEST": (store.NEWEST, "'{1,2}', '{k,l}'", {"generations_pkey"}),
    "IDS": (names.IDS, "'{room:group://1}'", {"streams_name_key"}),
    "NAMES": (names.NAMES, "'{1,2,3}'", {"streams_pkey"}),
    "LOOK": (history.LOOK, "100000", {"pkey"}),
    "OLDEST": (history.OLDEST, "", {"pkey"}),
    "STREAM": (reader.STREAM, "'room:group://1'", {"streams_name_key"}),
}
UNDER_THE_LOCK = ("HEADS", "USED_IDS", "NEWEST")
WITHOUT_SORT = ("READ", "READ_ON", "READ_BACK")
# What this transaction has done to each table.
SCANS = """
SELECT relname, seq_scan, coalesce(idx_scan, 0) AS idx_scan FROM pg_stat_xact_user_tables
WHERE relname ~ '^(events|streams|client_ids|generations|members|rooms)'
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def grown(server: Server, template: str) -> AsyncIterator[str]:
    """A database with a log of some size, never analyzed."""
    async with server.database(template) as url:
        async with connected(url) as connection:
            await connection.execute("ALTER TABLE streams SET (autovacuum_enabled = off)")
            source = await connection.fetchval("SELECT pg_get_functiondef('imcore_make_partitions'::regproc)")
            await connection.execute("DROP TABLE events_1")
            await connection.execute(source.replace("5000000", str(PARTITION_EVENTS)))
            await connection.execute("SELECT imcore_make_partitions($1)", EVENTS)
            await connection.execute(source)
            for (name,) in await connection.fetch(PARTITIONS):
                await connection.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = off)")
            await connection.execute(SEED)
        yield url


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


async def generic_plan(connection: Connection, query: str, arguments: str) -> list[Plan]:
    await connection.execute(f"PREPARE asked AS {query}")
    (row,) = await connection.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE asked{f'({arguments})' if arguments else ''}")
    await connection.execute("DEALLOCATE asked")
    return list(nodes(json.loads(row[0])[0]["Plan"]))


async def check_plans(connection: Connection) -> None:
    for name, (query, arguments, expected) in QUERIES.items():
        await connection.execute(store.BEGIN if name in UNDER_THE_LOCK else "BEGIN")
        plan = await generic_plan(connection, query, arguments)
        await connection.execute("ROLLBACK")
        said = json.dumps(plan[0], indent=1)
        kinds = {node["Node Type"] for node in plan if node.get("Relation Name") != "log_head"}  # which is one row
        assert "Seq Scan" not in kinds, (name, said)
        used = {node["Index Name"] for node in plan if "Index Name" in node}
        assert all(any(index.endswith(end) for end in expected) for index in used), (name, used)
        assert all(any(index.endswith(end) for index in used) for end in expected), (name, used)
        if name in WITHOUT_SORT:
            assert "Sort" not in kinds, (name, said)
        if name.startswith("READ"):
            on_events = [node for node in plan if node.get("Relation Name", "").startswith("events")]
            assert on_events
            # The position is there to leave partitions out; the seqs are exact.
            by_position = {"Filter"} if name == "READ_PAGES" else set()
            assert all({"Filter"} & set(node) <= by_position for node in on_events), (name, said)


async def test_reads_use_their_indexes_before_and_after_the_tables_are_analyzed(grown: str) -> None:
    async with connected(grown) as connection:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await check_plans(connection)
        await connection.execute("ANALYZE events, streams, client_ids, members")
        await check_plans(connection)


async def test_a_position_leads_to_its_seq_in_a_stream(grown: str) -> None:
    """In a busy stream and a quiet one, at every edge of a partition, and beyond the ends: no more than its partitions are asked."""
    chance = random.Random(7)
    edges = [n * PARTITION_EVENTS + d for n in range(6) for d in (-1, 0, 1)]
    async with connected(grown) as connection:
        for stream_id in (1, 2, 49_999):
            head = await connection.fetchval("SELECT seq FROM streams WHERE id = $1", stream_id)
            for position in (*edges, *(chance.randrange(EVENTS + 2) for _ in range(200))):
                found = await connection.fetchval("SELECT imcore_seq_at($1, $2, $3)", stream_id, head, position)
                counted = "SELECT coalesce(max(seq), 0) FROM events WHERE stream_id = $1 AND position <= $2"
                assert found == await connection.fetchval(counted, stream_id, position), (stream_id, position)


async def test_a_page_of_streams_looks_at_nothing_that_it_does_not_give(grown: str) -> None:
    """Each stream is entered at the seq that its position leads to, and left where the page ends."""
    async with connected(grown) as connection:
        after, upto = EVENTS - 20_000, EVENTS - 10_000
        arguments = f"'{{1,2,3}}', '{{{after},{after},0}}', '{{1,3}}', '{{2,3}}', '{{{upto},{upto}}}', 10000"
        await connection.execute(f"PREPARE asked AS {reader.READ_PAGES}")
        (row,) = await connection.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE asked({arguments})")
        await connection.execute("DEALLOCATE asked")
        plan = json.loads(row[0])[0]["Plan"]
        on_events = [node for node in nodes(plan) if node.get("Relation Name", "").startswith("events")]
    looked_at = sum(node["Actual Rows"] * node["Actual Loops"] for node in on_events)
    assert 0 == sum(node.get("Rows Removed by Filter", 0) for node in on_events)
    assert plan["Actual Rows"] == round(looked_at) > 1_000


async def scans(connection: Connection) -> dict[str, tuple[int, int]]:
    """For each table that was touched: how often it was read from end to end, and how often through an index."""
    return {row["relname"]: (row["seq_scan"], row["idx_scan"]) for row in await connection.fetch(SCANS)}


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("fence", [STREAMS - 1, STREAMS])
async def test_an_append_looks_everything_up_through_indexes(
    grown: str, refuses: bool, analyzed: bool, fence: int
) -> None:
    """A batch of 300 guarded sends to 300 rooms with ids and expected seqs: no table is read from end to end. And who has the newest
    session of a key is looked up only if somebody opened one that not all senders know of."""
    async with connected(grown) as connection:
        if analyzed:
            await connection.execute("ANALYZE events, streams, client_ids, members, generations")
        known = names.Names()
        rooms = [f"group://{n}" for n in range(2, 302)]
        await known.find(connection, [stream(room) for room in rooms])
        seqs = {
            row["name"]: row["seq"] for row in await connection.fetch("SELECT name, seq FROM streams WHERE id <= 400")
        }
        drafts = [
            message(
                room, 3 if refuses and n % 2 else 1, expected=seqs[stream(room)] + (refuses and n % 5 == 0), fence=fence
            )
            for n, room in enumerate(rooms)
        ]
        columns, *_ = store._columns(drafts, known.ids)
        transaction = connection.transaction()
        await transaction.start()
        row = await connection.fetchrow(store.APPEND, *columns)
        assert row is not None
        assert refuses == (row["refused"] is not None)
        found = await scans(connection)
        await transaction.rollback()
    assert {"client_ids", "members", "streams"} <= set(found)
    assert {0} == {seq_scans for seq_scans, _ in found.values()}
    for table in ("client_ids", "members", "streams"):
        assert found[table][1] >= 100, (table, found)
    assert (0 if fence == STREAMS else len(rooms)) == found.get("generations", (0, 0))[1]


async def test_what_a_live_log_reads_does_not_grow_with_the_log(grown: str) -> None:
    """Both roads, retries, and every read: through the appender and the reader themselves."""
    async with connected(grown) as connection:

        async def have_all_told() -> bool:
            return not await connection.fetchval(OTHERS)

        await eventually(have_all_told)  # a backend tells what it has scanned at its end at the latest
        before = await totals(connection)
        async with appending(grown) as here:
            used = [new_id() for _ in range(20)]
            await here.together(*(membership.Join(f"group://{n}", person(3), may_create=False) for n in range(1, 21)))
            for _ in range(8):  # more than five times: from then on Postgres may choose a generic plan of its own
                for tell in (here.tell, here.tell_decided):
                    told = await tell(*(message(f"group://{n}", 1, id_) for n, id_ in enumerate(used, 1)))
                    assert not [one for one in told if isinstance(one.outcome, ImcoreError)]
                await here.reader.read(EVENTS - 1_000, 500)
                await here.reader.read_on(stream("group://1"), 20_000, 50)
                await here.reader.read_back(stream("group://1"), 20_000, 50)
                floors = {stream(f"group://{n}"): EVENTS - 1_000 for n in range(1, 200)}
                (page,) = await here.reader.read_pages([(floors, EVENTS)], 500)
                assert page.events

        await eventually(have_all_told)
        after = await totals(connection)
        # A partition that was made meanwhile is left out: making it reads it.
        assert {table: before[table][0] for table in before} == {table: after[table][0] for table in before}
        assert after["client_ids"][1] > before["client_ids"][1] + 300


# Who else is at work here, or at the end of it.
OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


async def totals(connection: Connection) -> dict[str, tuple[int, int]]:
    """What everybody has done to each table, as far as they have told: from end to end, and through an index."""
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    rows = await connection.fetch(SCANS.replace("_xact", "").replace("members|rooms", "members"))
    return {row["relname"]: (row["seq_scan"], row["idx_scan"]) for row in rows}
