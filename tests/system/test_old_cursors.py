"""Cursors that are old: older than what a server keeps in memory, than partitions of the log, than what is kept at all; and what
happened to one's rooms meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from conftest import copy_cluster, temporary_folder
from imcore.database import connect
from imcore.database.embedded import embedded
from imcore.database.migrations import upgrade
from system.clients import JOIN, Client, Clients, Form
from system.servers import Backend, Server, backend, running

PARTITION_EVENTS: Final = 50_000
FILLER_EVENTS: Final = 400_000  # 24 times what a server keeps in memory; 8 partitions
SPOKEN_EACH: Final = 40_000  # fillers, for one message to the room
# As imcore_append would have left them, in a room of their own, with a message to the other room now and then.
FILL: Final = f"""
INSERT INTO streams (name) VALUES ('room:live://filler');
INSERT INTO events (position, stream_id, seq, messages, type, version, mid, key, op, format, recorded_at, body)
SELECT position, stream_id, seq + row_number() OVER place, messages + row_number() OVER place,
  'message_pushed', 1, 0, '', 1000, 0, now(), '"' || position || '"'
FROM (
  SELECT h.position + n AS position, s.id AS stream_id, s.seq, s.messages
  FROM generate_series(1, {FILLER_EVENTS}) AS n CROSS JOIN log_head h
  JOIN streams s ON s.name = CASE WHEN n % {SPOKEN_EACH} = 0 THEN $room$room:group://r$room$ ELSE 'room:live://filler' END) AS said
WINDOW place AS (PARTITION BY stream_id ORDER BY position);
UPDATE streams SET seq = head.seq, messages = head.messages, position = head.position
FROM (SELECT stream_id, max(seq) AS seq, max(messages) AS messages, max(position) AS position FROM events GROUP BY 1) AS head
WHERE id = stream_id AND streams.position < head.position;
UPDATE log_head SET position = (SELECT max(position) FROM events);
"""
ROOM: Final = "group://r"


async def with_small_partitions(folder: Path) -> None:
    """A database as a server makes it, but for the size of its partitions."""
    async with embedded(folder) as url:
        await upgrade(url)
        connection = await connect(url)
        try:
            source = await connection.fetchval("SELECT pg_get_functiondef('imcore_make_partitions'::regproc)")
            await connection.execute("DROP TABLE events_1")
            await connection.execute(source.replace("5000000", str(PARTITION_EVENTS)))
            await connection.execute("SELECT imcore_make_partitions(1)")
        finally:
            await connection.close()


async def stop(server: Server) -> None:
    server.ask_to_stop()
    assert 0 == await server.stopped()


@asynccontextmanager
async def a_year_later(cluster: Path, connecting: Clients) -> AsyncIterator[tuple[Server, Client]]:
    """A server, and somebody who was there before most of the log; it is stopped."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        await with_small_partitions(folder / "imcore")
        with running(folder, "--auth", "open") as server:
            client = await connecting.connect(server, "json", mid=1, key="k", room=ROOM)
            await client.send(ROOM, "before")
            other = await connecting.connect(server, "v2 tcp", mid=1, key="other")
            await other.until_said(1)
            client.cursor = await other.ack()
            async with server.database() as connection:
                await connection.execute("SELECT imcore_make_partitions($1)", FILLER_EVENTS * 2)
            await stop(server)
            async with embedded(folder / "imcore") as url:
                connection = await connect(url)
                await connection.execute(FILL)
                await connection.close()
            yield server, client


async def test_a_cursor_of_a_year_ago_is_as_good_as_one_of_today(cluster: Path, connecting: Clients) -> None:
    """As long as the log is kept; and then the device is told. By cursor, and by the mark of the device."""
    async with a_year_later(cluster, connecting) as (server, client):
        await server.start_again()
        head = await server.head()
        by_cursor = await connecting.connect(server, "json", mid=1, key="k", cursor=client.cursor)
        by_mark = await connecting.connect(server, "v2 tcp", mid=1, key="other")
        for one in (by_cursor, by_mark):
            await one.until_said(FILLER_EVENTS // SPOKEN_EACH)
            positions = [event.position for event in one.events if event.op]
            assert [f"{position}" for position in positions] == one.said
            assert one.welcome["recovered"]
            assert one.welcome["position"] < positions[0] <= head < one.welcome["upto"]
        newer = await by_cursor.ack()

        async with server.database() as connection:
            await connection.execute("DROP TABLE events_1, events_50001")
        await stop(server)
        await server.start_again()
        for cursor, key in ((client.cursor, "k"), ("", "third")):
            late = await connecting.connect(server, "json", mid=1, key=key, cursor=cursor)
            expected = (False, "expired" if cursor else "new")
            assert expected == (late.welcome["recovered"], late.welcome["reason"])
        assert late.welcome["position"] > PARTITION_EVENTS
        still = await connecting.connect(server, "json", mid=1, key="k", cursor=newer)
        assert still.welcome["recovered"]
        edge = f"{still.welcome['epoch']}.{2 * PARTITION_EVENTS}"
        assert (await connecting.connect(server, "json", mid=1, key="k", cursor=edge)).welcome["recovered"]
        beyond = f"{still.welcome['epoch']}.{2 * PARTITION_EVENTS - 1}"
        late = await connecting.connect(server, "json", mid=1, key="k", cursor=beyond)
        assert "expired" == late.welcome["reason"]


# --- rooms that one is no longer in --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forgetful(cluster: Path) -> Iterator[Server]:
    """A server that remembers nobody."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "open", "--set", "people_remembered_max=0") as server:
            yield server


@pytest.mark.parametrize("form", ["json", "v2 tcp"])
@pytest.mark.parametrize("has_cursor", [True, False])
@pytest.mark.parametrize("is_remembered", [True, False])
async def test_who_was_removed_while_away_is_told_and_gets_nothing_of_the_room(
    server: Server,
    forgetful: Server,
    connecting: Clients,
    form: Form,
    has_cursor: bool,
    is_remembered: bool,
) -> None:
    """Neither what came after nor what was unread: revocation wins. Of the rooms that are left nothing is missing."""
    where = server if is_remembered else forgetful
    mid, boss = where.new_mid(), where.new_mid()
    kept, lost, back = where.new_room(), where.new_room(), where.new_room()
    async with backend(where) as api:
        for room in (kept, lost, back):
            await api.create(room, boss, mid)
        client = await connecting.connect(where, form, mid=mid, key="k")
        await api.push_room(lost, 1000, b"read")
        await client.until_said(1)
        cursor = await client.ack()
        await client.bye()
        for room in (kept, lost, back):
            await api.push_room(room, 1000, b"unread")
        removed = await api.kick(lost, mid)
        await api.kick(back, mid)
        await api.add(back, mid)
        await api.push_room(lost, 1000, b"after")
        await api.push_room(kept, 1000, b"after")

        for _ in range(2):  # until it acknowledges something later
            again = await connecting.connect(where, form, mid=mid, key="k", cursor=cursor if has_cursor else "")
            assert again.welcome["recovered"]
            await again.until_said(2)
            expected = {"room": lost, "position": removed["position"], "type": "member_removed", "by": 0}
            assert [expected] == again.removals
            assert ["unread", "after"] == again.texts
            assert {kept} == {event.stream.removeprefix("room:") for event in again.events if event.op}
        await again.ack()
        await again.bye()
        last = await connecting.connect(where, form, mid=mid, key="k", cursor=again.cursor if has_cursor else "")
        await api.push_room(kept, 1000, b"last")
        await last.until_said(1)
        assert [] == last.removals
        await last.ask(JOIN, {"room": lost})
        await api.push_room(lost, 1000, b"welcome back")
        await last.until_said(2)


async def test_who_left_on_another_device_is_told_there(server: Server, api: Backend, connecting: Clients) -> None:
    mid, room = server.new_mid(), server.new_room()
    await api.create(room, mid)
    phone = await connecting.connect(server, "json", mid=mid, key="phone")
    desk = await connecting.connect(server, "json", mid=mid, key="desk")
    await phone.bye()
    await desk.ask(24, {"room": room})
    phone = await connecting.connect(server, "json", mid=mid, key="phone", cursor=phone.cursor)
    await phone.until(lambda: phone.removals)

    assert [(room, "member_left", mid)] == [(one["room"], one["type"], one["by"]) for one in phone.removals]
    assert [room] == [one["room"] for one in desk.removals]


async def test_devices_of_a_person_go_on_each_from_its_own_place_and_share_what_was_read(
    server: Server, api: Backend, connecting: Clients
) -> None:
    mid, room = server.new_mid(), server.new_room()
    await api.create(room, mid)
    devices = [await connecting.connect(server, "json", mid=mid, key=f"device {n}") for n in range(3)]
    seq = 0
    for n, device in enumerate(devices):  # each goes a message later than the one before
        await api.push_room(room, 1000, b"%d" % n)
        for one in devices[n:]:
            await one.until_said(n + 1)
        seq = device.events[-1].seq
        await device.ack()
        await device.bye()
    await api.push_room(room, 1000, b"last")

    for n, device in enumerate(devices):
        again = await connecting.connect(server, "json", mid=mid, key=device.key)
        expected = [*(str(m) for m in range(n + 1, 3)), "last"]
        await again.until_said(len(expected))
        assert expected == again.texts
        if n == 0:
            assert {"room": room, "seq": seq, "unread": 1} == await again.ask(28, {"room": room, "seq": seq})
        else:
            (line,) = (await again.ask(32, {}))["rooms"]
            assert (seq, 1) == (line["read"], line["unread"])
