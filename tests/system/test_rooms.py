"""Rooms and people, over connections of every kind: who hears what, who is told what, and what nobody hears."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from system.checking import History, assert_sound, visit_of
from system.clients import (
    CHANGE_ROOM,
    FORMS,
    HEARTBEAT,
    HISTORY,
    INBOX,
    LEAVE,
    MEMBERS,
    READ,
    SEND,
    Client,
    Clients,
    Form,
    Refused,
)
from system.servers import Backend, Server
from waiting import eventually

V2: tuple[Form, ...] = ("v2 tcp", "v2 ws", "json")
BAD_CURSORS = {
    "epoch": ["000000000000.5", "x", ".", "no dots at all", "é.1"],
    "too_far": [".999999999999", ".-1", ".1e3", ".٣", f".{'9' * 200}", "."],
}


# --- devices ---


async def test_every_device_of_a_person_gets_everything_and_none_gets_its_own_words_back(
    server: Server, api: Backend, connecting: Clients
) -> None:
    """Five devices, one of each kind: what one says the other four hear, and what others say all five hear."""
    mid, friend, room = server.new_mid(), server.new_mid(), server.new_room()
    await api.create(room, mid, friend)
    devices = [await connecting.connect(server, form, mid=mid, key=form) for form in FORMS]
    other = await connecting.connect(server, "json", mid=friend)
    for n, device in enumerate(devices):
        await device.send(room, f"{n} says")
        await other.send(room, f"answer to {n}")
    await api.push("mids", 1000, b"the end", mids=[mid])

    spoken = [words for n in range(len(devices)) for words in (f"{n} says", f"answer to {n}")]
    for n, device in enumerate(devices):
        await device.until_heard("the end")
        expected = [words for words in spoken if words != f"{n} says"]
        assert [*expected, "the end"] == device.texts
    await other.until_said(len(devices))
    assert [words for words in spoken if "says" in words] == other.texts


@pytest.mark.parametrize("form", V2)
async def test_a_second_connection_of_a_key_takes_over_and_says_so_to_the_first(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    """The first is told not to come back. The second goes on after the cursor that it brings."""
    mid = server.new_mid()
    first = await connecting.connect(server, form, mid=mid, key="k")
    await api.push("mids", 1000, b"one", mids=[mid])
    await first.until_said(1)
    cursor = await first.ack()
    await api.push("mids", 1000, b"two", mids=[mid])
    await first.until_said(2)
    second = await connecting.connect(server, form, mid=mid, key="k", cursor=cursor)
    await api.push("mids", 1000, b"three", mids=[mid])

    assert 4409 == await first.until_gone()
    assert ("taken_over", False) == first.told
    assert ["two", "three"] == await second.until_said(2)
    assert ["one", "two"] == first.said
    assert [("k", "test")] == [(one["key"], one["platform"]) for one in await api.sessions_once(mid, 1)]


async def test_of_many_connections_of_a_key_at_once_one_is_left(
    server: Server, api: Backend, connecting: Clients
) -> None:
    mid = server.new_mid()
    key = f"one of {mid}"
    attempts = [connecting.connect(server, FORMS[n % len(FORMS)], mid=mid, key=key) for n in range(10)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    made = [one for one in outcomes if isinstance(one, Client)]
    (session,) = await api.sessions_once(mid, 1)
    await api.push("keys", 1000, b"to the one", keys=[key])

    async def heard() -> list[Client]:
        return [client for client in made if client.said]

    assert key == session["key"]
    await eventually(heard)
    gone = [client for client in made if not client.said]
    for client in gone:
        await client.until_gone()
        assert client.code in (4409, None)
    assert len(made) - 1 == len(gone)


# --- live rooms ---


@pytest.mark.parametrize("form", FORMS)
async def test_in_live_rooms_one_hears_what_is_said_while_one_is_there(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    """Entered by auth, by changing rooms, and by joining beside the others; left by any of those ways; several at a time."""
    one, two, three = (server.new_room("live") for _ in range(3))
    client = await connecting.connect(server, form, mid=server.new_mid(), room=one)

    async def announce(moment: str) -> None:
        for room in (one, two, three):
            await api.push_room(room, 1000, f"{room} {moment}".encode())

    await announce("in one")
    place = await client.join(two)
    await announce("in one and two")
    assert {"online": 1} == await client.ask(HEARTBEAT)
    assert {} == await client.ask(CHANGE_ROOM, three)
    await announce("in two and three")
    await client.leave(two)
    await announce("in three")
    await client.leave(three)
    await announce("in none")
    with pytest.raises(Refused) as refused:
        await client.leave(three)
    await client.join(one)
    await api.push_room(one, 1000, b"the end")

    heard = [f"{one} in one", f"{one} in one and two", f"{two} in one and two", f"{two} in two and three",
             f"{three} in two and three", f"{three} in three", "the end"]  # fmt: skip
    await client.until_said(len(heard))
    assert heard == client.texts
    assert "no_such_room" == refused.value.code
    assert place["position"] > 0


@pytest.mark.parametrize("form", V2)
async def test_a_client_says_at_once_which_live_rooms_it_is_in(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    rooms = [server.new_room("live") for _ in range(3)]
    client = await connecting.connect(server, form, mid=server.new_mid(), room=rooms[0], rooms=rooms[1:])
    for room in rooms:
        await api.push_room(room, 1000, room.encode())

    assert rooms == client.welcome["rooms"]
    assert rooms == await client.until_said(3)


async def test_who_is_not_in_a_live_room_cannot_speak_there(server: Server, connecting: Clients) -> None:
    room = server.new_room("live")
    inside = await connecting.connect(server, "json", mid=server.new_mid(), room=room)
    outside = await connecting.connect(server, "v2 tcp", mid=server.new_mid())
    with pytest.raises(Refused) as refused:
        await outside.send(room, "hello?")
    await outside.join(room)
    await outside.send(room, "hello")

    assert "no_such_room" == refused.value.code
    assert ["hello"] == await inside.until_said(1)


# --- groups ---


@pytest.mark.parametrize("form", FORMS)
async def test_joining_and_leaving_over_the_connection(server: Server, connecting: Clients, form: Form) -> None:
    """A join is answered with its place, twice with the same; nothing is heard from before it, nothing after the leave."""
    room = server.new_room()
    owner = await connecting.connect(server, "json", mid=server.new_mid(), room=room)
    await owner.send(room, "before")
    client = await connecting.connect(server, form, mid=server.new_mid(), key="k")
    with pytest.raises(Refused) as refused:
        await client.send(room, "not yet")
    first = await client.join(room)
    again = await client.join(room)
    await owner.send(room, "during")
    await client.send(room, "me too")
    left = await client.leave(room)
    await owner.send(room, "after")
    with pytest.raises(Refused):
        await client.send(room, "not any more")
    with pytest.raises(Refused):
        await client.leave(room)
    await owner.join(server.new_room())
    back = await client.join(room)
    await owner.send(room, "the end")
    await client.until_heard("the end")
    await owner.until(lambda: owner.events[-1].position == back["position"], "told that it is back")

    assert "no_such_room" == refused.value.code
    assert first | {"duplicate": True} == again
    assert first["seq"] + 3 == left["seq"]
    assert left["seq"] + 2 == back["seq"]
    assert ["during", "the end"] == client.texts
    history = History(await server.events())
    assert_sound(history, [visit_of(owner, history, is_whole=True)])


@pytest.mark.parametrize("form", V2)
async def test_who_is_thrown_out_is_told_and_hears_nothing_more(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    """On all devices, with who did it; also what the history has is closed to it, and what was said while it was in stays its own."""
    room, mid = server.new_room(), server.new_mid()
    owner = await connecting.connect(server, "v2 tcp", mid=server.new_mid(), room=room)
    await api.add(room, mid)
    devices = [await connecting.connect(server, form, mid=mid, key=f"{n}") for n in range(2)]
    await owner.send(room, "heard")
    kick = await api.kick(room, mid)
    for n in range(5):
        await owner.send(room, f"unheard {n}")
    await api.push("mids", 1000, b"the end", mids=[mid])

    notice = {"room": room, "position": kick["position"], "type": "member_removed", "by": 0}
    for device in devices:
        await device.until_heard("the end")
        assert ["heard", "the end"] == device.said
        assert [notice] == device.removals
        for op, body in (
            (HISTORY, {"room": room}),
            (MEMBERS, {"room": room}),
            (SEND, _message(room)),
            (LEAVE, {"room": room}),
        ):
            with pytest.raises(Refused) as refused:
                await device.ask(op, body)
            assert "no_such_room" == refused.value.code


async def test_who_leaves_on_one_device_is_told_on_the_others(server: Server, connecting: Clients) -> None:
    mid, room = server.new_mid(), server.new_room()
    here, there = [await connecting.connect(server, "json", mid=mid, key=key, room=room) for key in ("here", "there")]
    left = await here.leave(room)
    for device in (here, there):
        await device.until(lambda device=device: device.removals)  # type: ignore[misc]

    assert [{"room": room, "position": left["position"], "type": "member_left", "by": mid}] == there.removals
    assert there.removals == here.removals


async def test_of_a_room_that_does_not_exist_one_hears_the_same_as_of_one_that_is_closed_to_one(
    server: Server, api: Backend, connecting: Clients
) -> None:
    private, nowhere = server.new_room(), server.new_room()
    await api.create(private, server.new_mid(), public=False)
    client = await connecting.connect(server, "json", mid=server.new_mid())

    async def answers(room: str) -> list[str]:
        told = []
        for op, body in ((HISTORY, {"room": room}), (MEMBERS, {"room": room}), (SEND, _message(room)), (LEAVE, {"room": room}),
                         (READ, {"room": room, "seq": 1})):  # fmt: skip
            with pytest.raises(Refused) as refused:
                await client.ask(op, body)
            told.append(str(refused.value))
        return told

    assert await answers(nowhere) == await answers(private)
    with pytest.raises(Refused):
        await client.join(private)


# --- what is read ---


@pytest.mark.parametrize("form", FORMS)
async def test_the_inbox_counts_what_is_unread_and_the_mark_is_the_persons(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    """Own words are not unread; a mark on one device is the mark on all, and never goes back."""
    mid, room = server.new_mid(), server.new_room()
    await api.create(room, mid)
    owner = await connecting.connect(server, "json", mid=server.new_mid(), room=room)
    client = await connecting.connect(server, form, mid=mid)
    other = await connecting.connect(server, "json", mid=mid)

    async def inbox(device: Client) -> tuple[int, int, int, object]:
        (line,) = (await device.ask(INBOX, {}))["rooms"]
        return line["head"], line["read"], line["unread"], line["last"] and line["last"]["body"]

    assert (3, 2, 0, None) == await inbox(client)  # the room, its first member, the owner
    for n in range(3):
        await owner.send(room, f"{n}")
    mine = await client.send(room, "mine")
    assert (7, 2, 3, "mine") == await inbox(client)
    assert {"room": room, "seq": 5, "unread": 1} == await client.ask(READ, {"room": room, "seq": 5})
    assert {"room": room, "seq": 5, "unread": 1} == await other.ask(READ, {"room": room, "seq": 4})
    assert {"room": room, "seq": 7, "unread": 0} == await other.ask(READ, {"room": room, "seq": 10**9})
    assert (7, 7, 0, "mine") == await inbox(client)
    assert 7 == mine["seq"]
    (page,) = [await client.ask(HISTORY, {"room": room, "before": 6, "limit": 2})]
    assert (["0", "1"], True, 7) == ([one["body"] for one in page["events"]], page["more"], page["head"])
    if form in V2:
        marks = [event for event in client.events if event.type == "read_marked"]
        await client.until(lambda: len([event for event in client.events if event.type == "read_marked"]) >= 2)
        assert all(mark.stream == f"user:{mid}" for mark in marks)


# --- cursors ---


@pytest.mark.parametrize("form", V2)
@pytest.mark.parametrize("reason", BAD_CURSORS)
async def test_a_cursor_that_leads_nowhere_is_told_so_and_the_connection_goes_on_from_now(
    server: Server, api: Backend, connecting: Clients, form: Form, reason: str
) -> None:
    """Of another log, beyond the end of this one, or of nobody's making: never "recovered" with a hole."""
    mid = server.new_mid()
    first = await connecting.connect(server, form, mid=mid, key="k")
    epoch = first.welcome["epoch"]
    await api.push("mids", 1000, b"while it was there", mids=[mid])
    await first.until_said(1)
    for bad in BAD_CURSORS[reason]:
        cursor = f"{epoch}{bad}" if reason == "too_far" else bad
        await api.push("mids", 1000, b"missed", mids=[mid])
        client = await connecting.connect(server, form, mid=mid, key="k", cursor=cursor)
        await api.push("mids", 1000, b"from now on", mids=[mid])

        assert (False, reason) == (client.welcome["recovered"], client.welcome["reason"]), cursor
        assert ["from now on"] == await client.until_said(1)
        assert client.cursor == f"{epoch}.{client.welcome['position']}"


@pytest.mark.parametrize("form", V2)
async def test_a_good_cursor_leads_to_exactly_what_came_after_it(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    """From any point, as often as one likes, on any device."""
    mid = server.new_mid()
    key = f"k of {mid}"
    client = await connecting.connect(server, form, mid=mid, key=key)
    cursors = [client.cursor]
    for n in range(5):
        await api.push("mids", 1000, b"%d" % n, mids=[mid])
        await client.until_said(n + 1)
        cursors.append(await client.ack())

    for n, cursor in reversed(list(enumerate(cursors))):
        again = await connecting.connect(server, form, mid=mid, key=key, cursor=cursor)
        await api.push("keys", 1000, b"end", keys=[key])
        await again.until_heard("end")

        assert (True, cursor) == (again.welcome["recovered"], again.welcome["cursor"])
        assert list(range(n, 5)) == [event.body for event in again.events if event.stream == f"user:{mid}"]


@pytest.mark.parametrize("form", V2)
async def test_a_new_device_is_told_that_it_is_new(server: Server, connecting: Clients, form: Form) -> None:
    client = await connecting.connect(server, form, mid=server.new_mid(), key="k")

    assert (False, "new") == (client.welcome["recovered"], client.welcome["reason"])


@pytest.mark.parametrize("form", V2)
async def test_a_device_that_never_acked_is_not_given_what_was_said_to_everybody_before_it_came(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    """It is known, at a mark of 0; that is no claim on everything since the log began."""
    mid = server.new_mid()
    await api.push("all", 1000, b"long ago")
    for _ in range(3):
        client = await connecting.connect(server, form, mid=mid, key="k")
        await api.push("mids", 1000, b"for you", mids=[mid])
        await client.until_heard("for you")
        assert {"for you"} == set(client.texts)
        await client.bye()


@pytest.mark.parametrize("form", V2)
async def test_a_second_device_is_known_from_its_first_connect_on(
    server: Server, api: Backend, connecting: Clients, form: Form
) -> None:
    """It never acks; what the person's first device has acked since is no mark of its own."""
    mid = server.new_mid()
    first = await connecting.connect(server, form, mid=mid, key="first")
    await api.push("mids", 1000, b"before", mids=[mid])
    await first.until_heard("before")
    await first.ack()
    await first.bye()
    first = await connecting.connect(server, form, mid=mid, key="first")
    await first.ask(INBOX, {})  # answered when the rows have come to the head of the log, and so the mark is among them
    second = await connecting.connect(server, form, mid=mid, key="second")
    assert "new" == second.welcome["reason"]
    await api.push("mids", 1000, b"after", mids=[mid])
    await second.until_heard("after")
    await first.until_heard("after")
    await first.ack()
    await first.bye()
    await second.bye()

    again = await connecting.connect(server, form, mid=mid, key="second")
    await again.until_heard("after")
    assert again.welcome["recovered"]
    assert ["after"] == again.texts


async def test_only_what_was_delivered_can_be_acknowledged(server: Server, connecting: Clients) -> None:
    client = await connecting.connect(server, "json", mid=server.new_mid(), key="k")
    with pytest.raises(Refused) as refused:
        await client.ask(34, {"position": 10**12})

    assert "bad_request" == refused.value.code


def _message(room: str) -> dict[str, object]:
    return {"room": room, "id": str(uuid.uuid4()), "body": "x"}
