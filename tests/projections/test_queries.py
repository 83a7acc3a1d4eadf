"""The read side: what it says, and that it finds it through an index however much there is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from conftest import Server
from imcore import nodes
from imcore.database import connect, create_pool
from imcore.events.names import Connection, Pool
from imcore.events.types import (
    SERVICE_MID,
    DeliveryAcked,
    MemberLeft,
    MemberMuted,
    MemberRemoved,
    RoleChanged,
    RoomCreated,
    RoomDismissed,
    SessionClosed,
    SessionOpened,
)
from imcore.nodes import Node
from imcore.projections import inbox, queries
from imcore.projections.departures import Departure
from imcore.projections.members import Member
from imcore.projections.projection import RowTable
from imcore.projections.queries import InboxLine, MemberLine, Membership, OnlineTotal, ReadFacts
from imcore.projections.rooms import Room
from projections.place import Place, running

A, B, C = "group://a", "group://b", "group://c"
NODE = Node("n", "host", "127.0.0.1", 3101, 3102, 3103, "", 1)
SOON_S = 60


async def follow(here: Place) -> None:
    """Let the projections hold everything."""
    runner = here.runner()
    async with running(runner.run()):
        assert await runner.reached((await here.reader.head()).position, SOON_S)


# --- memberships ---------------------------------------------------------------------------------------------------------------


async def test_memberships_are_those_at_the_head_that_comes_with_them(here: Place) -> None:
    await here.in_room(RoomCreated(room=A, history="all"), 1)
    await here.join(A, 1, 2)
    await here.join(B, 1, role="owner")

    assert await queries.memberships(here.pool, [1, 2, 3]) == (
        4,
        {
            1: {A: Membership(2, 2, "member", "all"), B: Membership(4, 1, "owner", "joined")},
            2: {A: Membership(3, 3, "member", "all")},
            3: {},
        },
    )
    assert await queries.memberships(here.pool, []) == (4, {})


async def test_memberships_and_head_are_one_state_while_people_come_and_go(here: Place) -> None:
    """At an odd position the person is a member, at an even one not: a hub that starts there is right from the first event on."""

    async def come_and_go() -> None:
        while True:
            await here.join(A, 1)
            await here.in_room(MemberLeft(room=A, mid=1))

    async with running(come_and_go()):
        heads = set[int]()
        while len(heads) < 50:
            head, found = await queries.memberships(here.pool, [1])
            heads.add(head)
            assert bool(found[1]) == (head % 2 == 1)


async def test_a_member_and_a_room_are_there_or_not(here: Place) -> None:
    await here.join(A, 1)

    assert await queries.member(here.pool, A, 1) == Member("member", 1, 1, 0, changed=1)
    assert await queries.member(here.pool, A, 2) is None
    assert await queries.room(here.pool, A) == Room(1, 1, True, "joined", "", 1)
    assert await queries.room(here.pool, B) is None


async def test_members_come_in_pages_with_who_is_online(here: Place) -> None:
    await here.join(A, 3, 1, 2, -5)
    await here.in_session(1, SessionOpened(key="phone", node="n"))
    await here.in_session(2, SessionOpened(key="phone", node="gone"))
    await nodes.register(here.pool, NODE)
    await follow(here)

    first = await queries.members_page(here.pool, A, None, 2)
    assert [MemberLine(-5, "member", 4, False), MemberLine(1, "member", 2, True)] == first
    assert [2, 3] == [line.mid for line in await queries.members_page(here.pool, A, 1, 9)]
    assert [] == await queries.members_page(here.pool, A, 3, 9)


# --- inbox ---------------------------------------------------------------------------------------------------------------------


async def test_the_inbox_shows_each_room_with_what_is_unread_and_the_newest_message(here: Place) -> None:
    await here.join(B, 1, 2)
    (_, last) = await here.send(B, 2, 2)
    await here.join(B, 3)
    await here.send(A, 9)
    await here.join(A, 1)
    await follow(here)

    page = await queries.inbox_page(here.pool, 1, "", 9)

    assert page == [
        InboxLine(A, "member", head=2, since_seq=2, read_seq=2, unread=0, mentions=0, last=None, amendment=None),
        InboxLine(B, "member", head=5, since_seq=1, read_seq=1, unread=2, mentions=0, last=last, amendment=None),
    ]
    assert [B] == [line.room for line in await queries.inbox_page(here.pool, 1, A, 9)]
    assert [A] == [line.room for line in await queries.inbox_page(here.pool, 1, "", 1)]


async def test_the_newest_message_is_one_that_the_person_may_see(here: Place) -> None:
    """In a room that shows its history, any; else none from before the join."""
    await here.in_room(RoomCreated(room=A, history="all"))
    (old,) = await here.send(A, 2)
    await here.send(B, 2)
    await here.join(A, 1)
    await here.join(B, 1)
    await follow(here)

    shown = {line.room: (line.last, line.unread) for line in await queries.inbox_page(here.pool, 1, "", 9)}

    assert {A: (old, 0), B: (None, 0)} == shown


async def test_a_room_joined_a_moment_ago_is_there_before_its_row_is(here: Place) -> None:
    """The rows of the inbox follow a little later; until then nothing of an earlier membership may be counted."""
    await here.send(A, 2, 4)
    await here.join(A, 1)
    await here.send(A, 2, 3)
    await here.mark(A, 1, 7)
    await follow(here)
    await here.in_room(MemberRemoved(room=A, mid=1))
    await here.join(A, 1)
    await here.send(A, 2, 2)

    behind = await queries.inbox_page(here.pool, 1, "", 9)
    await follow(here)

    assert [(10, 10, 2)] == [(line.since_seq, line.read_seq, line.unread) for line in behind]
    assert behind == await queries.inbox_page(here.pool, 1, "", 9)


async def test_unread_counts_what_others_said_after_the_mark(here: Place) -> None:
    await here.join(A, 1, 2)
    await here.send(A, 2, 3)
    await here.send(A, 1, 2)
    await here.send(A, SERVICE_MID)
    await here.send(A, 2)
    for mark, unread in ((0, 5), (1, 5), (3, 4), (4, 3), (6, 2), (7, 2), (5, 2), (8, 1), (99, 0)):
        await here.mark(A, 1, mark)
        await follow(here)
        assert [unread] == [line.unread for line in await queries.inbox_page(here.pool, 1, "", 9)], mark


async def test_the_facts_of_a_mark_are_exact_whatever_the_lag(here: Place) -> None:
    """Own messages are counted on from the mark before, or from the join when that mark is not in the rows or of an earlier time."""
    await here.join(A, 1, 2)
    await here.send(A, 1, 2)
    await here.send(A, 2, 2)

    async def expect(*facts: ReadFacts) -> None:
        assert [await queries.read_facts(here.pool, A, 1, fact.seq) for fact in facts] == list(facts)

    await expect(ReadFacts(2, 0, 0), ReadFacts(3, 1, 1), ReadFacts(4, 2, 2), ReadFacts(6, 4, 2))
    await follow(here)
    await here.mark(A, 1, 3)
    await expect(ReadFacts(4, 2, 2), ReadFacts(6, 4, 2))
    await follow(here)
    await expect(ReadFacts(4, 2, 2), ReadFacts(6, 4, 2))

    await here.in_room(MemberLeft(room=A, mid=1))
    await here.join(A, 1)
    await here.send(A, 1)
    await expect(ReadFacts(9, 5, 1))
    await follow(here)
    await expect(ReadFacts(9, 5, 1))


async def test_a_mark_covers_no_more_than_there_is(here: Place) -> None:
    await here.join(A, 1)
    await here.send(A, 2)

    assert await queries.read_facts(here.pool, A, 1, 2**63 - 1) == ReadFacts(2, 1, 0)
    assert await queries.read_facts(here.pool, A, 2, 1) is None
    assert await queries.read_facts(here.pool, B, 1, 1) is None


# --- sessions --------------------------------------------------------------------------------------------------------------------


async def test_sessions_are_online_until_their_comet_is_declared_dead(here: Place) -> None:
    live = ("live://1", "live://2", "other://1")
    await here.in_session(1, SessionOpened(key="phone", node="n", address="10.0.0.1", rooms=live[:1]))
    await here.in_session(1, SessionOpened(key="web", node="n", address="10.0.0.1", rooms=live))
    await here.in_session(2, SessionOpened(key="phone", node="n", address="10.0.0.2", rooms=()))
    await here.in_session(3, SessionOpened(key="phone", node="gone", address="10.0.0.3", rooms=live))
    await follow(here)
    nobody = {"live://1": 0, "live://9": 0}
    assert await queries.online_total(here.pool) == OnlineTotal(0, 0)
    assert await queries.online_rooms(here.pool, list(nobody)) == nobody

    await nodes.register(here.pool, NODE)

    assert await queries.online_total(here.pool) == OnlineTotal(addresses=2, connections=3)
    assert await queries.online_rooms(here.pool, list(nobody)) == {"live://1": 2, "live://9": 0}
    assert await queries.online_elsewhere(here.pool, list(nobody), "n") == nobody
    assert await queries.online_top(here.pool, "live", 9) == [("live://1", 2), ("live://2", 1)]
    assert await queries.online_top(here.pool, "live", 1) == [("live://1", 2)]
    found = await queries.sessions_of(here.pool, [1, 3])
    assert {mid: [session.key for session in sessions] for mid, sessions in found.items()} == {
        1: ["phone", "web"],
        3: [],
    }
    assert found[1][1].rooms == live


async def test_nobody_is_offline_because_the_database_was_away_for_longer_than_a_lease(here: Place) -> None:
    """Nobody could renew; in the moments before they do, whoever asks was told that everybody is offline. A lease that ran out is a
    question, and the reaper answers it."""
    await here.in_session(1, SessionOpened(key="phone", node="n", address="10.0.0.1", rooms=("live://1",)))
    await nodes.register(here.pool, NODE)
    await follow(here)
    await here.pool.execute("UPDATE nodes SET lease_until = now() - interval '1 hour'")

    assert await queries.online_total(here.pool) == OnlineTotal(addresses=1, connections=1)
    assert await queries.online_rooms(here.pool, ["live://1"]) == {"live://1": 1}
    assert len((await queries.sessions_of(here.pool, [1]))[1]) == 1

    await nodes.unregister(here.pool, "n")

    assert await queries.online_total(here.pool) == OnlineTotal(0, 0)


async def test_marks_of_delivery_outlive_the_session(here: Place) -> None:
    opened = await here.in_session(1, SessionOpened(key="phone", node="n"))
    await here.in_session(1, DeliveryAcked(key="web", position=1))
    await here.in_session(1, SessionClosed(key="phone", opened=opened.position, reason="left", delivered=2))
    await follow(here)

    assert await queries.delivered(here.pool, [1, 2]) == {(1, "phone"): 2, (1, "web"): 1}


async def test_departures_are_known_at_once_and_until_the_next_join(here: Place) -> None:
    """Of each person those after a position of its own."""
    await here.join("group://a", 1, 2)
    await here.join("group://b", 1)
    left = await here.in_room(MemberLeft(room="group://a", mid=1), 1)
    removed = await here.in_room(MemberRemoved(room="group://b", mid=1), 9)
    await here.in_room(MemberRemoved(room="group://a", mid=2), 9)
    both = {
        "group://a": Departure(left.position, 1, removed=False),
        "group://b": Departure(removed.position, 9, removed=True),
    }

    assert {1: both, 3: {}} == await queries.departed(here.pool, {1: 0, 3: 0})
    assert {1: {"group://b": both["group://b"]}, 2: {}} == await queries.departed(
        here.pool, {1: left.position, 2: removed.position + 1}
    )
    await here.join("group://b", 1)
    assert {1: {"group://a": both["group://a"]}} == await queries.departed(here.pool, {1: 0})


async def test_open_sessions_are_told_with_their_openings(here: Place) -> None:
    phone, web, other = [
        await here.in_session(mid, SessionOpened(key=key, node="n"))
        for mid, key in ((1, "phone"), (1, "web"), (2, "web"))
    ]
    await here.in_session(1, SessionClosed(key="phone", opened=phone.position, reason="left", delivered=None))
    await follow(here)

    assert await queries.opened(here.pool, [1, 2, 3]) == {(1, "web"): web.position, (2, "web"): other.position}


async def test_a_dismissed_room_is_in_nobodys_list_and_its_end_is_known(here: Place) -> None:
    await here.join(A, 1, 2)
    await here.join(B, 1)
    end = await here.in_room(RoomDismissed(room=A), 9)
    await follow(here)

    head, found, ended = await queries.memberships_and_ends(here.pool, [1, 2])

    assert (end.position, {B}, set()) == (head, set(found[1]), set(found[2]))
    assert {1: {A: Departure(end.position, 9, removed=True)}, 2: {A: Departure(end.position, 9, removed=True)}} == ended
    assert await queries.member(here.pool, A, 1) is None
    assert await queries.read_facts(here.pool, A, 1, 1) is None
    assert [B] == [line.room for line in await queries.inbox_page(here.pool, 1, "", 9)]
    assert [B] == [line.room for line in await queries.directory_page(here.pool, "", "", 9)]


async def test_the_directory_is_searched_by_title_and_by_the_beginning_of_the_name(here: Place) -> None:
    for name, title in (("lunch", ""), ("a", "Lunch and Tea"), ("b", "Ｂüro 群"), ("hidden", "lunch")):
        fact = RoomCreated(room=f"group://{name}", title=title, public=name != "hidden")
        await here.in_room(fact, 1)

    async def found(search: str, after: str = "", limit: int = 9) -> list[str]:
        return [line.room[8:] for line in await queries.directory_page(here.pool, after, search, limit)]

    assert ["a", "lunch"] == await found("LUNCH")
    assert ["a"] == await found("tea")
    assert ["b"] == await found("群")
    assert [] == await found("unch%")
    assert ["a", "b", "lunch"] == await found("")
    assert ["b"] == await found("", "group://a", 1)


async def test_changes_of_the_list_are_each_person_once_as_it_is_now(here: Place) -> None:
    await here.join(A, 1, 2, 3)
    version = (await here.reader.head()).position
    assert [] == await queries.changes(here.pool, A, version, 9)
    await here.in_room(RoleChanged(room=A, mid=2, role="admin"), 1)
    await here.in_room(MemberRemoved(room=A, mid=1), 2)
    (joined,) = await here.join(A, 4)
    muted = await here.in_room(MemberMuted(room=A, mid=2, until_ms=9), 1)

    found = await queries.changes(here.pool, A, version, 9)

    assert [(1, None, None), (4, "member", 0), (2, "admin", 9)] == [
        (one.mid, one.role, one.muted_until_ms) for one in found
    ]
    assert [joined.position, muted.position] == [one.position for one in found[1:]]
    assert found[:2] == await queries.changes(here.pool, A, version, 2)


# --- plans -----------------------------------------------------------------------------------------------------------------------

ROOMS, MEMBERS_OF_EACH, MESSAGES_OF_EACH = 20_000, 10, 5
BIG_ROOM = 5  # everybody is in it, and 50,000 messages
FILES = 100_000  # of the big room
WELL_READ = 30_001  # is in 1,000 rooms and has read everything
SEED = f"""
INSERT INTO streams (name, seq, position, messages)
SELECT 'room:group://' || r, {MESSAGES_OF_EACH}, {MESSAGES_OF_EACH} * r, {MESSAGES_OF_EACH} FROM generate_series(1, {ROOMS}) r;
UPDATE streams SET seq = 50000, messages = 50000, position = 1050000 WHERE name = 'room:group://{BIG_ROOM}';
INSERT INTO checkpoints SELECT 'inbox', max(position) - 3 FROM streams;
INSERT INTO rooms SELECT 'group://' || r, 1, 1, true, 'joined', '', {MEMBERS_OF_EACH} FROM generate_series(1, {ROOMS}) r;
INSERT INTO members SELECT 'group://' || r, (r * 7 + m) % 20000 + 1, 'member', 1, 1, 0
FROM generate_series(1, {ROOMS}) r, generate_series(1, {MEMBERS_OF_EACH}) m WHERE r <> {BIG_ROOM};
INSERT INTO members SELECT 'group://{BIG_ROOM}', mid, 'member', 1, 1, 0 FROM generate_series(1, 20000) mid;
INSERT INTO inbox (mid, room, since_seq, read_seq, seen, sent, sent_seen)
SELECT mid, room, 1, CASE room WHEN 'group://{BIG_ROOM}' THEN 40000 ELSE 1 END, 1, 0, 0 FROM members
WHERE (mid, room) <> (40, 'group://{BIG_ROOM}');
INSERT INTO deliveries SELECT mid, 'phone', 1 FROM generate_series(1, 20000) mid;
INSERT INTO departures SELECT mid, 'group://' || r, r, 0, true FROM generate_series(1, 20000) mid, generate_series(1, 3) r;
INSERT INTO sessions SELECT mid, 'phone', mid, 'n', '', '10.0.0.1', '{{}}', 0 FROM generate_series(1, 20000) mid;
INSERT INTO seen SELECT mid, 1 FROM generate_series(1, 20000) mid;
INSERT INTO visibility SELECT mid * 100, 'contacts' FROM generate_series(1, 200) mid;
INSERT INTO nodes VALUES ('n', '', '', 1, 1, 1, '', 1, 0, 0, now(), now() + '1 day', 15);
INSERT INTO events (position, stream_id, seq, messages, type, version, mid, key, op, format, recorded_at, body)
SELECT (r - 1) * {MESSAGES_OF_EACH} + n, s.id, n, n, 'message_sent', 1, n % 50 + 1, '', 1000, 1, now(), 'hello'
FROM generate_series(1, {ROOMS}) r JOIN streams s ON s.name = 'room:group://' || r, generate_series(1, {MESSAGES_OF_EACH}) n
WHERE r <> {BIG_ROOM};
INSERT INTO events (position, stream_id, seq, messages, type, version, mid, key, op, format, recorded_at, body)
SELECT 1000000 + n, s.id, n, n, 'message_sent', 1, n % 50 + 1, '', 1000, 1, now(), 'hello'
FROM generate_series(1, 50000) n JOIN streams s ON s.name = 'room:group://{BIG_ROOM}';
INSERT INTO members SELECT 'group://' || r * 20, {WELL_READ}, 'member', 1, 1, 0 FROM generate_series(1, 1000) r;
INSERT INTO inbox SELECT {WELL_READ}, room, 1, {MESSAGES_OF_EACH}, {MESSAGES_OF_EACH}, 0, 0 FROM members WHERE mid = {WELL_READ};
INSERT INTO mentions SELECT m, 'group://' || r, seq, 1, 1
FROM generate_series(1, {ROOMS}) r, generate_series(1, {MESSAGES_OF_EACH}) seq, unnest(ARRAY[0, 40, {WELL_READ}]) m;
INSERT INTO amendments SELECT 'group://' || r, seq, 0, 0, 0, 0, '', seq % 2, 1
FROM generate_series(1, {ROOMS}) r, generate_series(1, {MESSAGES_OF_EACH}) seq;
INSERT INTO bans SELECT 'group://{BIG_ROOM}', mid, 1, 1, 0, '' FROM generate_series(1, 20000) mid;
INSERT INTO invitations SELECT 'group://' || r, mid, 1, 1, 0 FROM generate_series(1, 5) r, generate_series(1, 20000) mid;
INSERT INTO join_requests SELECT 'group://{BIG_ROOM}', mid, 1, '', 0 FROM generate_series(1, 20000) mid;
INSERT INTO blocks SELECT 7, mid, 0 FROM generate_series(1, 20000) mid;
INSERT INTO attachments
SELECT md5(n::text), 'group://{BIG_ROOM}', CASE WHEN n <= 3 THEN 999 ELSE n % 50 + 1 END, 'a', 'text/plain', 1, '', NULL, NULL, n, 0
FROM generate_series(1, {FILES}) n;
INSERT INTO attachments SELECT md5('other' || n), 'group://' || n, 1, 'a', 'text/plain', 1, '', NULL, NULL, {FILES} + n, 0
FROM generate_series(10, {ROOMS}) n;
ANALYZE streams, rooms, members, inbox, deliveries, departures, sessions, seen, visibility, nodes, events;
ANALYZE bans, invitations, join_requests, blocks, mentions, amendments, attachments;
"""
STORM = f"ARRAY[{', '.join(map(str, range(1, 201)))}]::bigint[]"
QUERIES = {  # what is asked, for whom, and how many blocks that may take
    "memberships": (queries.MEMBERSHIPS, "ARRAY[5, 6, 7]::bigint[]", 300),
    "memberships of a storm": (queries.MEMBERSHIPS, STORM, 12_000),
    "delivered": (queries.DELIVERED, "ARRAY[5, 6, 7]::bigint[]", 20),
    "departed": (queries.DEPARTED, "ARRAY[5, 6, 7]::bigint[], ARRAY[0, 1, 2]::bigint[]", 30),
    "opened": (queries.OPENED, "ARRAY[5, 6, 7]::bigint[]", 20),
    "member": (queries.MEMBER, "'group://5', 40", 10),
    "room": (queries.ROOM_ROW, "'group://5'", 10),
    "standing": (queries.STANDING, "'group://5', 40", 20),
    "changes": (queries.CHANGES, "'group://3', 2, 500", 600),
    "directory": (queries.DIRECTORY, "'group://5', '', 50", 80),
    "bans": (queries.BANS_PAGE, "'group://5', 3, 50, 0", 20),
    "invitations": (queries.INVITATIONS_PAGE, "'group://5', 3, 50", 80),
    "invited": (queries.INVITED_PAGE, "7, '', 50", 60),
    "requests": (queries.REQUESTS_PAGE, "'group://5', 3, 50", 20),
    "blocks": (queries.BLOCKS_PAGE, "7, 3, 50", 20),
    "members_page": (queries.MEMBERS_PAGE, "'group://5', 3, 50, 40, 200", 600),
    "inbox_page": (queries.INBOX_PAGE, "40, '', 50", 500),
    "inbox_page of 1,000 rooms": (queries.INBOX_PAGE, f"{WELL_READ}, '', 1000", 16_500),
    "mentions of 1,000 rooms": (queries.MENTIONS, f"{WELL_READ}, 9223372036854775807, false, 50", 45_000),
    "files": (queries.ATTACHMENTS_PAGE, f"'group://5', {2**62}, 0, 40, 51", 60),
    "files of who joined late": (queries.ATTACHMENTS_PAGE, f"'group://5', {2**62}, {FILES - 10}, 999, 51", 30),
    "files of who joined late and stored many": (
        queries.ATTACHMENTS_PAGE,
        f"'group://5', {2**62}, {FILES - 10}, 7, 51",
        120,
    ),
    "files in the middle of one's own": (queries.ATTACHMENTS_PAGE, f"'group://5', 50000, {FILES - 10}, 7, 51", 120),
    "read_facts": (queries.READ_FACTS, "'group://5', 41, 40050", 30),
    "devices": (queries.DEVICES, "ARRAY[5, 6, 7]::bigint[]", 20),
    "seen": (queries.SEEN, "ARRAY[5, 6, 7]::bigint[]", 20),
    "sights of one": (queries.SIGHTS, f"array_fill(5::bigint, ARRAY[200]), {STORM}, 200", 16_000),
    "sights of many": (queries.SIGHTS, f"{STORM}, array_fill(5::bigint, ARRAY[200]), 200", 16_000),
    "room_devices": (queries.ROOM_DEVICES, "'group://7', 50, false", 200),
    "sessions_of": (queries.SESSIONS_OF, "ARRAY[5, 6, 7]::bigint[]", 20),
}
PAGE = f"{STORM}, ARRAY[{', '.join([repr(f'group://{BIG_ROOM}')] * 200)}]"
QUERIES["rows of a page"] = RowTable(inbox.projection).load_query, PAGE, 2_000
BIG = {"members", "inbox", "deliveries", "departures", "sessions", "seen", "mentions", "amendments", "attachments"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def full(server: Server, template: str) -> AsyncIterator[Pool]:
    """A database with 20,000 rooms, 220,000 memberships and 150,000 messages, each of the first 100,000 amended and naming people."""
    async with server.database(template) as url:
        connection = await connect(url)
        await connection.execute(SEED)
        await connection.close()
        async with create_pool(url) as pool:
            yield pool


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", QUERIES)
async def test_queries_find_their_rows_through_an_index(full: Pool, name: str, mode: str) -> None:
    """With the parameters known, and with a plan that is kept for all parameters, as it is after five executions.

    No table that grows is read as a whole, and no more of an index than is wanted: the count of blocks tells.
    """
    query, arguments, blocks_max = QUERIES[name]
    async with full.acquire() as connection, connection.transaction():
        plan, told = await explained(connection, mode, query, arguments)
    read_whole = {scan["Relation Name"] for scan in scans(plan) if scan["Node Type"] == "Seq Scan"}

    assert not {table for table in read_whole if table in BIG or table.startswith("events")}, told
    assert plan["Actual Rows"] > 0
    assert blocks(plan) <= blocks_max, told


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", ["inbox_page of 1,000 rooms", "mentions of 1,000 rooms"])
async def test_an_inbox_costs_its_rooms_where_most_people_have_only_one(full: Pool, name: str, mode: str) -> None:
    """The planner expects one row for a person then; what it does for each of these it does 1,000 times for this one."""
    query, arguments, blocks_max = QUERIES[name]
    async with full.acquire() as connection:
        there = connection.transaction()
        await there.start()
        for table in ("members", "inbox"):
            await connection.execute(f"ALTER TABLE {table} ALTER mid SET (n_distinct = -1)")
            await connection.execute(f"ANALYZE {table}")
        plan, told = await explained(connection, mode, query, arguments)
        await there.rollback()

    assert plan["Actual Rows"] in (50, 1_000)
    assert blocks(plan) <= blocks_max, told


async def explained(connection: Connection, mode: str, query: str, arguments: str) -> tuple[dict[str, Any], str]:
    """The plan of a query and what it took; and the same as text."""
    await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
    await connection.execute(f"PREPARE asked AS {query}")
    told = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE asked({arguments})")
    await connection.execute("DEALLOCATE asked")
    (found,) = json.loads(told)
    return found["Plan"], told


def blocks(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Relation Name" in plan:
        yield plan
    for child in plan.get("Plans", ()):
        yield from scans(child)
